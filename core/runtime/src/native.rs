//! The native OCI runtime: makes the launch plan, asks the supervisor, hands back what runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use dockerd_sys::process as clone_bits;
use dockerd_types::signal::Signal;
use dockerd_types::{ContainerId, Timestamp};
use oci_spec::runtime::LinuxResources;

use crate::cgroup::{CgroupStats, JoinTarget};
use crate::driver::{
    BoxFuture, CREATE_CONTEXT, ControlError, EXEC_CONTEXT, ExecRequest, LaunchError, LaunchRequest, Launched,
    PhaseTimings, ProcessIo, ProcessKey, RuntimeDriver,
};
use crate::launch::build::{self, FdSet, PlanContext};
use crate::launch::plan::{ExecPlan, LaunchPlan, SetupFailure, Step};
use crate::shared::{Running, Shared, make_streams, terminal_streams};
use crate::supervisor::protocol::{Reply, Request};

/// Our own runtime, called `runc` towards clients, because that is the name they know for the default.
#[derive(Debug, Clone)]
pub(crate) struct NativeDriver {
    shared: Arc<Shared>,
}

impl NativeDriver {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn start_container(&self, request: LaunchRequest) -> Result<Launched, LaunchError> {
        let begun = Instant::now();
        let id = request.id.clone();
        let key = ProcessKey::Container(id.clone());
        let path = cgroup_path(&request);
        let result = match self.join_target(&request, &path).await {
            // Pipes and a look at namespace files: nothing that waits.
            Ok(join) => match plan(&self.shared, request, &path, join) {
                Ok((plan, fds, io)) => {
                    let request = Request::Launch(Box::new(plan));
                    self.submit(key, request, fds, io, begun, CREATE_CONTEXT).await
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.shared.forget_cgroup(&id);
            self.shared.cgroups.remove_later(&path);
        }
        result
    }

    /// How to get into the container's cgroup, which is made now unless it was reserved.
    async fn join_target(&self, request: &LaunchRequest, path: &str) -> Result<JoinTarget, LaunchError> {
        if let Some(join) = self.shared.take_reserved(&request.id) {
            return Ok(join);
        }
        let (this, spec, id, path) = (self.clone(), Arc::clone(&request.spec), request.id.clone(), path.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
            this.reserve(&id, &path, &resources)?;
            this.shared.take_reserved(&id).ok_or_else(|| LaunchError::Cgroup("taken away meanwhile".to_owned()))
        });
        made.await.map_err(|error| LaunchError::Supervisor(error.to_string()))?
    }

    async fn exec_process(&self, request: ExecRequest) -> Result<Launched, LaunchError> {
        let begun = Instant::now();
        let ExecRequest { container, exec, process, spec, stdio } = request;
        let not_running = || LaunchError::NotRunning(container.clone());
        let target = self.shared.pidfd(&ProcessKey::Container(container.clone())).ok_or_else(not_running)?;
        let mut fds = FdSet::default();
        let io_error = |error: std::io::Error| LaunchError::Supervisor(error.to_string());
        let join = self.shared.join_target(&container)?;
        let (stdio, io) = make_streams(stdio, &mut fds).map_err(io_error)?;
        let key = ProcessKey::Exec(container, exec);
        let plan = ExecPlan {
            key: key.clone(),
            target: fds.push(target.try_clone().map_err(io_error)?),
            namespaces: clone_bits::NEW_MOUNT
                | clone_bits::NEW_UTS
                | clone_bits::NEW_IPC
                | clone_bits::NEW_NET
                | clone_bits::NEW_CGROUP,
            cgroup: fds.push_cgroup(join),
            process: build::process_plan(&process, build::seccomp_of(&spec))?,
            stdio,
        };
        self.submit(key, Request::Exec(Box::new(plan)), fds.fds, io, begun, EXEC_CONTEXT).await
    }

    async fn submit(
        &self,
        key: ProcessKey,
        request: Request,
        fds: Vec<OwnedFd>,
        mut io: ProcessIo,
        begun: Instant,
        context: &'static str,
    ) -> Result<Launched, LaunchError> {
        let prepare = micros(begun);
        let sent = Instant::now();
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let client = self.shared.client();
        let answer = client.ask(request, &borrowed).await.map_err(|error| LaunchError::Supervisor(error.to_string()));
        let (reply, received) = answer?;
        let (pid, timings) = match reply {
            Reply::Started { pid, timings } => (pid, timings),
            Reply::Failed(failure) => return Err(explain(failure, context)),
            other => return Err(LaunchError::Supervisor(format!("{other:?}"))),
        };
        let mut received = received.into_iter();
        let pidfd = received.next().ok_or_else(|| LaunchError::Supervisor("no pidfd came".to_owned()))?;
        let terminal = received.next();
        let io_error = |error: std::io::Error| LaunchError::Supervisor(error.to_string());
        if let Some(master) = &terminal {
            io = terminal_streams(master).map_err(io_error)?;
        }
        let copy = pidfd.try_clone().map_err(io_error)?;
        self.shared.insert(key, Running { pid, pidfd: Arc::new(copy), terminal });
        let timings = PhaseTimings { prepare, round_trip: micros(sent), ..timings };
        Ok(Launched { pid, pidfd, started_at: Timestamp::now(), io, timings })
    }
}

/// The cgroup's directory below each hierarchy.
fn cgroup_path(request: &LaunchRequest) -> String {
    let asked = request.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    asked.map_or_else(|| format!("/docker/{}", request.id), |path| path.to_string_lossy().into_owned())
}

type Planned = (LaunchPlan, Vec<OwnedFd>, ProcessIo);

fn plan(shared: &Shared, request: LaunchRequest, path: &str, join: JoinTarget) -> Result<Planned, LaunchError> {
    let mut fds = FdSet::default();
    let streams = make_streams(request.stdio, &mut fds);
    let (stdio, io) = streams.map_err(|error| LaunchError::Supervisor(error.to_string()))?;
    let context =
        PlanContext { cgroups: &shared.cgroups, cgroup_path: path, join, mount_point: &shared.mount_point, stdio };
    let plan = build::launch_plan(request, context, &mut fds)?;
    Ok((plan, fds.fds, io))
}

/// What runc's users are told then.
const MOUNT_HINT: &str = "Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type";

/// A child's words as Docker's users know them from runc.
fn explain(failure: SetupFailure, context: &'static str) -> LaunchError {
    let SetupFailure { step, subject, errno, reason } = failure;
    let detail = match step {
        Step::ProgramMissing => return LaunchError::ProgramNotFound { context, program: subject, reason },
        Step::ProgramRefused => return LaunchError::ProgramRefused { context, program: subject, reason },
        Step::Exec => format!("exec: {subject:?}: {reason}"),
        // A file where a directory is meant, or the other way round: the commonest mistake with `-v`.
        Step::Mount if subject.starts_with('"') => format!("error mounting {subject}: {reason}: {MOUNT_HINT}"),
        Step::Mount => format!("error mounting {subject:?}: {reason}"),
        Step::Device => format!("error creating device nodes: {subject}: {reason}"),
        Step::Sysctl => format!("open {subject}: {reason}"),
        Step::WorkingDirectory if errno == rustix::io::Errno::NOTDIR.raw_os_error() => {
            return LaunchError::WorkingDirectory(subject);
        }
        Step::WorkingDirectory => format!("chdir to cwd ({subject:?}) set in config.json failed: {reason}"),
        Step::Root | Step::Pivot => format!("error preparing rootfs: {subject}: {reason}"),
        Step::Mask => format!("can't mask path {subject:?}: {reason}"),
        Step::Cgroup => format!("unable to apply cgroup configuration: {subject}: {reason}"),
        Step::Namespace => format!("namespace: {subject}: {reason}"),
        Step::Hostname => format!("sethostname: {reason}"),
        Step::Terminal => format!("terminal: {subject}: {reason}"),
        Step::Limits => format!("error setting {subject}: {reason}"),
        Step::User => format!("unable to set uid/gid {subject}: {reason}"),
        Step::Privileges => format!("unable to set {subject}: {reason}"),
    };
    LaunchError::Setup { context, detail, errno }
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

impl RuntimeDriver for NativeDriver {
    fn reserve(&self, id: &ContainerId, path: &str, resources: &LinuxResources) -> Result<(), LaunchError> {
        let made = self.shared.cgroups.create(path, resources);
        let cgroup = made.map_err(|error| LaunchError::Cgroup(error.to_string()))?;
        self.shared.set_cgroup(id, path);
        self.shared.keep_reserved(id, cgroup.join);
        Ok(())
    }

    fn start(&self, request: LaunchRequest) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        Box::pin(self.start_container(request))
    }

    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        Box::pin(self.exec_process(request))
    }

    fn signal(&self, key: &ProcessKey, signal: Signal) -> Result<(), ControlError> {
        self.shared.signal(key, signal)
    }

    fn kill_all(&self, id: &ContainerId) -> Result<(), ControlError> {
        self.shared.kill_all(id)
    }

    fn resize(&self, key: &ProcessKey, height: u16, width: u16) -> Result<(), ControlError> {
        self.shared.resize(key, height, width)
    }

    fn close_stdin(&self, key: &ProcessKey) -> Result<(), ControlError> {
        self.shared.close_stdin(key)
    }

    fn pause(&self, id: &ContainerId) -> Result<(), ControlError> {
        let path = self.shared.cgroup(id).ok_or(ControlError::NotRunning)?;
        Ok(self.shared.cgroups.freeze(&path)?)
    }

    fn resume(&self, id: &ContainerId) -> Result<(), ControlError> {
        let path = self.shared.cgroup(id).ok_or(ControlError::NotRunning)?;
        Ok(self.shared.cgroups.thaw(&path)?)
    }

    fn pids(&self, id: &ContainerId) -> Result<Vec<i32>, ControlError> {
        self.shared.pids(id)
    }

    fn stats(&self, id: &ContainerId) -> Result<CgroupStats, ControlError> {
        self.shared.stats(id)
    }

    fn delete(&self, id: &ContainerId) -> BoxFuture<'_, Result<(), ControlError>> {
        if let Some(path) = self.shared.forget_cgroup(id) {
            self.shared.cgroups.remove_later(&path);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
