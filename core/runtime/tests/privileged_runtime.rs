//! The native runtime against the real kernel: launches, streams, exits, execs, failures, the deaths of daemon and
//! supervisor. Needs root and busybox. The binary has a `main` of its own, because it is also the supervisor.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dockerd_runtime::cgroup::CgroupDriver;
use dockerd_runtime::{
    Adopted, ExecRequest, ExitCode, Exits, LaunchRequest, Launched, ProcessExit, ProcessKey, Runtimes, RuntimesConfig,
    StdioRequest,
};
use dockerd_types::signal::Signal;
use dockerd_types::{ContainerId, ExecId};
use oci_spec::runtime::{
    LinuxBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Process, ProcessBuilder, Spec, SpecBuilder,
};

const LIMIT: Duration = Duration::from_secs(20);

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|mode| mode == "supervisor") {
        dockerd_runtime::modes::supervisor_main(arguments);
    }
    if std::env::args().any(|argument| argument == "--list") {
        writeln!(std::io::stdout(), "privileged_runtime: test\n").expect("stdout");
        return;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let host = Host::new();
        runs_and_reports(&host).await;
        streams(&host).await;
        failures(&host).await;
        execs(&host).await;
        terminal_and_init(&host).await;
        survives_the_daemon(&host).await;
        survives_the_supervisor(&host).await;
        upgrades_in_place(&host).await;
        stores_descriptors(&host).await;
        gives_earlier_programs_nothing_they_do_not_know(&host).await;
        speed(&host).await;
        no_cgroup_is_left();
    });
    writeln!(std::io::stdout(), "11 passed, 0 failed").expect("stdout");
}

/// A root file system and an exec root of the test's own.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("bin")).expect("directories");
        std::fs::create_dir_all(dir.path().join("exec")).expect("directories");
        std::fs::copy("/usr/bin/busybox", root.join("bin/busybox")).expect("busybox is installed");
        for applet in ["sh", "true", "false", "echo", "cat", "sleep", "id", "tty", "kill", "ps", "hostname", "env"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("applet");
        }
        Self { dir }
    }

    async fn open(&self) -> (Runtimes, Exits, Vec<Adopted>) {
        let config = RuntimesConfig {
            exec_root: self.dir.path().join("exec"),
            program: std::env::current_exe().expect("own path"),
            external: Default::default(),
        };
        Runtimes::open(config).await.expect("opened")
    }

    fn rootfs(&self) -> OwnedFd {
        dockerd_sys::mount::bind(&self.dir.path().join("root"), false).expect("bind")
    }

    fn supervisor_pid(&self) -> i32 {
        let exec_root = self.dir.path().join("exec").to_string_lossy().into_owned();
        let entries = std::fs::read_dir("/proc").expect("proc").flatten();
        let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.find(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l.contains(&exec_root)))
            .expect("a supervisor")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let exec_root: PathBuf = self.dir.path().join("exec");
        let text = exec_root.to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&text)) {
                let _ = dockerd_sys::process::kill(pid, 9);
            }
        }
        // After a failed assertion; otherwise it is gone by now.
        if let Ok(driver) = CgroupDriver::detect() {
            let _ = driver.remove(&cgroups());
        }
    }
}

fn container_id() -> ContainerId {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut bytes = [0xab; 32];
    // The cgroup is named by the short id, so the number must be in it.
    bytes[2..6].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    ContainerId::from_random(bytes).expect("has letters")
}

/// What all control groups of this test are in.
fn cgroups() -> String {
    format!("/dockerd-rs-test-{}", std::process::id())
}

/// A container's control group.
fn cgroup(id: &ContainerId) -> String {
    format!("{}/{}", cgroups(), id.short())
}

/// The directory that holds the test's control groups goes, in every hierarchy, which it does only if nothing is in it. Those
/// made ahead are taken away by a thread that ends with its driver.
fn no_cgroup_is_left() {
    let deadline = Instant::now() + Duration::from_secs(10);
    let empty = |parent: &Path| {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        !entries.into_iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    };
    let pids = Path::new("/sys/fs/cgroup/pids").join(cgroups().trim_start_matches('/'));
    while !empty(&pids) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    for tree in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        let parent = tree.path().join(cgroups().trim_start_matches('/'));
        if parent.exists() {
            std::fs::remove_dir(&parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
        }
    }
    // With one hierarchy it is at the top.
    let parent = Path::new("/sys/fs/cgroup").join(cgroups().trim_start_matches('/'));
    assert!(!parent.exists() || std::fs::remove_dir(parent).is_ok());
}

fn process(args: &[&str]) -> Process {
    ProcessBuilder::default()
        .args(args.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
        .env(vec!["PATH=/usr/local/bin:/bin".to_owned()])
        .cwd("/")
        .no_new_privileges(false)
        .build()
        .expect("process")
}

fn spec(args: &[&str]) -> Spec {
    let kinds = [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Network,
    ];
    let namespaces: Vec<_> =
        kinds.into_iter().map(|typ| LinuxNamespaceBuilder::default().typ(typ).build().expect("namespace")).collect();
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .masked_paths(vec!["/proc/kcore".to_owned(), "/sys/firmware".to_owned()])
        .readonly_paths(vec!["/proc/sys".to_owned()])
        .build()
        .expect("linux");
    SpecBuilder::default().process(process(args)).linux(linux).hostname("box").build().expect("spec")
}

async fn launch(host: &Host, runtimes: &Runtimes, args: &[&str], stdio: StdioRequest) -> (ContainerId, Launched) {
    let id = container_id();
    let launched = try_launch(host, runtimes, &id, spec(args), stdio, false).await.expect("launched");
    (id, launched)
}

async fn try_launch(
    host: &Host,
    runtimes: &Runtimes,
    id: &ContainerId,
    spec: Spec,
    stdio: StdioRequest,
    init: bool,
) -> Result<Launched, dockerd_runtime::LaunchError> {
    let mut spec = spec;
    let mut linux = spec.linux().clone().expect("linux");
    linux.set_cgroups_path(Some(cgroup(id).into()));
    spec.set_linux(Some(linux));
    let driver = runtimes.driver("runc").expect("native");
    let request =
        LaunchRequest { id: id.clone(), spec: Arc::new(spec), rootfs: host.rootfs(), netns: None, stdio, init };
    driver.start(request).await
}

async fn next_exit(exits: &mut Exits) -> ProcessExit {
    tokio::time::timeout(LIMIT, exits.recv()).await.expect("in time").expect("an exit")
}

fn read_all(fd: OwnedFd) -> String {
    rustix::io::ioctl_fionbio(&fd, false).expect("blocking");
    let mut text = String::new();
    // A terminal whose other side is gone reads EIO.
    let _ = std::fs::File::from(fd).read_to_string(&mut text);
    text
}

async fn finish(runtimes: &Runtimes, id: &ContainerId, exit: &ProcessExit) {
    runtimes.acknowledge(&exit.key);
    runtimes.driver("runc").expect("native").delete(id).await.expect("deleted");
    runtimes.cgroups().drain();
}

async fn runs_and_reports(host: &Host) {
    let (runtimes, mut exits, adopted) = host.open().await;
    assert!(adopted.is_empty());
    for (args, code) in [
        (&["true"][..], ExitCode::Exited(0)),
        (&["false"], ExitCode::Exited(1)),
        (&["sh", "-c", "exit 42"], ExitCode::Exited(42)),
        (&["/bin/sh", "-c", "test $(hostname) = box && test $$ = 1"], ExitCode::Exited(0)),
    ] {
        let (id, launched) = launch(host, &runtimes, args, StdioRequest::default()).await;
        let exit = next_exit(&mut exits).await;
        assert_eq!((&exit.key, exit.code), (&ProcessKey::Container(id.clone()), code), "{args:?}");
        assert!(launched.pid > 0 && launched.timings.setup > 0);
        finish(&runtimes, &id, &exit).await;
    }
    let (id, _launched) = launch(host, &runtimes, &["sleep", "1000"], StdioRequest::default()).await;
    let driver = runtimes.driver("runc").expect("native");
    let key = ProcessKey::Container(id.clone());
    assert_eq!(driver.pids(&id).expect("pids").len(), 1);
    driver.signal(&key, Signal::KILL).expect("killed");
    let exit = next_exit(&mut exits).await;
    assert_eq!((exit.code, exit.code.as_docker()), (ExitCode::Signaled(9), 137));
    assert!(driver.signal(&key, Signal::KILL).is_err());
    finish(&runtimes, &id, &exit).await;
    runtimes.cgroups().drain();
}

async fn streams(host: &Host) {
    let (runtimes, mut exits, _) = host.open().await;
    let (id, launched) =
        launch(host, &runtimes, &["sh", "-c", "echo out; echo err >&2"], StdioRequest::default()).await;
    let exit = next_exit(&mut exits).await;
    // The supervisor's duplicates go with the acknowledgement; only then is the pipe at its end for a blocking reader.
    finish(&runtimes, &id, &exit).await;
    assert_eq!(read_all(launched.io.stdout.expect("stdout")), "out\n");
    assert_eq!(read_all(launched.io.stderr.expect("stderr")), "err\n");

    let stdio = StdioRequest { stdin: true, ..StdioRequest::default() };
    let (id, launched) = launch(host, &runtimes, &["cat"], stdio).await;
    let stdin = launched.io.stdin.expect("stdin");
    rustix::io::write(&stdin, b"hello").expect("written");
    drop(stdin);
    runtimes.driver("runc").expect("native").close_stdin(&ProcessKey::Container(id.clone())).expect("closed");
    let exit = next_exit(&mut exits).await;
    assert_eq!(exit.code, ExitCode::Exited(0));
    finish(&runtimes, &id, &exit).await;
    assert_eq!(read_all(launched.io.stdout.expect("stdout")), "hello");
}

async fn failures(host: &Host) {
    let (runtimes, _exits, _) = host.open().await;
    for (program, code, words) in [
        ("nope", 127, r#"exec: "nope": executable file not found in $PATH"#),
        ("/nope", 127, r#"exec: "/nope": stat /nope: no such file or directory"#),
        ("/bin", 126, r#"exec: "/bin": is a directory: permission denied"#),
    ] {
        let id = container_id();
        let error = try_launch(host, &runtimes, &id, spec(&[program]), StdioRequest::default(), false).await;
        let error = error.expect_err("must fail");
        assert_eq!(error.exit_code(), code, "{error}");
        assert!(error.to_string().ends_with(words), "{error}");
    }
    runtimes.cgroups().drain();
}

async fn execs(host: &Host) {
    let (runtimes, mut exits, _) = host.open().await;
    let (id, _launched) = launch(host, &runtimes, &["sleep", "1000"], StdioRequest::default()).await;
    let driver = runtimes.driver("runc").expect("native");
    let exec = |args: &[&str], number: u8| ExecRequest {
        container: id.clone(),
        exec: ExecId::from_random([0xcd ^ number; 32]).expect("has letters"),
        process: process(args),
        spec: Arc::new(spec(args)),
        stdio: StdioRequest::default(),
    };
    let launched = driver.exec(exec(&["sh", "-c", "hostname; exit 7"], 1)).await.expect("exec");
    let exit = next_exit(&mut exits).await;
    assert_eq!(exit.code, ExitCode::Exited(7));
    runtimes.acknowledge(&exit.key);
    assert_eq!(read_all(launched.io.stdout.expect("stdout")), "box\n");
    let error = driver.exec(exec(&["nope"], 2)).await.expect_err("must fail");
    assert_eq!(error.exit_code(), 127);
    driver.signal(&ProcessKey::Container(id.clone()), Signal::KILL).expect("killed");
    let exit = next_exit(&mut exits).await;
    finish(&runtimes, &id, &exit).await;
    assert!(driver.exec(exec(&["true"], 3)).await.is_err());
}

async fn terminal_and_init(host: &Host) {
    let (runtimes, mut exits, _) = host.open().await;
    let id = container_id();
    let mut with_devpts = spec(&["sh", "-c", "tty; exit 3"]);
    let mount = |kind: &str, at: &str, options: &[&str]| {
        let options: Vec<String> = options.iter().map(|s| (*s).to_owned()).collect();
        let mut builder = oci_spec::runtime::MountBuilder::default().destination(at).typ(kind).source(kind);
        builder = builder.options(options);
        builder.build().expect("mount")
    };
    with_devpts.set_mounts(Some(vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ]));
    let stdio = StdioRequest { tty: true, stdin: true, console_size: Some((40, 100)) };
    let launched = try_launch(host, &runtimes, &id, with_devpts, stdio, true).await.expect("launched");
    let exit = next_exit(&mut exits).await;
    assert_eq!(exit.code, ExitCode::Exited(3));
    finish(&runtimes, &id, &exit).await;
    assert_eq!(read_all(launched.io.stdout.expect("terminal")).trim(), "/dev/pts/0");
}

async fn survives_the_daemon(host: &Host) {
    let (runtimes, exits, _) = host.open().await;
    let script = "echo before; read x; echo got $x; exit 5";
    let stdio = StdioRequest { stdin: true, ..StdioRequest::default() };
    let (id, launched) = launch(host, &runtimes, &["sh", "-c", script], stdio).await;
    drop((launched, exits, runtimes));
    let (runtimes, mut exits, adopted) = host.open().await;
    runtimes.restore(&id, &cgroup(&id));
    let found = adopted.into_iter().find(|a| a.key.container() == &id).expect("adopted");
    assert!(found.exited.is_none() && found.pid > 0);
    rustix::io::write(found.io.stdin.as_ref().expect("stdin"), b"word\n").expect("written");
    let exit = next_exit(&mut exits).await;
    assert_eq!(exit.code, ExitCode::Exited(5));
    drop((exits, runtimes));
    // Not acknowledged: the next daemon hears of it again.
    let (runtimes, _exits, adopted) = host.open().await;
    runtimes.restore(&id, &cgroup(&id));
    let again = adopted.into_iter().find(|a| a.key.container() == &id).expect("still known");
    assert_eq!(again.exited.as_ref().map(|exit| exit.code), Some(ExitCode::Exited(5)));
    finish(&runtimes, &id, &exit).await;
    assert_eq!(read_all(found.io.stdout.expect("stdout")), "before\ngot word\n");
}

async fn survives_the_supervisor(host: &Host) {
    let (runtimes, mut exits, _) = host.open().await;
    let (id, launched) = launch(host, &runtimes, &["sleep", "1000"], StdioRequest::default()).await;
    dockerd_sys::process::kill(host.supervisor_pid(), 9).expect("killed");
    // A launch may hit the moment between two supervisors; bounded by LIMIT.
    let deadline = Instant::now() + LIMIT;
    let (second, _second_launched) = loop {
        let id = container_id();
        match try_launch(host, &runtimes, &id, spec(&["true"]), StdioRequest::default(), false).await {
            Ok(launched) => break (id, launched),
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("no new supervisor: {error}"),
        }
    };
    let exit = next_exit(&mut exits).await;
    assert_eq!((exit.key.container().as_str(), exit.code), (second.as_str(), ExitCode::Exited(0)), "sleeper is {id}");
    assert!(Path::new(&format!("/proc/{}", launched.pid)).exists(), "the container lives on");
    runtimes.driver("runc").expect("native").signal(&ProcessKey::Container(id.clone()), Signal::KILL).expect("killed");
    let exit = next_exit(&mut exits).await;
    assert_eq!((exit.key.container(), exit.code), (&id, ExitCode::Unknown));
    finish(&runtimes, &second, &exit).await;
    finish(&runtimes, &id, &exit).await;
}

/// The supervisor executes another program in place: the same process, its children, descriptors and exits kept.
async fn upgrades_in_place(host: &Host) {
    let (runtimes, mut exits, _) = host.open().await;
    let (ended, _launched) = launch(host, &runtimes, &["sh", "-c", "exit 3"], StdioRequest::default()).await;
    assert_eq!(next_exit(&mut exits).await.code, ExitCode::Exited(3));
    let stdio = StdioRequest { stdin: true, ..StdioRequest::default() };
    let (id, launched) = launch(host, &runtimes, &["sh", "-c", "read x; echo got $x; exit 6"], stdio).await;
    let key = ProcessKey::Container(id.clone());
    let (kept, _other) = rustix::pipe::pipe().expect("a pipe");
    runtimes.keep(&key, &[kept.as_fd(), kept.as_fd()]).expect("kept");

    let supervisor = host.supervisor_pid();
    let started = || std::fs::read_to_string(format!("/proc/{supervisor}/cmdline")).expect("it lives");
    assert!(!started().contains("--resume"));
    runtimes.renew_supervisor(Path::new("/proc/self/exe")).await.expect("upgraded");
    assert!(host.supervisor_pid() == supervisor && started().contains("--resume"), "in place");

    drop((launched, exits, runtimes));
    let (runtimes, mut exits, adopted) = host.open().await;
    for id in [&ended, &id] {
        runtimes.restore(id, &cgroup(id));
    }
    let of = |id: &ContainerId| adopted.iter().find(|a| a.key.container() == id).expect("known");
    assert_eq!(of(&ended).exited.as_ref().map(|exit| exit.code), Some(ExitCode::Exited(3)));
    assert_eq!((of(&id).io.kept.len(), of(&id).pid > 0), (2, true));
    rustix::io::write(of(&id).io.stdin.as_ref().expect("stdin"), b"word\n").expect("written");
    let exit = next_exit(&mut exits).await;
    assert_eq!((exit.key.container(), exit.code), (&id, ExitCode::Exited(6)), "still its child");
    let output = adopted.into_iter().find(|a| a.key.container() == &id).and_then(|a| a.io.stdout);
    assert_eq!(read_all(output.expect("stdout")), "got word\n");
    finish(&runtimes, &ended, &exit).await;
    finish(&runtimes, &id, &exit).await;
}

/// What belongs to no process outlives the daemon and an upgrade, but not the supervisor's end.
async fn stores_descriptors(host: &Host) {
    let (runtimes, exits, _) = host.open().await;
    assert!(runtimes.stored().await.expect("told").is_empty());
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    let secret = dockerd_sys::memory::sealed("secret", b"user:password").expect("made");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"12345").expect("written");
    runtimes.store("write", b"", &[write.as_fd()]).await.expect("stored");
    runtimes.store("more", b"the first", &[write.as_fd()]).await.expect("stored");
    let more = [secret.as_fd(), file.as_fd()];
    runtimes.store("more", b"the second", &more).await.expect("stored");
    let refused = runtimes.store("more", &[0; 4097], &more).await.expect_err("too long");
    assert!(refused.to_string().contains("4096 bytes"), "{refused}");
    assert!(runtimes.store("none", b"", &[]).await.is_err());
    assert!(runtimes.store("many", b"", &[read.as_fd(); 17]).await.is_err());
    drop((exits, runtimes, write, secret, file));

    let (runtimes, _exits, _) = host.open().await;
    for upgraded in [false, true] {
        if upgraded {
            runtimes.renew_supervisor(Path::new("/proc/self/exe")).await.expect("upgraded");
        }
        let stored = runtimes.stored().await.expect("told");
        let [more, write] = &stored[..] else { panic!("two: {stored:?}") };
        assert_eq!((more.name.as_str(), &more.note[..], more.descriptors.len()), ("more", &b"the second"[..], 2));
        assert_eq!((write.name.as_str(), &write.note[..], write.descriptors.len()), ("write", &b""[..], 1));
        assert_eq!(dockerd_sys::memory::unsealed(&more.descriptors[0], 100).expect("read"), b"user:password");
        // The same open file, with its position; not one of the same name.
        assert_eq!(rustix::fs::tell(&more.descriptors[1]).expect("a position"), 5);
        rustix::io::write(&write.descriptors[0], b"x").expect("written");
        assert_eq!(rustix::io::read(&read, &mut [0; 10]), Ok(1));
    }
    runtimes.release("write").await.expect("released");
    runtimes.release("write").await.expect("nothing to release");
    assert_eq!(rustix::io::read(&read, &mut [0; 10]), Ok(0), "nobody has the other end");
    assert_eq!(runtimes.stored().await.expect("told").len(), 1);
    runtimes.shutdown_supervisor().await.expect("what is stored keeps nobody");
    drop(runtimes);
    let (runtimes, _exits, _) = host.open().await;
    assert!(runtimes.stored().await.expect("told").is_empty());
}

/// A daemon of before there were stored descriptors upgrades without saying what its program knows.
async fn gives_earlier_programs_nothing_they_do_not_know(host: &Host) {
    let (runtimes, exits, _) = host.open().await;
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    runtimes.store("write", b"", &[write.as_fd()]).await.expect("stored");
    drop((exits, runtimes, write));
    let earlier = dockerd_sys::fdpass::connect(&host.dir.path().join("exec/supervisor.sock")).expect("connected");
    let program = std::fs::File::open("/proc/self/exe").expect("opened");
    // Upgrade, then Hello, without and with a wish for an answer.
    dockerd_sys::fdpass::send(&earlier, &[0, 1], &[program.as_fd()]).expect("sent");
    dockerd_sys::fdpass::send(&earlier, &[1, 0], &[]).expect("sent");
    let (length, _) = dockerd_sys::fdpass::receive(&earlier, &mut [0; 1000]).expect("an answer");
    assert!(length > 0, "it goes on");
    assert_eq!(rustix::io::read(&read, &mut [0; 10]), Ok(0), "nobody has the other end, not even by mistake");
    drop(earlier);
    let (runtimes, _exits, _) = host.open().await;
    assert!(runtimes.stored().await.expect("told").is_empty());
}

/// No assertion: prints where the time of a plain launch goes.
async fn speed(host: &Host) {
    let (runtimes, mut exits, _) = host.open().await;
    let mut rows = Vec::new();
    for _ in 0..30 {
        let begun = Instant::now();
        let (id, launched) = launch(host, &runtimes, &["true"], StdioRequest::default()).await;
        let up = begun.elapsed().as_micros();
        let exit = next_exit(&mut exits).await;
        rows.push((up, begun.elapsed().as_micros(), launched.timings));
        finish(&runtimes, &id, &exit).await;
    }
    rows.sort_by_key(|row| row.0);
    eprintln!("launch of `true`, median: {:?}", rows[rows.len() / 2]);
}
