//! Control groups: where a container's processes are counted, limited, frozen and found. Owns the directories below
//! the configured parents in `/sys/fs/cgroup`; knows OCI resources, not containers. All calls are synchronous and
//! short (see `create`); removal has a background form.
//!
//! ```text
//! create --> CgroupHandle{join} --> (a process joins) --> freeze/thaw, stats, pids, update --> remove
//! ```

mod detect;
mod device_program;
mod devices;
mod error;
mod files;
mod reaper;
mod resources;
mod spares;
mod stats;
mod v1;
mod v2;

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dockerd_sys::straggler;
use oci_spec::runtime::LinuxResources;

pub use detect::CgroupMode;
pub use devices::{DeviceException, DeviceKind, DeviceList, access};
pub use error::CgroupError;
pub use resources::weight_of_shares;
pub use stats::{BlockIoEntry, BlockIoStats, CgroupStats, CpuStats, MemoryStats, PidsStats};

use reaper::Reaper;
use spares::{Kind, Spares};

/// How a new process gets into the cgroup.
#[derive(Debug)]
pub struct JoinTarget {
    /// Directory of a version 2 cgroup, for `clone3(CLONE_INTO_CGROUP)`.
    pub clone_into: Option<OwnedFd>,
    /// `tasks` files of version 1 cgroups. The new process, while it has one thread, writes `0` to each. (Writing
    /// another number, or to `cgroup.procs`, would work too, but wait for milliseconds: see `v1.rs`.)
    pub tasks: Vec<OwnedFd>,
}

impl JoinTarget {
    /// Another one of the same; an error when there are too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone_into = self.clone_into.as_ref().map(OwnedFd::try_clone).transpose()?;
        let tasks = self.tasks.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { clone_into, tasks })
    }
}

/// A cgroup that was just made.
#[derive(Debug)]
pub struct CgroupHandle {
    /// Its path, as given.
    pub path: String,
    /// How to get in.
    pub join: JoinTarget,
}

/// One step of building `/sys/fs/cgroup` inside a container; names are relative to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupMount {
    /// A tmpfs (mode 755; nosuid, nodev, noexec) at `/sys/fs/cgroup` itself.
    Tmpfs,
    /// Bind this host directory to directory `name` (read-only unless privileged; nosuid, nodev, noexec).
    Bind {
        /// Directory to make.
        name: String,
        /// Host directory.
        source: PathBuf,
    },
    /// In a private cgroup namespace: mount file system type `cgroup` with `options` on directory `name`.
    Hierarchy {
        /// Directory to make.
        name: String,
        /// Controllers.
        options: String,
    },
    /// Symbolic link `name` to `target`.
    Symlink {
        /// Link to make.
        name: String,
        /// What it says.
        target: String,
    },
    /// Mount file system type `cgroup2` at `/sys/fs/cgroup` itself.
    Unified,
}

/// The cgroups of this host. Clones share everything.
#[derive(Debug, Clone)]
pub struct CgroupDriver {
    shared: Arc<Shared>,
    reaper: Arc<Reaper>,
    /// Made with the first cgroup; none if that failed.
    spares: Arc<OnceLock<Option<Spares>>>,
}

#[derive(Debug)]
struct Shared {
    mode: CgroupMode,
    tree: AnyCgroup,
    /// Parents known to be set up.
    parents: Mutex<HashSet<String>>,
}

#[derive(Debug)]
enum AnyCgroup {
    V1(v1::V1),
    V2(v2::V2),
}

macro_rules! on_either {
    ($self:expr, $tree:ident => $call:expr) => {
        match &$self.tree {
            AnyCgroup::V1($tree) => $call,
            AnyCgroup::V2($tree) => $call,
        }
    };
}

impl CgroupDriver {
    /// Looks at what is mounted in this mount namespace.
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = files::read(path).map_err(CgroupError::io("read", path))?;
        let mounts = detect::Mounts::parse(&text);
        match (mounts.mode(), &mounts.unified) {
            (Some(CgroupMode::V2), Some(root)) => Ok(Self::with_v2_root(root.clone())),
            (Some(mode), _) => Ok(Self::new(mode, AnyCgroup::V1(v1::V1::new(mounts)))),
            (None, _) => Err(CgroupError::NotMounted),
        }
    }

    /// Uses the version 2 tree mounted at `root`, whatever else there is.
    pub fn with_v2_root(root: PathBuf) -> Self {
        Self::new(CgroupMode::V2, AnyCgroup::V2(v2::V2::new(root)))
    }

    fn new(mode: CgroupMode, tree: AnyCgroup) -> Self {
        Self {
            shared: Arc::new(Shared { mode, tree, parents: Mutex::default() }),
            reaper: Arc::default(),
            spares: Arc::default(),
        }
    }

    /// The generation in use.
    pub fn mode(&self) -> CgroupMode {
        self.shared.mode
    }

    /// Makes the cgroup `path` (absolute, its last part naming the container) and sets its limits. A left-over of the
    /// same path is removed first, with everything in it. Nothing remains on failure.
    pub fn create(&self, path: &str, resources: &LinuxResources) -> Result<CgroupHandle, CgroupError> {
        check_path(path)?;
        self.reaper.forget(path);
        let devices = DeviceList::resolve(resources.devices().as_deref().unwrap_or_default())?;
        let limited = match &self.shared.tree {
            AnyCgroup::V1(tree) => self.make_v1(tree, path, devices).and_then(|join| {
                tree.limit(path, resources)?;
                Ok(join)
            }),
            AnyCgroup::V2(tree) => {
                self.make(path)?;
                tree.limit(path, resources, &devices).and_then(|()| tree.join_target(path))
            }
        };
        match limited {
            Ok(join) => Ok(CgroupHandle { path: path.to_owned(), join }),
            Err(error) => {
                self.remove_later(path);
                Err(error)
            }
        }
    }

    /// Takes what was made ahead, or makes it.
    fn make_v1(&self, tree: &v1::V1, path: &str, devices: DeviceList) -> Result<JoinTarget, CgroupError> {
        let kind = Kind { parent: parent(path).to_owned(), devices };
        if let Some(spare) = self.spares().and_then(|spares| spares.take(&kind)) {
            match tree.rename(&spare.path, path) {
                Ok(()) => return tree.join_target_with(path, spare.tasks),
                Err(error) => {
                    tracing::debug!(%error, path, "a cgroup made ahead cannot be used");
                    self.remove_later(&spare.path);
                }
            }
        }
        self.make(path)?;
        tree.allow_devices(path, &kind.devices)?;
        tree.join_target(path)
    }

    fn spares(&self) -> Option<&Spares> {
        let start = || match Spares::start(Arc::clone(&self.shared)) {
            Ok(spares) => Some(spares),
            Err(error) => {
                tracing::warn!(%error, "cgroups cannot be made ahead");
                None
            }
        };
        self.spares.get_or_init(start).as_ref()
    }

    /// Removes cgroups below `parent` that were made ahead by a daemon that is gone. Blocking.
    pub fn sweep(&self, parent: &str) -> Result<(), CgroupError> {
        let AnyCgroup::V1(tree) = &self.shared.tree else { return Ok(()) };
        let left: HashSet<String> = tree.dirs(parent).flat_map(|dir| spares::left_behind(&dir)).collect();
        left.iter().try_for_each(|name| self.shared.remove(&format!("{}/{name}", parent.trim_end_matches('/'))))
    }

    /// How another process gets into a cgroup that exists (exec).
    pub fn join_target(&self, path: &str) -> Result<JoinTarget, CgroupError> {
        on_either!(self.shared, tree => tree.join_target(path))
    }

    /// Changes the limits that are set in `resources`, and no others.
    pub fn update(&self, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
        on_either!(self.shared, tree => tree.update(path, resources))
    }

    /// Stops all processes where they are; returns once they stand.
    pub fn freeze(&self, path: &str) -> Result<(), CgroupError> {
        on_either!(self.shared, tree => tree.freeze(path))
    }

    /// Lets them go on.
    pub fn thaw(&self, path: &str) -> Result<(), CgroupError> {
        on_either!(self.shared, tree => tree.thaw(path))
    }

    /// The processes in this cgroup and below, as the host numbers them. Empty if the cgroup is gone.
    pub fn pids(&self, path: &str) -> Result<Vec<i32>, CgroupError> {
        on_either!(self.shared, tree => tree.pids(path))
    }

    /// What was used so far. Counters that cannot be read are zero.
    pub fn stats(&self, path: &str) -> CgroupStats {
        on_either!(self.shared, tree => tree.stats(path))
    }

    /// How often the OOM killer struck in there. Ask before removal.
    pub fn oom_kills(&self, path: &str) -> u64 {
        on_either!(self.shared, tree => tree.oom_kills(path))
    }

    /// What to mount at `/sys/fs/cgroup` in the container, in order; `private` if it has its own cgroup namespace.
    pub fn container_mounts(&self, path: &str, private: bool) -> Vec<CgroupMount> {
        match &self.shared.tree {
            AnyCgroup::V1(tree) => tree.container_mounts(path, private),
            AnyCgroup::V2(tree) => tree.container_mounts(),
        }
    }

    /// Kills everything in the cgroup, frozen or not, and waits until it has ended. `false` if something does not end
    /// within `limit`.
    pub fn kill(&self, path: &str, limit: Duration) -> Result<bool, CgroupError> {
        self.shared.kill(path, limit)
    }

    /// Takes the cgroup away, killing what is left in it, also if that was to be done later. Idempotent. Waits only for
    /// processes to end, at most two seconds; for the start and stop paths there is [`CgroupDriver::remove_later`].
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        check_path(path)?;
        self.reaper.forget(path);
        self.shared.remove(path)
    }

    /// Has the background reaper take the cgroup away, with retries for up to a minute. Making the same path again
    /// is safe at any time: `create` takes over a removal that is still waiting.
    pub fn remove_later(&self, path: &str) {
        let shared = Arc::clone(&self.shared);
        self.reaper.submit(path, move |path| shared.remove(path));
    }

    /// The end: makes nothing ahead any more, and waits until no removal is waiting (shutdown, tests).
    pub fn drain(&self) {
        let spares = self.spares.get().and_then(Option::as_ref);
        for spare in spares.map(Spares::close).unwrap_or_default() {
            self.remove_later(&spare);
        }
        self.reaper.drain();
    }

    /// Has the waiting removals tried now, and waits for that.
    pub fn settle(&self) {
        self.reaper.settle();
    }

    fn make(&self, path: &str) -> Result<(), CgroupError> {
        let parent = parent(path);
        let known = self.parents().contains(parent);
        if !known {
            self.prepare_parent(parent)?;
        }
        let error = match on_either!(self.shared, tree => tree.make(path)) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // Either someone took the parent away, or a container of this name left something behind.
        match error.kind() {
            io::ErrorKind::NotFound => self.prepare_parent(parent)?,
            io::ErrorKind::AlreadyExists => {}
            _ => {
                self.remove_later(path);
                return Err(CgroupError::io("mkdir", Path::new(path))(error));
            }
        }
        self.shared.remove(path)?;
        on_either!(self.shared, tree => tree.make(path)).map_err(CgroupError::io("mkdir", Path::new(path)))
    }

    fn prepare_parent(&self, parent: &str) -> Result<(), CgroupError> {
        on_either!(self.shared, tree => tree.prepare_parent(parent))?;
        // Boot looks below the default parent only.
        if let Err(error) = self.sweep(parent) {
            tracing::warn!(%error, parent, "cgroups made ahead by an earlier daemon are left");
        }
        self.parents().insert(parent.to_owned());
        Ok(())
    }

    fn parents(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.shared.parents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn kill(&self, path: &str, limit: Duration) -> Result<bool, CgroupError> {
        let deadline = Instant::now() + limit;
        let switch = match &self.tree {
            AnyCgroup::V1(tree) => tree.kill_file(path),
            AnyCgroup::V2(tree) => Some(tree.kill_file(path)),
        };
        // The switch also catches what is being forked meanwhile. It is there since Linux 5.14; without it, or for
        // processes that are in the version 1 cgroups only, the rounds below do it.
        let switched = switch.is_some_and(|file| files::write(&file, "1").is_ok());
        if let AnyCgroup::V1(tree) = &self.tree {
            tree.release_frozen(path);
        } else if switched && let AnyCgroup::V2(tree) = &self.tree {
            return tree.wait_empty(path, limit);
        }
        loop {
            let victims = on_either!(self, tree => tree.pids(path))?;
            if victims.is_empty() {
                return Ok(true);
            }
            let pidfds: Vec<OwnedFd> =
                victims.into_iter().filter_map(|pid| straggler::kill(pid).ok().flatten()).collect();
            for pidfd in &pidfds {
                let left = deadline.saturating_duration_since(Instant::now());
                let ended = straggler::wait_readable(pidfd, left).map_err(CgroupError::io("poll", Path::new(path)))?;
                if !ended && Instant::now() >= deadline {
                    return Ok(false);
                }
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
    }

    /// Takes a cgroup away, killing what is left in it. Idempotent. Blocking.
    fn remove(&self, path: &str) -> Result<(), CgroupError> {
        const PATIENCE: Duration = Duration::from_secs(2);
        const ROUNDS: u32 = 64;
        for _ in 0..ROUNDS {
            if on_either!(self, tree => tree.remove(path))? {
                return Ok(());
            }
            if !self.kill(path, PATIENCE)? {
                break;
            }
            // Nothing is listed any more, but a process on its last instructions still counts. Let it have the CPU.
            std::thread::yield_now();
        }
        Err(CgroupError::Busy(path.to_owned()))
    }

    /// Makes a cgroup ahead, below a parent that is there; its `tasks` files.
    fn make_spare(&self, path: &str, devices: &DeviceList) -> Result<Vec<OwnedFd>, CgroupError> {
        let AnyCgroup::V1(tree) = &self.tree else { return Err(CgroupError::NotMounted) };
        tree.make_movable(path).map_err(CgroupError::io("mkdir", Path::new(path)))?;
        tree.allow_devices(path, devices)?;
        tree.open_tasks(path)
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Absolute, not the root, and no part that is empty or climbs.
fn check_path(path: &str) -> Result<(), CgroupError> {
    let parts = path.strip_prefix('/').ok_or_else(|| CgroupError::InvalidPath(path.to_owned()))?;
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0') || part.contains('\n');
    if parts.split('/').any(bad) { Err(CgroupError::InvalidPath(path.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
