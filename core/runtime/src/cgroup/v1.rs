//! Version 1: one directory in each hierarchy. On a hybrid host the (controller-less) version 2 tree gets one too, for
//! its kill switch and because the stock tools put containers there as well.
//!
//! Joining goes through the `tasks` files, and only the joining process itself may write, the number 0. That is the
//! one form of migration that does not take the kernel's lock over all thread groups, whose first writer after a quiet
//! spell waits for an RCU grace period (6 ms measured, against 0.1 ms for nine hierarchies this way).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;

use super::detect::{Hierarchy, Mounts};
use super::devices::DeviceList;
use super::resources::{self, IfMissing, Setting};
use super::stats::{self, CgroupStats};
use super::{CgroupError, CgroupMount, JoinTarget, files};

/// How long a cgroup may take to freeze. A process in an uninterruptible wait cannot be frozen before it wakes.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct V1 {
    hierarchies: Vec<Hierarchy>,
    unified: Option<PathBuf>,
}

impl V1 {
    pub(super) fn new(mounts: Mounts) -> Self {
        Self { hierarchies: mounts.v1, unified: mounts.unified }
    }

    /// Makes the parent of containers in every hierarchy, with its children inheriting the CPU set.
    pub(super) fn prepare_parent(&self, path: &str) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            let dir = files::below(&hierarchy.mount, path);
            files::make_all(&dir)?;
            if hierarchy.has("cpuset") {
                self.prepare_cpuset(hierarchy, &dir)?;
            }
        }
        self.unified.iter().try_for_each(|mount| files::make_all(&files::below(mount, path)))
    }

    pub(super) fn make(&self, path: &str) -> io::Result<()> {
        self.make_movable(path)?;
        self.make_unified(path)
    }

    pub(super) fn limit(&self, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
        resources::v1(resources)?.iter().try_for_each(|setting| self.write(path, setting))
    }

    /// Makes a cgroup that [`rename`](Self::rename) can move: in the version 1 hierarchies only.
    pub(super) fn make_movable(&self, path: &str) -> io::Result<()> {
        self.dirs(path).try_for_each(fs::create_dir)
    }

    /// Gives what was made movable its name. In part only if it fails.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dirs(from).zip(self.dirs(to)).try_for_each(|(from, to)| fs::rename(from, to))?;
        self.make_unified(to)
    }

    fn make_unified(&self, path: &str) -> io::Result<()> {
        self.unified.iter().try_for_each(|mount| fs::create_dir(files::below(mount, path)))
    }

    /// The directory `path` of each hierarchy.
    pub(super) fn dirs(&self, path: &str) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(move |hierarchy| files::below(&hierarchy.mount, path))
    }

    pub(super) fn update(&self, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
        let mut settings = resources::v1(resources)?;
        self.order_memory(path, &mut settings);
        let mut at = 0;
        while at < settings.len() {
            match self.write(path, &settings[at]) {
                // A new period can be too short for the old quota; then the quota goes first.
                Err(error) if error.errno() == Some(EINVAL) && settings[at].file == "cpu.cfs_period_us" => {
                    if settings.get(at + 1).is_none_or(|next| next.file != "cpu.cfs_quota_us") {
                        return Err(error);
                    }
                    self.write(path, &settings[at + 1])?;
                    self.write(path, &settings[at])?;
                    at += 1;
                }
                other => other?,
            }
            at += 1;
        }
        match resources.devices() {
            Some(rules) => self.allow_devices(path, &DeviceList::resolve(rules)?),
            None => Ok(()),
        }
    }

    pub(super) fn join_target(&self, path: &str) -> Result<JoinTarget, CgroupError> {
        self.join_target_with(path, self.open_tasks(path)?)
    }

    /// As [`join_target`](Self::join_target), where the `tasks` files are open already.
    pub(super) fn join_target_with(&self, path: &str, tasks: Vec<OwnedFd>) -> Result<JoinTarget, CgroupError> {
        let open = |directory: PathBuf| {
            let opened = File::open(&directory).map(OwnedFd::from);
            opened.map_err(CgroupError::io("open", &directory))
        };
        let unified = self.unified.as_deref().map(|mount| open(files::below(mount, path)));
        Ok(JoinTarget { clone_into: unified.transpose()?, tasks })
    }

    pub(super) fn open_tasks(&self, path: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |directory: PathBuf| {
            let file = directory.join("tasks");
            let opened = OpenOptions::new().write(true).open(&file).map(OwnedFd::from);
            opened.map_err(CgroupError::io("open", &file))
        };
        self.dirs(path).map(open).collect()
    }

    pub(super) fn freeze(&self, path: &str) -> Result<(), CgroupError> {
        let file = self.freezer(path)?;
        let deadline = Instant::now() + FREEZE_LIMIT;
        let mut rounds = 0u32;
        loop {
            // Writing again catches processes forked while the others were being frozen.
            files::write(&file, "FROZEN")?;
            if files::read(&file).map_err(CgroupError::io("read", &file))?.trim() == "FROZEN" {
                return Ok(());
            }
            if Instant::now() > deadline {
                files::write(&file, "THAWED")?;
                return Err(CgroupError::FreezeTimeout(path.to_owned()));
            }
            // Version 1 has no notification for this; almost always the second look suffices.
            rounds += 1;
            if rounds < 50 { thread::yield_now() } else { thread::sleep(Duration::from_micros(200)) }
        }
    }

    pub(super) fn thaw(&self, path: &str) -> Result<(), CgroupError> {
        files::write(&self.freezer(path)?, "THAWED")
    }

    pub(super) fn pids(&self, path: &str) -> Result<Vec<i32>, CgroupError> {
        let dir = self.any_dir(path)?;
        files::processes(&dir).map_err(CgroupError::io("read", &dir))
    }

    pub(super) fn stats(&self, path: &str) -> CgroupStats {
        let dirs: Vec<PathBuf> = self.dirs(path).collect();
        stats::read_v1(|controller| {
            self.hierarchies.iter().position(|h| h.has(controller)).map(|index| dirs[index].as_path())
        })
    }

    pub(super) fn oom_kills(&self, path: &str) -> u64 {
        self.dir("memory", path).map_or(0, |dir| stats::oom_kills(&dir.join("memory.oom_control")))
    }

    /// Tries to take the directories away; `false` if processes are still in there.
    pub(super) fn remove(&self, path: &str) -> Result<bool, CgroupError> {
        let mut gone = true;
        for mount in self.mounts() {
            gone &= files::remove_tree(&files::below(mount, path))?;
        }
        Ok(gone)
    }

    /// A frozen process does not die. The kill switch of the version 2 tree does not thaw version 1.
    pub(super) fn release_frozen(&self, path: &str) {
        if let Ok(file) = self.freezer(path) {
            // The cgroup may be gone already, which is as good.
            let _ = files::write(&file, "THAWED");
        }
    }

    pub(super) fn kill_file(&self, path: &str) -> Option<PathBuf> {
        self.unified.as_deref().map(|mount| files::below(mount, path).join("cgroup.kill"))
    }

    /// What the container sees at `/sys/fs/cgroup`: a tmpfs with each hierarchy below it, from its own cgroup down.
    pub(super) fn container_mounts(&self, path: &str, private: bool) -> Vec<CgroupMount> {
        let mut mounts = vec![CgroupMount::Tmpfs];
        for hierarchy in &self.hierarchies {
            let name = hierarchy.name().to_owned();
            mounts.push(if private {
                CgroupMount::Hierarchy { name: name.clone(), options: hierarchy.controllers.join(",") }
            } else {
                CgroupMount::Bind { name: name.clone(), source: files::below(&hierarchy.mount, path) }
            });
            if hierarchy.controllers.len() > 1 {
                let links = hierarchy.controllers.iter().filter(|controller| **controller != name);
                mounts.extend(links.map(|c| CgroupMount::Symlink { name: c.clone(), target: name.clone() }));
            }
        }
        mounts
    }

    fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.mount.as_path()).chain(self.unified.as_deref())
    }

    fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        self.hierarchies.iter().find(|h| h.has(controller)).map(|h| files::below(&h.mount, path))
    }

    fn any_dir(&self, path: &str) -> Result<PathBuf, CgroupError> {
        ["pids", "devices", "freezer", "memory"]
            .iter()
            .find_map(|controller| self.dir(controller, path))
            .ok_or(CgroupError::NotMounted)
    }

    fn freezer(&self, path: &str) -> Result<PathBuf, CgroupError> {
        let dir = self.dir("freezer", path).ok_or_else(|| CgroupError::ControllerMissing("freezer".to_owned()))?;
        Ok(dir.join("freezer.state"))
    }

    fn write(&self, path: &str, setting: &Setting) -> Result<(), CgroupError> {
        let Some(dir) = self.dir(setting.controller, path) else {
            return match setting.if_missing {
                IfMissing::Ignore => Ok(()),
                IfMissing::Fail | IfMissing::Try(_) => {
                    Err(CgroupError::ControllerMissing(setting.controller.to_owned()))
                }
            };
        };
        let written = files::write(&dir.join(&*setting.file), &setting.value);
        match (written, setting.if_missing) {
            (Err(error), IfMissing::Ignore) if error.errno() == Some(ENOENT) => Ok(()),
            (Err(error), IfMissing::Try(other)) if error.errno() == Some(ENOENT) => {
                files::write(&dir.join(other), &setting.value)
            }
            (written, _) => written,
        }
    }

    /// Kernel rule: the limit with swap is never below the one without. Growing, the former goes first.
    fn order_memory(&self, path: &str, settings: &mut [Setting]) {
        let find = |file: &str| settings.iter().position(|setting| setting.file == file);
        let (Some(limit), Some(swap)) = (find("memory.limit_in_bytes"), find("memory.memsw.limit_in_bytes")) else {
            return;
        };
        let current = self
            .dir("memory", path)
            .and_then(|dir| files::number(&dir.join("memory.memsw.limit_in_bytes")))
            .unwrap_or(u64::MAX);
        let wanted = settings[limit].value.parse::<u64>().unwrap_or(u64::MAX);
        if wanted > current {
            settings.swap(limit, swap);
        }
    }

    pub(super) fn allow_devices(&self, path: &str, list: &DeviceList) -> Result<(), CgroupError> {
        let Some(dir) = self.dir("devices", path) else { return Ok(()) };
        // A fresh cgroup has what its parent has. More than that it cannot get, so "everything" needs no write; but
        // an update may have to widen an earlier list.
        let (reset, exceptions) =
            if list.default_allow { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
        let mut state = OpenState::new(&dir);
        state.write(reset, "a")?;
        list.exceptions.iter().try_for_each(|exception| state.write(exceptions, &exception.text()))
    }

    fn prepare_cpuset(&self, hierarchy: &Hierarchy, dir: &Path) -> Result<(), CgroupError> {
        let mut missing: Vec<&Path> = dir.ancestors().take_while(|level| level.starts_with(&hierarchy.mount)).collect();
        missing.reverse();
        for pair in missing.windows(2) {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let target = pair[1].join(file);
                if files::read(&target).is_ok_and(|text| text.trim().is_empty()) {
                    let source = pair[0].join(file);
                    let value = files::read(&source).map_err(CgroupError::io("read", &source))?;
                    files::write(&target, value.trim())?;
                }
            }
        }
        files::write(&dir.join("cgroup.clone_children"), "1")
    }
}

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;

/// Keeps the last file open over a row of writes to it.
struct OpenState<'a> {
    dir: &'a Path,
    open: Option<(&'static str, File)>,
}

impl<'a> OpenState<'a> {
    fn new(dir: &'a Path) -> Self {
        Self { dir, open: None }
    }

    fn write(&mut self, name: &'static str, value: &str) -> Result<(), CgroupError> {
        use std::io::Write as _;
        let path = self.dir.join(name);
        if self.open.as_ref().is_none_or(|(known, _)| *known != name) {
            let file = OpenOptions::new().write(true).open(&path).map_err(CgroupError::io("open", &path))?;
            self.open = Some((name, file));
        }
        let Some((_, file)) = &mut self.open else { return Ok(()) };
        file.write_all(value.as_bytes()).map_err(|source| CgroupError::Write { value: value.to_owned(), path, source })
    }
}
