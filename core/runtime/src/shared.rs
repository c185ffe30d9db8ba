//! What the drivers of one daemon share: the connection to the supervisor, the cgroups, and the processes that run.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use dockerd_sys::process;
use dockerd_types::ContainerId;
use dockerd_types::signal::Signal;
use tokio::sync::watch;

use crate::cgroup::{CgroupDriver, CgroupStats, JoinTarget};
use crate::driver::{ControlError, LaunchError, ProcessIo, ProcessKey, StdioRequest};
use crate::launch::build::FdSet;
use crate::launch::plan::StdioPlan;
use crate::supervisor::client::Client;
use crate::supervisor::entry;
use crate::supervisor::protocol::Request;

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: i32,
    pub(crate) pidfd: Arc<OwnedFd>,
    /// The terminal's master, for its size.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Shared state of the drivers.
#[derive(Debug)]
pub(crate) struct Shared {
    client: RwLock<Arc<Client>>,
    pub(crate) cgroups: CgroupDriver,
    pub(crate) exec_root: PathBuf,
    /// Where new roots are attached, in the mount namespaces of their containers only. Nothing a container could be given
    /// lies below it, for there it is hidden.
    pub(crate) mount_point: PathBuf,
    processes: Mutex<HashMap<ProcessKey, Running>>,
    /// The supervisor was asked to end, so its loss is no accident.
    pub(crate) ending: AtomicBool,
    cgroup_paths: Mutex<HashMap<ContainerId, String>>,
    /// Counts supervisors that have come in the place of a lost one.
    pub(crate) replacements: watch::Sender<u64>,
    /// Ways into cgroups that were made ahead of their container's start.
    reserved: Mutex<HashMap<ContainerId, JoinTarget>>,
    /// Ways into cgroups of containers that have had an exec; there will be more of them.
    joins: Mutex<HashMap<ContainerId, JoinTarget>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(client: Client, cgroups: CgroupDriver, exec_root: PathBuf) -> Self {
        Self {
            client: RwLock::new(Arc::new(client)),
            cgroups,
            mount_point: entry::journal_dir(&exec_root),
            exec_root,
            processes: Mutex::default(),
            ending: AtomicBool::new(false),
            cgroup_paths: Mutex::default(),
            replacements: watch::Sender::default(),
            reserved: Mutex::default(),
            joins: Mutex::default(),
        }
    }

    /// The connection of now.
    pub(crate) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new supervisor has taken the place of a lost one.
    pub(crate) fn replace_client(&self, client: Client) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(client);
    }

    /// Remembers a process that runs. One that has ended already is left out: its exit may have been dealt with before
    /// its start was, and then nobody would take it out again.
    pub(crate) fn insert(&self, key: ProcessKey, running: Running) {
        let mut processes = lock(&self.processes);
        if !process::has_ended(&running.pidfd) {
            processes.insert(key, running);
        }
    }

    /// Forgets a process that has ended.
    pub(crate) fn remove(&self, key: &ProcessKey) {
        lock(&self.processes).remove(key);
    }

    /// The pidfd of a process that runs.
    pub(crate) fn pidfd(&self, key: &ProcessKey) -> Option<Arc<OwnedFd>> {
        lock(&self.processes).get(key).map(|running| Arc::clone(&running.pidfd))
    }

    /// Everything that runs, for watching it without a supervisor.
    pub(crate) fn running(&self) -> Vec<(ProcessKey, i32, Arc<OwnedFd>)> {
        let entry = |(key, running): (&ProcessKey, &Running)| (key.clone(), running.pid, Arc::clone(&running.pidfd));
        lock(&self.processes).iter().map(entry).collect()
    }

    /// Whether a process runs on a terminal.
    pub(crate) fn has_terminal(&self, key: &ProcessKey) -> bool {
        lock(&self.processes).get(key).is_some_and(|running| running.terminal.is_some())
    }

    pub(crate) fn set_cgroup(&self, id: &ContainerId, path: &str) {
        lock(&self.cgroup_paths).insert(id.clone(), path.to_owned());
    }

    /// Keeps the way into a cgroup for the start that is to come.
    pub(crate) fn keep_reserved(&self, id: &ContainerId, join: JoinTarget) {
        lock(&self.reserved).insert(id.clone(), join);
    }

    /// The way into the cgroup that was made ahead, once.
    pub(crate) fn take_reserved(&self, id: &ContainerId) -> Option<JoinTarget> {
        lock(&self.reserved).remove(id)
    }

    pub(crate) fn cgroup(&self, id: &ContainerId) -> Option<String> {
        lock(&self.cgroup_paths).get(id).cloned()
    }

    /// A way into the cgroup of a container that runs.
    pub(crate) fn join_target(&self, id: &ContainerId) -> Result<JoinTarget, LaunchError> {
        let failed = |error: &dyn std::fmt::Display| LaunchError::Cgroup(error.to_string());
        // Before the look for the cgroup: one that goes meanwhile takes what is put there.
        let mut joins = lock(&self.joins);
        let path = self.cgroup(id).ok_or_else(|| LaunchError::NotRunning(id.clone()))?;
        let known = match joins.entry(id.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.cgroups.join_target(&path).map_err(|error| failed(&error))?),
        };
        known.try_clone().map_err(|error| failed(&error))
    }

    pub(crate) fn forget_cgroup(&self, id: &ContainerId) -> Option<String> {
        drop(self.take_reserved(id));
        let path = lock(&self.cgroup_paths).remove(id);
        lock(&self.joins).remove(id);
        path
    }

    /// Sends a signal to one process.
    pub(crate) fn signal(&self, key: &ProcessKey, signal: Signal) -> Result<(), ControlError> {
        let pidfd = self.pidfd(key).ok_or(ControlError::NotRunning)?;
        match process::pidfd_signal(&*pidfd, signal.number()) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Err(ControlError::NotRunning)
            }
            other => other.map_err(|source| ControlError::Io { action: "signal", source }),
        }
    }

    /// Kills everything in the container's cgroup.
    pub(crate) fn kill_all(&self, id: &ContainerId) -> Result<(), ControlError> {
        for pid in self.pids(id)? {
            match process::kill(pid, Signal::KILL.number()) {
                Err(error) if error.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                    return Err(ControlError::Io { action: "kill", source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn pids(&self, id: &ContainerId) -> Result<Vec<i32>, ControlError> {
        let path = self.cgroup(id).ok_or(ControlError::NotRunning)?;
        Ok(self.cgroups.pids(&path)?)
    }

    pub(crate) fn stats(&self, id: &ContainerId) -> Result<CgroupStats, ControlError> {
        let path = self.cgroup(id).ok_or(ControlError::NotRunning)?;
        Ok(self.cgroups.stats(&path))
    }

    pub(crate) fn resize(&self, key: &ProcessKey, height: u16, width: u16) -> Result<(), ControlError> {
        let processes = lock(&self.processes);
        let running = processes.get(key).ok_or(ControlError::NotRunning)?;
        // A process without a terminal has no size to set; Docker answers success.
        let Some(terminal) = &running.terminal else { return Ok(()) };
        dockerd_sys::pty::resize(terminal, height, width)
            .map_err(|source| ControlError::Io { action: "resize", source })
    }

    pub(crate) fn close_stdin(&self, key: &ProcessKey) -> Result<(), ControlError> {
        let told = self.client().tell_now(Request::CloseStdin(key.clone()), &[]);
        told.map_err(|error| ControlError::Io { action: "close stdin", source: io::Error::other(error) })
    }
}

/// Makes the pipes `request` asks for: the plan with the positions of all ends in `fds`, and the daemon's ends.
pub(crate) fn make_streams(request: StdioRequest, fds: &mut FdSet) -> io::Result<(StdioPlan, ProcessIo)> {
    use rustix::pipe::{PipeFlags, pipe_with};
    let mut plan = StdioPlan { request, ..StdioPlan::default() };
    let mut io = ProcessIo::default();
    if request.tty {
        return Ok((plan, io));
    }
    let mut place = |slot: usize, child: OwnedFd, daemon: &OwnedFd| -> io::Result<()> {
        rustix::io::ioctl_fionbio(daemon, true)?;
        plan.child[slot] = Some(fds.push(child));
        plan.daemon[slot] = Some(fds.push(daemon.try_clone()?));
        Ok(())
    };
    if request.stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        place(0, read, &write)?;
        io.stdin = Some(write);
    }
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    place(1, write, &read)?;
    io.stdout = Some(read);
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    place(2, write, &read)?;
    io.stderr = Some(read);
    Ok((plan, io))
}

/// The daemon's ends of a terminal: duplicates of its master.
pub(crate) fn terminal_streams(master: &OwnedFd) -> io::Result<ProcessIo> {
    rustix::io::ioctl_fionbio(master.as_fd(), true)?;
    Ok(ProcessIo { stdin: Some(master.try_clone()?), stdout: Some(master.try_clone()?), ..ProcessIo::default() })
}
