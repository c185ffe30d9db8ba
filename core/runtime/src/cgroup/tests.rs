//! Tests that make real cgroups, below parents of their own.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};

use super::devices::tests::docker_rules;
use super::*;

/// A driver with a parent of its own, taken away at the end.
struct Fixture {
    driver: CgroupDriver,
    parent: String,
}

impl Fixture {
    fn new(driver: CgroupDriver) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { driver, parent: format!("/dockerd-rs-test-{}-{number}", std::process::id()) }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.parent)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.driver.drain();
        self.driver.remove(&self.parent).unwrap();
    }
}

fn defaults() -> LinuxResources {
    LinuxResourcesBuilder::default().devices(docker_rules()).build().unwrap()
}

/// A process that joins through the `tasks` files, as the container init does, then waits for its stdin to end.
fn joined(join: &JoinTarget) -> Child {
    use std::os::fd::AsFd;
    use std::os::fd::AsRawFd;
    // The test has no unsafe code, so a shell does what the init does: it writes 0 to each inherited path.
    let paths: Vec<String> = join
        .tasks
        .iter()
        .map(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).unwrap())
        .map(|path| path.to_str().unwrap().to_owned())
        .collect();
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg("for f; do printf 0 > $f || exit 1; done; echo in; exec cat")
        .arg("sh")
        .args(paths)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    child
}

fn v1() -> Option<Fixture> {
    let driver = CgroupDriver::detect().unwrap();
    (driver.mode() != CgroupMode::V2).then(|| Fixture::new(driver))
}

fn file(controller: &str, path: &str, file: &str) -> String {
    std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}{path}/{file}")).unwrap()
}

#[test]
fn paths_are_checked() {
    for bad in ["", "/", "docker/x", "/docker/../x", "/docker//x", "/docker/./x", "/a/"] {
        assert!(check_path(bad).is_err(), "{bad:?}");
    }
    assert!(check_path("/docker/x").is_ok());
}

#[test]
fn privileged_v1_default_container() {
    let Some(fixture) = v1() else { return };
    let path = fixture.path("a");
    let handle = fixture.driver.create(&path, &defaults()).unwrap();
    let list = file("devices", &path, "devices.list");
    assert_eq!(list.lines().count(), 12, "{list}");
    assert!(list.contains("c 136:* rwm") && list.contains("b *:* m") && !list.contains("a *:*"));

    let mut child = joined(&handle.join);
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(fixture.driver.pids(&path).unwrap(), [pid]);
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let inside = own.lines().filter(|line| line.ends_with(&path)).count();
    assert_eq!(inside, handle.join.tasks.len(), "{own}");
    // What a process uses is on its account when the processor is taken from it, or with the next tick.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut stats = fixture.driver.stats(&path);
    while stats.cpu.total == 0 && Instant::now() < deadline {
        std::thread::yield_now();
        stats = fixture.driver.stats(&path);
    }
    assert!(stats.pids.current == 1 && stats.pids.limit.is_none() && stats.memory.limit.is_none());
    assert!(
        stats.cpu.total > 0
            && !stats.cpu.per_cpu.is_empty()
            && stats.memory.details.contains_key("total_inactive_file")
    );
    assert_eq!(fixture.driver.oom_kills(&path), 0);
    drop(child.stdin.take());
    child.wait().unwrap();
    fixture.driver.remove(&path).unwrap();
    fixture.driver.remove(&path).unwrap();
    assert!(fixture.driver.pids(&path).unwrap().is_empty());
}

#[test]
fn privileged_v1_limits_and_update() {
    let Some(fixture) = v1() else { return };
    let path = fixture.path("b");
    let limits = |memory: i64, quota: i64, period: u64| {
        LinuxResourcesBuilder::default()
            .memory(LinuxMemoryBuilder::default().limit(memory).swap(memory * 2).build().unwrap())
            .cpu(LinuxCpuBuilder::default().quota(quota).period(period).shares(512u64).cpus("0").build().unwrap())
            .pids(LinuxPidsBuilder::default().limit(7).build().unwrap())
            .build()
            .unwrap()
    };
    fixture.driver.create(&path, &limits(64 << 20, 50_000, 100_000)).unwrap();
    assert_eq!(file("memory", &path, "memory.limit_in_bytes").trim(), "67108864");
    assert_eq!(file("memory", &path, "memory.memsw.limit_in_bytes").trim(), "134217728");
    assert_eq!(file("cpu", &path, "cpu.cfs_quota_us").trim(), "50000");
    assert_eq!(file("cpuset", &path, "cpuset.cpus").trim(), "0");
    assert!(!file("cpuset", &path, "cpuset.mems").trim().is_empty());
    assert_eq!(fixture.driver.stats(&path).pids.limit, Some(7));
    for (memory, quota, period) in [(512 << 20, 20_000, 10_000), (32 << 20, 1000, 1_000_000), (40 << 20, -1, 100_000)] {
        fixture.driver.update(&path, &limits(memory, quota, period)).unwrap();
        assert_eq!(file("memory", &path, "memory.limit_in_bytes").trim(), memory.to_string());
        assert_eq!(file("cpu", &path, "cpu.cfs_quota_us").trim(), quota.to_string());
    }
    assert!(file("devices", &path, "devices.list").contains("c 5:2 rwm"));
}

#[test]
fn privileged_v1_freeze_kill_and_take_over() {
    let Some(fixture) = v1() else { return };
    let path = fixture.path("c");
    let handle = fixture.driver.create(&path, &defaults()).unwrap();
    let mut child = joined(&handle.join);
    fixture.driver.freeze(&path).unwrap();
    assert_eq!(file("freezer", &path, "freezer.state").trim(), "FROZEN");
    fixture.driver.thaw(&path).unwrap();
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();

    // A second create of the same path ends the frozen left-over.
    fixture.driver.freeze(&path).unwrap();
    fixture.driver.create(&path, &defaults()).unwrap();
    assert!(!child.wait().unwrap().success());

    // A waiting removal does not hit a new cgroup of the same name.
    for _ in 0..50 {
        fixture.driver.remove_later(&path);
        let handle = fixture.driver.create(&path, &defaults()).unwrap();
        assert!(!handle.join.tasks.is_empty());
    }
    fixture.driver.drain();
    assert!(std::path::Path::new(&format!("/sys/fs/cgroup/pids{path}")).exists());
}

#[test]
fn privileged_v1_background_removal_kills() {
    let Some(fixture) = v1() else { return };
    let path = fixture.path("d");
    let handle = fixture.driver.create(&path, &defaults()).unwrap();
    std::fs::create_dir(format!("/sys/fs/cgroup/pids{path}/inner")).unwrap();
    let mut child = joined(&handle.join);
    fixture.driver.remove_later(&path);
    fixture.driver.drain();
    assert!(!child.wait().unwrap().success());
    assert!(!std::path::Path::new(&format!("/sys/fs/cgroup/pids{path}")).exists());
}

/// Directories of a parent that were made ahead.
fn spares_below(parent: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(format!("/sys/fs/cgroup/pids{parent}"));
    files::children(&dir).into_iter().filter(|path| path.to_string_lossy().contains("dockerd-rs-spare-")).collect()
}

/// Waits for what the thread does in a pause.
fn eventually(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come true");
        std::thread::yield_now();
    }
}

#[test]
fn privileged_v1_cgroups_made_ahead_are_like_others() {
    let Some(fixture) = v1() else { return };
    fixture.driver.create(&fixture.path("first"), &defaults()).unwrap();
    let ready = || fixture.driver.spares().unwrap().ready();
    eventually(|| ready() == 2);
    let before = spares_below(&fixture.parent);
    let limits = LinuxResourcesBuilder::default()
        .devices(docker_rules())
        .pids(LinuxPidsBuilder::default().limit(7).build().unwrap())
        .build()
        .unwrap();
    let path = fixture.path("second");
    let handle = fixture.driver.create(&path, &limits).unwrap();
    assert_eq!(before.iter().filter(|path| !path.exists()).count(), 1, "one was taken");
    for (controller, name) in
        [("devices", "devices.list"), ("cpuset", "cpuset.cpus"), ("memory", "memory.limit_in_bytes")]
    {
        assert_eq!(file(controller, &path, name), file(controller, &fixture.path("first"), name), "{name}");
    }
    assert_eq!(file("pids", &path, "pids.max").trim(), "7");
    let mut child = joined(&handle.join);
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    for hierarchy in cgroup.lines().filter(|line| !line.contains("name=") && !line.starts_with("0:")) {
        assert!(hierarchy.ends_with(&path), "{hierarchy}");
    }
    fixture.driver.remove(&path).unwrap();
    assert!(!child.wait().unwrap().success());

    // Another kind of container finds none, and then those of its own.
    let open = LinuxResources::default();
    fixture.driver.create(&fixture.path("third"), &open).unwrap();
    let before = spares_below(&fixture.parent);
    eventually(|| {
        let now = spares_below(&fixture.parent);
        ready() == 2 && now.iter().all(|path| !before.contains(path))
    });
    // What is in the way of a name is still removed first.
    let taken = fixture.path("taken");
    std::fs::create_dir(format!("/sys/fs/cgroup/pids{taken}")).unwrap();
    fixture.driver.create(&taken, &open).unwrap();
    assert_eq!(file("pids", &taken, "pids.max").trim(), "max");
    fixture.driver.drain();
    assert!(spares_below(&fixture.parent).is_empty());
}

#[test]
fn privileged_v1_cgroups_of_a_dead_maker_are_swept() {
    let Some(fixture) = v1() else { return };
    fixture.driver.create(&fixture.path("a"), &defaults()).unwrap();
    let mut child = Command::new("/bin/true").stdout(Stdio::piped()).spawn().unwrap();
    // It has ended, and is not collected before the sweep.
    std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut Vec::new()).unwrap();
    eventually(|| std::fs::read_link(format!("/proc/{}/exe", child.id())).is_err());
    let [dead, living] =
        [child.id(), std::process::id()].map(|pid| fixture.path(&format!("dockerd-rs-spare-{pid}-99")));
    for path in [&dead, &living] {
        std::fs::create_dir(format!("/sys/fs/cgroup/pids{path}")).unwrap();
    }
    // As at boot, and as any driver does with a parent it has not seen before.
    fixture.driver.sweep(&fixture.parent).unwrap();
    std::fs::create_dir(format!("/sys/fs/cgroup/freezer{dead}")).unwrap();
    let other = CgroupDriver::detect().unwrap();
    other.create(&fixture.path("b"), &defaults()).unwrap();
    other.drain();
    assert!(!std::path::Path::new(&format!("/sys/fs/cgroup/freezer{dead}")).exists());
    child.wait().unwrap();
    let there = |path: &str| std::path::Path::new(&format!("/sys/fs/cgroup/pids{path}")).exists();
    assert!(!there(&dead) && there(&living) && there(&fixture.path("a")));
}

#[test]
fn failing_limits_leave_nothing() {
    let Some(fixture) = v1() else { return };
    let path = fixture.path("e");
    let bad =
        LinuxResourcesBuilder::default().cpu(LinuxCpuBuilder::default().cpus("9999").build().unwrap()).build().unwrap();
    let error = fixture.driver.create(&path, &bad).unwrap_err();
    assert!(error.to_string().starts_with("failed to write \"9999\": write /sys/fs/cgroup/cpuset/"), "{error}");
    fixture.driver.drain();
    assert!(!std::path::Path::new(&format!("/sys/fs/cgroup/pids{path}")).exists());
}

/// On a hybrid host the version 2 tree has no controllers, but directories, freezing, killing and device programs.
#[test]
fn privileged_v2_tree() {
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(PathBuf::from)
        .into_iter()
        .find(|root| root.join("cgroup.controllers").exists());
    let Some(root) = root else { return };
    let fixture = Fixture::new(CgroupDriver::with_v2_root(root.clone()));
    let path = fixture.path("a");
    let handle = fixture.driver.create(&path, &defaults()).unwrap();
    let dir = handle.join.clone_into.unwrap();
    assert_eq!(bpf_count(&dir), 1);
    let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::fs::write(root.join(&path[1..]).join("cgroup.procs"), child.id().to_string()).unwrap();
    assert_eq!(fixture.driver.pids(&path).unwrap(), [i32::try_from(child.id()).unwrap()]);
    fixture.driver.freeze(&path).unwrap();
    fixture.driver.thaw(&path).unwrap();
    fixture.driver.freeze(&path).unwrap();
    assert!(fixture.driver.kill(&path, Duration::from_secs(5)).unwrap());
    assert!(!child.wait().unwrap().success());
    fixture.driver.remove(&path).unwrap();
    assert!(!root.join(&path[1..]).exists());
}

/// Where version 2 has the controllers (run it in the virtual machine).
#[test]
fn privileged_v2_limits_update_and_devices() {
    let driver = CgroupDriver::detect().unwrap();
    if driver.mode() != CgroupMode::V2 {
        return;
    }
    let fixture = Fixture::new(driver);
    let path = fixture.path("b");
    let dir = PathBuf::from(format!("/sys/fs/cgroup{path}"));
    let limits = |memory: i64, quota: i64| {
        LinuxResourcesBuilder::default()
            .devices(docker_rules())
            .memory(
                LinuxMemoryBuilder::default().limit(memory).swap(memory * 2).reservation(memory / 2).build().unwrap(),
            )
            .cpu(LinuxCpuBuilder::default().quota(quota).period(100_000u64).shares(1024u64).cpus("0").build().unwrap())
            .pids(LinuxPidsBuilder::default().limit(7).build().unwrap())
            .build()
            .unwrap()
    };
    fixture.driver.create(&path, &limits(64 << 20, 50_000)).unwrap();
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("memory.max"), read("memory.low")), ("67108864".to_owned(), "33554432".to_owned()));
    assert_eq!((read("cpu.max"), read("cpu.weight")), ("50000 100000".to_owned(), "100".to_owned()));
    assert_eq!((read("cpuset.cpus"), read("pids.max")), ("0".to_owned(), "7".to_owned()));
    fixture.driver.update(&path, &limits(128 << 20, -1)).unwrap();
    assert_eq!((read("memory.max"), read("cpu.max")), ("134217728".to_owned(), "max 100000".to_owned()));

    // /dev/null is allowed, /dev/mem (c 1:1) is not, whoever asks.
    let script = format!(
        "echo 0 > {}/cgroup.procs && echo x > /dev/null && mknod /tmp/mem-$$ c 1 1 && ! cat /tmp/mem-$$ > /dev/null",
        dir.display()
    );
    let status = Command::new("/bin/sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    let stats = fixture.driver.stats(&path);
    assert!(stats.cpu.total > 0 && stats.memory.limit == Some(128 << 20) && stats.pids.limit == Some(7), "{stats:?}");
}

fn bpf_count(dir: &OwnedFd) -> u32 {
    dockerd_sys::bpf::attached_device_programs(dir).unwrap()
}

/// Prints what making a cgroup costs; run with `--release -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement"]
fn privileged_measure() {
    let Some(fixture) = v1() else { return };
    let mut create = Vec::new();
    let mut remove = Vec::new();
    for round in 0..200 {
        let path = fixture.path(&format!("m{round}"));
        let start = Instant::now();
        let handle = fixture.driver.create(&path, &defaults()).unwrap();
        create.push(start.elapsed());
        drop(handle);
        let start = Instant::now();
        fixture.driver.remove(&path).unwrap();
        remove.push(start.elapsed());
    }
    for (name, mut times) in [("create", create), ("remove", remove)] {
        times.sort();
        eprintln!("{name}: median {:?}, p95 {:?}", times[100], times[190]);
    }
}
