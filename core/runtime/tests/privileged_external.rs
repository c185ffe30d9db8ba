//! The driver for external runtimes over the real runc and crun, where they are installed, with the real supervisor.
//! Needs root and busybox. The binary has a `main` of its own, because it is also the supervisor.
#![allow(clippy::print_stdout, reason = "a test program reports on its standard output")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use dockerd_runtime::cgroup::CgroupDriver;
use dockerd_runtime::{
    ControlError, ExecRequest, ExitCode, Exits, ExternalRuntime, LaunchError, LaunchRequest, Launched, ProcessKey,
    RuntimeDriver, Runtimes, RuntimesConfig, StdioRequest,
};
use dockerd_sys::{mount, straggler};
use dockerd_types::signal::Signal;
use dockerd_types::{ContainerId, ExecId};
use oci_spec::runtime::{LinuxNamespaceType, Process, ProcessBuilder, RootBuilder, Spec, UserBuilder};

const LIMIT: Duration = Duration::from_secs(20);
const PIPES: StdioRequest = StdioRequest { tty: false, stdin: false, console_size: None };

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|mode| mode == "supervisor") {
        dockerd_runtime::modes::supervisor_main(arguments);
    }
    if std::env::args().any(|argument| argument == "--list") {
        println!("privileged_external: test\n");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let mut tested = 0;
    for name in ["runc", "crun"].into_iter().filter(|name| installed(name)) {
        runtime.block_on(async {
            let mut host = Host::new(name).await;
            host.output_and_exit_code().await;
            host.short_execs_are_collected().await;
            host.running_container().await;
            host.terminal().await;
            host.failing_start().await;
            host.close().await;
        });
        tested += 1;
    }
    println!("{tested} runtimes tested");
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists()) && PathBuf::from("/usr/bin/busybox").exists()
}

/// crun refuses hybrid hosts whose version 2 tree has controllers; hidden from it, that tree does not disturb.
fn program(runtime: &str) -> ExternalRuntime {
    let unified = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if runtime != "crun" || unified.trim().is_empty() {
        return ExternalRuntime { path: runtime.into(), args: Vec::new() };
    }
    let script = "umount -l /sys/fs/cgroup/unified && exec crun \"$@\"";
    let args = ["--mount", "sh", "-c", script, "crun"].map(str::to_owned).to_vec();
    ExternalRuntime { path: "unshare".into(), args }
}

struct Host {
    dir: tempfile::TempDir,
    runtimes: Runtimes,
    exits: Exits,
    driver: Arc<dyn RuntimeDriver>,
    parent: String,
    name: &'static str,
}

impl Host {
    async fn new(name: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        for sub in ["exec", "root/bin", "root/proc", "root/dev", "root/sys"] {
            std::fs::create_dir_all(dir.path().join(sub)).expect("directory");
        }
        std::fs::copy("/usr/bin/busybox", dir.path().join("root/bin/busybox")).expect("busybox is installed");
        for applet in ["sh", "sleep", "cat", "stty", "true"] {
            std::os::unix::fs::symlink("busybox", dir.path().join("root/bin").join(applet)).expect("applet");
        }
        let config = RuntimesConfig {
            exec_root: dir.path().join("exec"),
            program: std::env::current_exe().expect("own path"),
            external: BTreeMap::from([(name.to_owned() + "-test", program(name))]),
        };
        let (runtimes, exits, _) = Runtimes::open(config).await.expect("opened");
        let driver = runtimes.driver(&format!("{name}-test")).expect("configured");
        let parent = format!("/dockerd-rs-external-{name}-{}", std::process::id());
        Self { dir, runtimes, exits, driver, parent, name }
    }

    async fn close(self) {
        self.runtimes.shutdown_supervisor().await.expect("nothing runs");
        CgroupDriver::detect().expect("cgroups").remove(&self.parent).expect("removed");
        let left = std::fs::read_dir(self.dir.path().join("exec/external").join(self.name.to_owned() + "-test"))
            .expect("directory")
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name != "state" && name != "tty")
            .count();
        assert_eq!(left, 0, "bundles left");
    }

    fn request(&self, id: &ContainerId, process: Process, stdio: StdioRequest) -> LaunchRequest {
        let mut spec = Spec::default();
        spec.set_root(Some(RootBuilder::default().path("ignored").readonly(true).build().expect("root")));
        spec.set_process(Some(process));
        let keep = |kind: &str| ["proc", "tmpfs", "devpts"].contains(&kind);
        let mounts = spec.mounts().clone().unwrap_or_default();
        spec.set_mounts(Some(mounts.into_iter().filter(|m| m.typ().as_deref().is_some_and(keep)).collect()));
        let linux = spec.linux_mut().as_mut().expect("linux");
        linux.set_cgroups_path(Some(format!("{}/{id}", self.parent).into()));
        let namespaces = linux.namespaces().clone().unwrap_or_default();
        let keep = |kind| kind != LinuxNamespaceType::Cgroup;
        linux.set_namespaces(Some(namespaces.into_iter().filter(|n| keep(n.typ())).collect()));
        linux.set_resources(None);
        let rootfs = mount::bind(&self.dir.path().join("root"), false).expect("bind");
        let netns = File::open("/proc/self/ns/net").expect("own network namespace").into();
        LaunchRequest { id: id.clone(), spec: Arc::new(spec), rootfs, netns: Some(netns), stdio, init: false }
    }

    async fn start(&self, id: &ContainerId, script: &str, stdio: StdioRequest) -> Result<Launched, LaunchError> {
        self.driver.start(self.request(id, shell(script), stdio)).await
    }

    async fn exit_of(&mut self, key: &ProcessKey) -> ExitCode {
        loop {
            let exit = tokio::time::timeout(LIMIT, self.exits.recv()).await.expect("an exit in time").expect("a pump");
            self.runtimes.acknowledge(&exit.key);
            if exit.key == *key {
                return exit.code;
            }
        }
    }

    async fn output_and_exit_code(&mut self) {
        let id = id();
        let key = ProcessKey::Container(id.clone());
        let begun = Instant::now();
        let launched = self.start(&id, "echo out; echo err >&2; cat; exit 7", PIPES).await.expect("started");
        eprintln!("{}: start {:?}, {:?}", self.name, begun.elapsed(), launched.timings);
        assert_eq!((drain(launched.io.stdout), drain(launched.io.stderr)), ("out\n".to_owned(), "err\n".to_owned()));
        assert_eq!(self.exit_of(&key).await, ExitCode::Exited(7));
        assert!(matches!(self.driver.signal(&key, Signal::TERM), Err(ControlError::NotRunning)));
        self.driver.delete(&id).await.expect("deleted");
        self.driver.delete(&id).await.expect("deleted again");
    }

    /// An exec that ends before the runtime's own program does must not lose its exit code.
    async fn short_execs_are_collected(&mut self) {
        let id = id();
        let request = self.request(&id, shell("while :; do sleep 1; done"), PIPES);
        let spec = Arc::clone(&request.spec);
        self.driver.start(request).await.expect("started");
        for round in 0..20u8 {
            let exec = ExecId::from_random([0xc0 + round % 16; 32]).expect("letters");
            let process = shell(&format!("exit {round}"));
            let key = ProcessKey::Exec(id.clone(), exec.clone());
            let request = ExecRequest { container: id.clone(), exec, process, spec: Arc::clone(&spec), stdio: PIPES };
            self.driver.exec(request).await.expect("exec");
            assert_eq!(self.exit_of(&key).await, ExitCode::Exited(round.into()));
        }
        self.driver.kill_all(&id).expect("killed");
        assert_eq!(self.exit_of(&ProcessKey::Container(id.clone())).await, ExitCode::Signaled(9));
        self.driver.delete(&id).await.expect("deleted");
    }

    async fn running_container(&mut self) {
        let id = id();
        let key = ProcessKey::Container(id.clone());
        let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        let request = self.request(&id, shell(script), PIPES);
        let spec = Arc::clone(&request.spec);
        let launched = self.driver.start(request).await.expect("started");
        assert!(self.driver.pids(&id).expect("pids").contains(&launched.pid));

        let exec = |process: Process, byte: u8| ExecRequest {
            container: id.clone(),
            exec: ExecId::from_random([byte; 32]).expect("letters"),
            process,
            spec: Arc::clone(&spec),
            stdio: PIPES,
        };
        let executed = self.driver.exec(exec(shell("echo inside"), 0xcd)).await.expect("exec");
        assert_eq!(drain(executed.io.stdout), "inside\n");
        let error = self.driver.exec(exec(process(&["nope"]), 0xce)).await.expect_err("no such program");
        assert!(error.to_string().starts_with("OCI runtime exec failed: "), "{error}");
        assert_eq!(error.exit_code(), 127, "{error}");

        self.driver.pause(&id).expect("paused");
        self.driver.resume(&id).expect("resumed");
        let mut ready = [0; 6];
        let mut stdout = File::from(launched.io.stdout.expect("pipe"));
        assert!(straggler::wait_readable(stdout.as_fd(), LIMIT).expect("poll"));
        stdout.read_exact(&mut ready).expect("ready");
        self.driver.signal(&key, Signal::TERM).expect("sent");
        assert_eq!(self.exit_of(&key).await, ExitCode::Exited(3));
        self.driver.delete(&id).await.expect("deleted");
    }

    async fn terminal(&mut self) {
        let id = id();
        let key = ProcessKey::Container(id.clone());
        let stdio = StdioRequest { tty: true, stdin: true, console_size: Some((33, 77)) };
        let launched = self.start(&id, "stty size; cat", stdio).await.expect("started");
        assert!(launched.io.stderr.is_none());
        let mut master = File::from(launched.io.stdout.expect("terminal"));
        let mut text = String::new();
        while !text.contains('\n') {
            assert!(straggler::wait_readable(master.as_fd(), LIMIT).expect("poll"));
            let mut piece = [0; 64];
            let count = master.read(&mut piece).expect("read");
            text.push_str(std::str::from_utf8(&piece[..count]).expect("text"));
        }
        assert_eq!(text.trim(), "33 77");
        self.driver.resize(&key, 10, 20).expect("resized");
        self.driver.signal(&key, Signal::KILL).expect("killed");
        assert_eq!(self.exit_of(&key).await, ExitCode::Signaled(9));
        self.driver.delete(&id).await.expect("deleted");
    }

    async fn failing_start(&mut self) {
        let request = self.request(&id(), process(&["nope"]), PIPES);
        let error = self.driver.start(request).await.expect_err("no such program");
        assert_eq!(error.exit_code(), 127, "{error}");
    }
}

impl Drop for Host {
    /// After a failed assertion: ends the supervisor and everything in the test's cgroups.
    fn drop(&mut self) {
        let exec_root = self.dir.path().join("exec").to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let own = pid == std::process::id() as i32;
            if !own && std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l.contains(&exec_root)) {
                let _ = dockerd_sys::process::kill(pid, 9);
            }
        }
        if let Ok(cgroups) = CgroupDriver::detect() {
            let _ = cgroups.remove(&self.parent);
        }
        let bundles = std::fs::read_dir(self.dir.path().join("exec/external").join(self.name.to_owned() + "-test"));
        for bundle in bundles.into_iter().flatten().flatten() {
            let _ = mount::detach(&bundle.path().join("rootfs"));
        }
    }
}

fn shell(script: &str) -> Process {
    process(&["/bin/sh", "-c", script])
}

fn process(args: &[&str]) -> Process {
    ProcessBuilder::default()
        .args(args.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        .env(["PATH=/bin".to_owned()])
        .cwd("/")
        .user(UserBuilder::default().uid(0u32).gid(0u32).build().expect("user"))
        .build()
        .expect("process")
}

fn id() -> ContainerId {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let mut bytes = [0xab; 32];
    bytes[1] = NEXT.fetch_add(1, Ordering::Relaxed);
    bytes[2] = std::process::id() as u8;
    ContainerId::from_random(bytes).expect("letters")
}

/// Everything until the other side closes; the descriptor does not block, so each piece is waited for.
fn drain(fd: Option<OwnedFd>) -> String {
    let mut file = File::from(fd.expect("a pipe"));
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    loop {
        assert!(straggler::wait_readable(file.as_fd(), LIMIT).expect("poll"), "no output");
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8(text).expect("text")
}
