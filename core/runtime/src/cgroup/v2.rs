//! Version 2: one directory in one tree. Processes are cloned into it, devices are guarded by a program.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dockerd_sys::{bpf, straggler};
use oci_spec::runtime::LinuxResources;

use super::devices::DeviceList;
use super::resources::{self, IfMissing, Setting};
use super::stats::{self, CgroupStats};
use super::{CgroupError, CgroupMount, JoinTarget, device_program, files};

/// How long a cgroup may take to freeze.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// Loaded device programs kept. Most containers share one; those given devices of their own come and go.
const PROGRAMS_KEPT: usize = 32;
/// Controllers handed down to containers where the host has them.
const CONTROLLERS: [&str; 8] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc"];

#[derive(Debug)]
pub(super) struct V2 {
    root: PathBuf,
    programs: Mutex<HashMap<DeviceList, Arc<OwnedFd>>>,
}

impl V2 {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, programs: Mutex::default() }
    }

    /// Makes the parent of containers and hands the controllers down to it, level by level.
    pub(super) fn prepare_parent(&self, path: &str) -> Result<(), CgroupError> {
        let dir = files::below(&self.root, path);
        files::make_all(&dir)?;
        let mut levels: Vec<&Path> = dir.ancestors().take_while(|level| level.starts_with(&self.root)).collect();
        levels.reverse();
        for level in levels {
            enable_controllers(level);
        }
        Ok(())
    }

    pub(super) fn make(&self, path: &str) -> io::Result<()> {
        fs::create_dir(files::below(&self.root, path))
    }

    pub(super) fn limit(&self, path: &str, resources: &LinuxResources, list: &DeviceList) -> Result<(), CgroupError> {
        let dir = files::below(&self.root, path);
        for setting in resources::v2(resources)? {
            write(&dir, &setting)?;
        }
        if *list == (DeviceList { default_allow: true, exceptions: Vec::new() }) {
            return Ok(());
        }
        let program = self.program(list, &dir)?;
        let cgroup = File::open(&dir).map_err(CgroupError::io("open", &dir))?;
        bpf::attach_device_program(&cgroup, &*program, None).map_err(CgroupError::io("attach device program to", &dir))
    }

    /// Changes limits. The device list of a living container is not changed: no Docker verb asks for it.
    pub(super) fn update(&self, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
        let dir = files::below(&self.root, path);
        resources::v2(resources)?.iter().try_for_each(|setting| write(&dir, setting))
    }

    pub(super) fn join_target(&self, path: &str) -> Result<JoinTarget, CgroupError> {
        let dir = files::below(&self.root, path);
        let fd = File::open(&dir).map_err(CgroupError::io("open", &dir))?;
        Ok(JoinTarget { clone_into: Some(fd.into()), tasks: Vec::new() })
    }

    pub(super) fn freeze(&self, path: &str) -> Result<(), CgroupError> {
        let dir = files::below(&self.root, path);
        files::write(&dir.join("cgroup.freeze"), "1")?;
        if wait_event(&dir, "frozen", 1, FREEZE_LIMIT)? {
            return Ok(());
        }
        files::write(&dir.join("cgroup.freeze"), "0")?;
        Err(CgroupError::FreezeTimeout(path.to_owned()))
    }

    pub(super) fn thaw(&self, path: &str) -> Result<(), CgroupError> {
        files::write(&files::below(&self.root, path).join("cgroup.freeze"), "0")
    }

    pub(super) fn pids(&self, path: &str) -> Result<Vec<i32>, CgroupError> {
        let dir = files::below(&self.root, path);
        files::processes(&dir).map_err(CgroupError::io("read", &dir))
    }

    pub(super) fn stats(&self, path: &str) -> CgroupStats {
        stats::read_v2(&files::below(&self.root, path))
    }

    pub(super) fn oom_kills(&self, path: &str) -> u64 {
        stats::oom_kills(&files::below(&self.root, path).join("memory.events"))
    }

    pub(super) fn remove(&self, path: &str) -> Result<bool, CgroupError> {
        files::remove_tree(&files::below(&self.root, path))
    }

    pub(super) fn kill_file(&self, path: &str) -> PathBuf {
        files::below(&self.root, path).join("cgroup.kill")
    }

    /// Waits until no process is left; `false` when that takes too long.
    pub(super) fn wait_empty(&self, path: &str, limit: Duration) -> Result<bool, CgroupError> {
        wait_event(&files::below(&self.root, path), "populated", 0, limit)
    }

    pub(super) fn container_mounts(&self) -> Vec<CgroupMount> {
        vec![CgroupMount::Unified]
    }

    fn program(&self, list: &DeviceList, dir: &Path) -> Result<Arc<OwnedFd>, CgroupError> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(list) {
            return Ok(Arc::clone(program));
        }
        let program = bpf::load_device_program(c"docker_devices", &device_program::compile(list))
            .map_err(CgroupError::io("load device program for", dir))?;
        if programs.len() >= PROGRAMS_KEPT {
            programs.clear();
        }
        let program = Arc::new(program);
        programs.insert(list.clone(), Arc::clone(&program));
        Ok(program)
    }
}

fn write(dir: &Path, setting: &Setting) -> Result<(), CgroupError> {
    let written = files::write(&dir.join(&*setting.file), &setting.value);
    let missing = |error: &CgroupError| error.errno() == Some(ENOENT);
    match (written, setting.if_missing) {
        (Err(error), IfMissing::Ignore) if missing(&error) => Ok(()),
        (Err(error), IfMissing::Try("io.weight")) if missing(&error) => {
            let weight = resources::io_weight(setting.value.parse().unwrap_or(0));
            files::write(&dir.join("io.weight"), &weight.to_string())
        }
        (Err(error), IfMissing::Try(other)) if missing(&error) => files::write(&dir.join(other), &setting.value),
        (Err(error), IfMissing::Fail) if missing(&error) && !setting.controller.is_empty() => {
            Err(CgroupError::ControllerMissing(setting.controller.to_owned()))
        }
        (written, _) => written,
    }
}

const ENOENT: i32 = 2;

/// Hands down what is there and is not handed down yet. A controller that cannot be (a level with processes, a nested
/// daemon without delegation) is left out: only a limit that needs it fails, later and by name.
fn enable_controllers(level: &Path) {
    let words = |file: &str| files::read(&level.join(file)).unwrap_or_default();
    let (available, enabled) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    let has = |text: &str, name: &str| text.split_ascii_whitespace().any(|word| word == name);
    let wanted: Vec<String> = CONTROLLERS
        .iter()
        .filter(|name| has(&available, name) && !has(&enabled, name))
        .map(|name| format!("+{name}"))
        .collect();
    let file = level.join("cgroup.subtree_control");
    if !wanted.is_empty() && files::write(&file, &wanted.join(" ")).is_err() {
        for one in wanted {
            if let Err(error) = files::write(&file, &one) {
                tracing::debug!(%error, controller = one, "controller not handed down");
            }
        }
    }
}

/// Waits for a line of `cgroup.events`, which the kernel announces; `false` when that takes too long.
fn wait_event(dir: &Path, key: &str, wanted: u64, limit: Duration) -> Result<bool, CgroupError> {
    use std::io::{Read as _, Seek as _};
    let path = dir.join("cgroup.events");
    let deadline = Instant::now() + limit;
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(CgroupError::io("open", &path)(error)),
    };
    loop {
        let mut text = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(CgroupError::io("read", &path))?;
        if files::parse_pairs(&text).iter().any(|(known, value)| known == key && *value == wanted) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        straggler::wait_changed(&file, left).map_err(CgroupError::io("poll", &path))?;
    }
}
