//! The verbs on fakes: no root, no kernel objects, real documents in a temporary directory.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dockerd_runtime::{
    BoxFuture, ControlError, ExecRequest, ExitCode, LaunchError, LaunchRequest, Launched, PhaseTimings, ProcessExit,
    ProcessIo,
};
use dockerd_store::Layout;
use dockerd_types::container::{ContainerConfig, CreateContainer, HostConfig, RestartPolicy, Status};
use dockerd_types::signal::Signal;
use dockerd_types::{Digest, ErrorKind, ExecId, Kinded};
use oci_spec::runtime::LinuxResources;

use super::*;
use crate::boot::{self, Parts};
use crate::config::EngineConfig;
use crate::ports::*;

/// Everything around the verbs, in one.
#[derive(Debug, Default)]
struct World {
    /// `kind action` of every event.
    events: Mutex<Vec<String>>,
    /// Signals a process swallows.
    deaf_to: Mutex<Vec<i32>>,
    /// What the next launch fails with.
    refuse: Mutex<Option<LaunchError>>,
    acknowledged: Mutex<usize>,
    core: Mutex<Option<std::sync::Weak<Core>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn end(&self, id: &ContainerId, code: ExitCode) {
        let core = lock(&self.core).as_ref().and_then(std::sync::Weak::upgrade).expect("alive");
        let key = ProcessKey::Container(id.clone());
        boot::deliver(&core, ProcessExit { key, code, at: Timestamp::now(), oom_killed: false });
    }

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").expect("opened").into()
    }
}

#[derive(Debug)]
struct Fake(Arc<World>);

impl RuntimeDriver for Fake {
    fn reserve(&self, _: &ContainerId, _: &str, _: &LinuxResources) -> Result<(), LaunchError> {
        Ok(())
    }
    fn start(&self, _: LaunchRequest) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        Box::pin(async {
            match lock(&self.0.refuse).take() {
                Some(error) => Err(error),
                None => Ok(Launched {
                    pid: 4242,
                    pidfd: World::null(),
                    started_at: Timestamp::now(),
                    io: ProcessIo::default(),
                    timings: PhaseTimings::default(),
                }),
            }
        })
    }
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        Box::pin(async move { Err(LaunchError::NotRunning(request.container)) })
    }
    fn signal(&self, key: &ProcessKey, signal: Signal) -> Result<(), ControlError> {
        if !lock(&self.0.deaf_to).contains(&signal.number()) {
            self.0.end(key.container(), ExitCode::Signaled(signal.number()));
        }
        Ok(())
    }
    fn kill_all(&self, id: &ContainerId) -> Result<(), ControlError> {
        self.0.end(id, ExitCode::Signaled(9));
        Ok(())
    }
    fn resize(&self, _: &ProcessKey, _: u16, _: u16) -> Result<(), ControlError> {
        Ok(())
    }
    fn close_stdin(&self, _: &ProcessKey) -> Result<(), ControlError> {
        Ok(())
    }
    fn pause(&self, _: &ContainerId) -> Result<(), ControlError> {
        Ok(())
    }
    fn resume(&self, _: &ContainerId) -> Result<(), ControlError> {
        Ok(())
    }
    fn pids(&self, _: &ContainerId) -> Result<Vec<i32>, ControlError> {
        Ok(Vec::new())
    }
    fn stats(&self, _: &ContainerId) -> Result<dockerd_runtime::cgroup::CgroupStats, ControlError> {
        Ok(dockerd_runtime::cgroup::CgroupStats::default())
    }
    fn delete(&self, _: &ContainerId) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async { Ok(()) })
    }
}

impl RuntimeSet for Fake {
    fn driver(&self, _: &str) -> Option<Arc<dyn RuntimeDriver>> {
        Some(Arc::new(Self(self.0.clone())))
    }
    fn restore(&self, _: &ContainerId, _: &str) {}
    fn discard(&self, _: &str) {}
    fn sweep(&self, _: &str) {}
    fn drain(&self) {}
    fn settle(&self) {}
    fn acknowledge(&self, _: &ProcessKey) {
        *lock(&self.0.acknowledged) += 1;
    }
}

impl Images for Fake {
    fn resolve(&self, _: &str) -> Result<Arc<ContainerImage>, EngineError> {
        Ok(Arc::new(ContainerImage {
            id: Digest::sha256(&[1; 32]),
            platform: "linux/amd64".to_owned(),
            config: ContainerConfig::default(),
            chain: None,
        }))
    }
    fn driver_name(&self) -> &str {
        "fake"
    }
    fn hold(&self, _: &Digest, _: &ContainerId) {}
    fn release(&self, _: &Digest, _: &ContainerId) {}
    fn prepare(&self, _: &ContainerId, _: &ContainerImage) -> Result<Option<OwnedFd>, EngineError> {
        Ok(None)
    }
    fn stock(&self, _: &Digest) -> Result<(), EngineError> {
        Ok(())
    }
    fn mount(&self, _: &ContainerId) -> Result<OwnedFd, EngineError> {
        Ok(World::null())
    }
    fn remove(&self, _: &ContainerId) -> Result<(), EngineError> {
        Ok(())
    }
    fn layer_owners(&self) -> Vec<ContainerId> {
        Vec::new()
    }
    fn usage(&self, _: &ContainerId) -> Result<u64, EngineError> {
        Ok(5)
    }
    fn image_size(&self, _: &Digest) -> u64 {
        10
    }
    fn changes(&self, _: &ContainerId) -> Result<Vec<PathChange>, EngineError> {
        Ok(Vec::new())
    }
}

impl Networks for Fake {
    fn create_sandbox(&self, _: SandboxOrder) -> Result<ReadySandbox, EngineError> {
        Ok(ReadySandbox { id: String::new(), netns: None, endpoints: Vec::new(), way_out: None, ports: Vec::new() })
    }
    fn remove_sandbox(&self, _: &ContainerId) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
    fn restore(&self, _: Vec<KeptSandbox>) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
    fn started(&self, _id: &ContainerId, _pid: i32) {}

    fn network_id(&self, _name: &str) -> Option<dockerd_types::NetworkId> {
        None
    }

    fn default_gateway(&self) -> Option<Ipv4Addr> {
        None
    }
}

impl Volumes for Fake {
    fn ensure(&self, _: VolumeOrder) -> BoxFuture<'_, Result<VolumeUse, EngineError>> {
        Box::pin(async { Err(EngineError::NotBuilt("volumes")) })
    }
    fn note_use(&self, _: &str, _: &ContainerId) {}
    fn mount(&self, _: &str, _: &ContainerId) -> Result<(), EngineError> {
        Ok(())
    }
    fn note_mounted(&self, _: &str, _: &ContainerId) {}
    fn unmount(&self, _: &ContainerId) {}
    fn copy_up(&self, _: &str, _: &ContainerId, _: BorrowedFd<'_>, _: &str) -> Result<(), EngineError> {
        Ok(())
    }
    fn release(&self, _: &ContainerId, _: bool) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl Events for Fake {
    fn publish(&self, note: EventNote) {
        lock(&self.0.events).push(note.action);
    }
}

impl Execs for Fake {
    fn probe(&self, _: &ContainerId, command: Vec<String>, _: Duration) -> BoxFuture<'_, health::ProbeResult> {
        let exit_code = if command == ["well"] { 0 } else { 1 };
        let result = health::ProbeResult { exit_code, ..health::ProbeResult::not_run("") };
        Box::pin(std::future::ready(result))
    }
    fn exited(&self, _: ProcessExit) {}
    fn container_ended(&self, _: &ContainerId) {}
    fn container_removed(&self, _: &ContainerId) {}
    fn of_container(&self, _: &ContainerId) -> Vec<ExecId> {
        Vec::new()
    }
}

impl StreamsMaker for Fake {
    fn make(&self, _: &ContainerSpec, _: &str) -> Arc<dyn Streams> {
        Arc::new(Self(self.0.clone()))
    }
}

impl Streams for Fake {
    fn prepare(&self) -> Result<(), EngineError> {
        Ok(())
    }
    fn begin(&self, _: ProcessIo) -> Result<(), EngineError> {
        Ok(())
    }
    fn drained(&self, _: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn end(&self) {}
    fn discard(&self) {}
    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

/// A service over fakes, in a directory of its own.
struct Bed {
    service: ContainerService,
    world: Arc<World>,
    dir: tempfile::TempDir,
}

fn core_in(dir: &std::path::Path, world: &Arc<World>) -> Arc<Core> {
    let layout = Layout::new(dir.join("data"), dir.join("exec"));
    layout.create().expect("directories");
    let fake = || Arc::new(Fake(world.clone()));
    let parts = Parts {
        images: fake(),
        runtimes: fake(),
        network: fake(),
        volumes: fake(),
        events: fake(),
        streams: fake(),
        execs: fake(),
    };
    let config = EngineConfig::new(dir.join("data"), dir.join("exec"));
    let core = Core::assemble(config, layout, parts).expect("assembled");
    *lock(&world.core) = Some(Arc::downgrade(&core));
    core
}

fn bed() -> Bed {
    let dir = tempfile::tempdir().expect("temporary directory");
    let world = Arc::new(World::default());
    let service = ContainerService { core: core_in(dir.path(), &world) };
    Bed { service, world, dir }
}

impl Bed {
    async fn make(&self, name: &str, change: impl FnOnce(&mut CreateContainer)) -> Result<ContainerId, EngineError> {
        let mut request = CreateContainer {
            name: Some(name.to_owned()),
            platform: None,
            config: ContainerConfig { cmd: Some(vec!["true".to_owned()]), ..ContainerConfig::default() },
            host_config: HostConfig::default(),
            endpoints: BTreeMap::new(),
        };
        change(&mut request);
        self.service.create(request).await.map(|created| created.id)
    }

    fn state(&self, name: &str) -> State {
        self.service.core.containers.find(name).expect("there").snapshot().state.clone()
    }

    async fn until(&self, name: &str, holds: impl FnMut(&Arc<Snapshot>) -> bool) {
        let mut watch = self.service.core.containers.find(name).expect("there").subscribe();
        watch.wait_for(holds).await.expect("reached");
    }
}

#[tokio::test]
async fn a_whole_life() {
    let bed = bed();
    let id = bed.make("one", |_| {}).await.expect("created");
    let wait = bed.service.wait("one", WaitCondition::NextExit).expect("registered");
    bed.service.start("one").await.expect("started");
    assert_eq!(bed.state("one").status, Status::Running);
    let again = bed.service.start("one").await.expect_err("runs");
    assert_eq!(again.kind(), ErrorKind::NotModified);
    bed.world.end(&id, ExitCode::Exited(3));
    assert_eq!(wait.result().await, WaitResult { status_code: 3, error: None });
    assert_eq!(bed.state("one").status, Status::Exited);
    let stop = bed.service.stop("one", StopOptions::default()).await.expect_err("stopped");
    assert_eq!(stop.kind(), ErrorKind::NotModified);
    let kill = bed.service.kill("one", None).await.expect_err("stopped");
    assert_eq!(kill.to_string(), format!("cannot kill container: one: container {id} is not running"));
    bed.service.remove("one", RemoveOptions { force: false, volumes: true, link: false }).await.expect("removed");
    let gone = bed.service.start("one").await.expect_err("gone");
    assert_eq!(gone.to_string(), "No such container: one");
    assert_eq!(*lock(&bed.world.events), ["create", "start", "die", "destroy"]);
}

#[tokio::test]
async fn health_follows_the_probes_and_ends_with_the_run() {
    let bed = bed();
    let check = |word: &str| dockerd_types::container::Healthcheck {
        test: vec!["CMD".to_owned(), word.to_owned()],
        interval: Duration::from_millis(1),
        retries: 2,
        ..Default::default()
    };
    bed.make("well", |r| r.config.healthcheck = Some(check("well"))).await.expect("created");
    let id = bed.make("ill", |r| r.config.healthcheck = Some(check("ill"))).await.expect("created");
    for (name, status) in [("well", health::HealthStatus::Healthy), ("ill", health::HealthStatus::Unhealthy)] {
        bed.service.start(name).await.expect("started");
        bed.until(name, |s| s.state.health.as_ref().is_some_and(|health| health.status == status)).await;
    }
    assert!(bed.state("ill").health.expect("checked").failing_streak >= 2);
    assert!(lock(&bed.world.events).contains(&"health_status: unhealthy".to_owned()));
    bed.world.end(&id, ExitCode::Exited(0));
    bed.until("ill", |s| s.state.status == Status::Exited).await;
    let container = bed.service.core.containers.find("ill").expect("there");
    container.tell(actor::Command::Probed(health::ProbeResult::not_run("late"))).await.expect("told");
    bed.service.start("ill").await.expect("started again");
    let health = bed.state("ill").health.expect("checked");
    assert_eq!(health.log.iter().filter(|result| result.output == "late").count(), 0);
}

#[tokio::test]
async fn auto_remove_tells_the_code_and_frees_the_name() {
    let bed = bed();
    let id = bed.make("rm", |r| r.host_config.auto_remove = true).await.expect("created");
    let wait = bed.service.wait("rm", WaitCondition::Removed).expect("registered");
    bed.service.start("rm").await.expect("started");
    bed.world.end(&id, ExitCode::Signaled(9));
    assert_eq!(wait.result().await.status_code, 137);
    bed.make("rm", |_| {}).await.expect("the name is free");
}

#[tokio::test]
async fn a_failed_start_leaves_the_code_and_the_text() {
    let bed = bed();
    bed.make("bad", |_| {}).await.expect("created");
    let reason = "executable file not found in $PATH".to_owned();
    *lock(&bed.world.refuse) = Some(LaunchError::ProgramNotFound { context: "ctx", program: "x".to_owned(), reason });
    let error = bed.service.start("bad").await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let state = bed.state("bad");
    assert_eq!((state.status, state.exit_code), (Status::Created, 127));
    assert!(state.error.contains("executable file not found"), "{}", state.error);
    bed.service.start("bad").await.expect("the next try may succeed");
}

#[tokio::test]
async fn stop_goes_from_term_to_kill() {
    let bed = bed();
    bed.make("deaf", |_| {}).await.expect("created");
    lock(&bed.world.deaf_to).push(15);
    bed.service.start("deaf").await.expect("started");
    bed.service.stop("deaf", StopOptions { timeout: Some(0), signal: None }).await.expect("stopped");
    assert_eq!(bed.state("deaf").exit_code, 137);
    assert_eq!(*lock(&bed.world.events), ["create", "start", "kill", "kill", "die", "stop"]);
}

#[tokio::test]
async fn the_restart_policy_starts_it_again_until_a_client_stops_it() {
    let bed = bed();
    let id = bed.make("again", |r| r.host_config.restart_policy = RestartPolicy::Always).await.expect("created");
    bed.service.start("again").await.expect("started");
    bed.world.end(&id, ExitCode::Exited(0));
    bed.until("again", |s| s.state.restart_count == 1 && s.state.status == Status::Running).await;
    bed.service.stop("again", StopOptions::default()).await.expect("stopped");
    assert_eq!(bed.state("again").status, Status::Exited);
}

#[tokio::test]
async fn restart_keeps_an_auto_remove_container() {
    let bed = bed();
    bed.make("keep", |r| r.host_config.auto_remove = true).await.expect("created");
    bed.service.start("keep").await.expect("started");
    bed.service.restart("keep", StopOptions::default()).await.expect("restarted");
    assert_eq!(bed.state("keep").status, Status::Running);
}

#[tokio::test]
async fn names_are_unique_and_can_change() {
    let bed = bed();
    let first = bed.make("first", |_| {}).await.expect("created");
    let taken = bed.make("first", |_| {}).await.expect_err("taken");
    assert!(taken.to_string().contains(&format!("already in use by container \"{first}\"")));
    bed.service.rename("first", "second").await.expect("renamed");
    bed.make("first", |_| {}).await.expect("free again");
    let same = bed.service.rename("second", "first").await.expect_err("taken");
    assert_eq!(same.kind(), ErrorKind::Conflict);
    assert!(bed.service.core.containers.find(&first.as_str()[..12]).is_ok());
}

#[tokio::test]
async fn a_running_container_needs_force() {
    let bed = bed();
    bed.make("busy", |_| {}).await.expect("created");
    bed.service.start("busy").await.expect("started");
    let plain = RemoveOptions { force: false, volumes: false, link: false };
    let error = bed.service.remove("busy", plain).await.expect_err("runs");
    let text =
        "cannot remove container \"busy\": container is running: stop the container before removing or force remove";
    assert_eq!(error.to_string(), text);
    bed.service.remove("busy", RemoveOptions { force: true, ..plain }).await.expect("removed");
    assert!(bed.service.core.containers.find("busy").is_err());
}

#[tokio::test]
async fn pause_and_its_refusals() {
    let bed = bed();
    let id = bed.make("p", |_| {}).await;
    assert!(id.is_err(), "one letter is no name");
    let id = bed.make("pp", |_| {}).await.expect("created");
    assert_eq!(
        bed.service.pause("pp").await.expect_err("not running").to_string(),
        format!("container {id} is not running")
    );
    bed.service.start("pp").await.expect("started");
    bed.service.pause("pp").await.expect("paused");
    assert_eq!(bed.service.pause("pp").await.expect_err("paused").kind(), ErrorKind::Conflict);
    bed.service.unpause("pp").await.expect("thawed");
    assert_eq!(bed.service.unpause("pp").await.expect_err("runs").kind(), ErrorKind::System);
}

#[tokio::test]
async fn lists_filter_and_sort() {
    let bed = bed();
    for name in ["web-1", "web-2", "db"] {
        bed.make(name, |r| _ = r.config.labels.insert("app".to_owned(), name[..2].to_owned())).await.expect("created");
    }
    bed.service.start("db").await.expect("started");
    let names = |filters: &'static str, all: bool| {
        let service = bed.service.clone();
        async move {
            let filters = dockerd_types::Filters::parse(filters, &list::FILTERS).expect("filters");
            let options = ListOptions { all, filters, ..ListOptions::default() };
            let found = service.list(options).await.expect("listed");
            found.iter().map(|c| c.snapshot.name.to_string()).collect::<Vec<_>>()
        }
    };
    assert_eq!(names("", false).await, ["db"]);
    assert_eq!(names("", true).await, ["db", "web-2", "web-1"]);
    assert_eq!(names(r#"{"name":["^web"]}"#, true).await, ["web-2", "web-1"]);
    assert_eq!(names(r#"{"status":["created"]}"#, false).await, ["web-2", "web-1"]);
    assert_eq!(names(r#"{"label":["app=db"]}"#, true).await, ["db"]);
    assert_eq!(names(r#"{"before":["web-2"]}"#, true).await, ["web-1"]);
}

#[tokio::test]
async fn a_new_daemon_finds_what_the_last_one_left() {
    let bed = bed();
    let done = bed.make("done", |_| {}).await.expect("created");
    bed.service.start("done").await.expect("started");
    let wait = bed.service.wait("done", WaitCondition::NextExit).expect("registered");
    bed.world.end(&done, ExitCode::Exited(7));
    wait.result().await;
    bed.make("runs", |_| {}).await.expect("created");
    bed.service.start("runs").await.expect("started");
    let lost = bed.make("lost", |_| {}).await.expect("created");
    bed.service.start("lost").await.expect("started");
    // The exit's document is written behind the reply; the acknowledgement says when.
    while *lock(&bed.world.acknowledged) == 0 {
        tokio::task::yield_now().await;
    }
    let runs = bed.service.core.containers.find("runs").expect("there").id().clone();

    let core = core_in(bed.dir.path(), &bed.world);
    let adopted = dockerd_runtime::Adopted {
        key: ProcessKey::Container(runs),
        pid: 99,
        pidfd: None,
        io: ProcessIo::default(),
        tty: false,
        exited: None,
    };
    // The supervisor still has an exit that is in the document already.
    let finished = bed.state("done").finished_at.expect("finished");
    let key = ProcessKey::Container(done);
    let exit = ProcessExit { key: key.clone(), code: ExitCode::Exited(7), at: finished, oom_killed: false };
    let known =
        dockerd_runtime::Adopted { key, pid: 0, pidfd: None, io: ProcessIo::default(), tty: false, exited: Some(exit) };
    boot::restore(&core, vec![adopted, known]).await.expect("restored");
    let state = |name: &str| core.containers.find(name).expect("there").snapshot().state.clone();
    assert_eq!((state("done").status, state("done").exit_code), (Status::Exited, 7));
    assert_eq!((state("runs").status, state("runs").pid), (Status::Running, 99));
    let mut watch = core.containers.find(lost.as_str()).expect("there").subscribe();
    watch.wait_for(|s| s.state.status == Status::Exited).await.expect("recorded");
    assert_eq!(state("lost").exit_code, 255);
}
