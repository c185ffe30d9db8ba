//! Finds the mounted hierarchies in `/proc/self/mountinfo`. Pure over the text, so every layout can be tested.

use std::path::{Path, PathBuf};

/// Which generation of cgroups this host uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// Controllers on version 1, no version 2 tree.
    V1,
    /// Controllers on version 1, beside a version 2 tree without controllers.
    Hybrid,
    /// Everything on version 2.
    V2,
}

/// One mounted version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its controllers; a hierarchy made only to name things has its `name=...` here.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// The last part of the mount point, the name it has below `/sys/fs/cgroup`.
    pub(super) fn name(&self) -> &str {
        self.mount.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Whether `controller` is on this hierarchy.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// What is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// Version 1 hierarchies, in mount order, each once.
    pub v1: Vec<Hierarchy>,
    /// The version 2 tree.
    pub unified: Option<PathBuf>,
}

impl Mounts {
    /// Reads the text of `/proc/self/mountinfo`.
    pub(super) fn parse(mountinfo: &str) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4).map(unescape) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) => mounts.add_unified(mount),
                (Some("cgroup"), Some(options)) => mounts.add_v1(mount, options),
                _ => {}
            }
        }
        mounts
    }

    /// The generation this amounts to; `None` if nothing is mounted.
    pub(super) fn mode(&self) -> Option<CgroupMode> {
        match (self.v1.iter().any(|h| h.has("memory") || h.has("pids") || h.has("cpu")), &self.unified) {
            (true, Some(_)) => Some(CgroupMode::Hybrid),
            (true, None) => Some(CgroupMode::V1),
            (false, Some(_)) => Some(CgroupMode::V2),
            (false, None) => None,
        }
    }

    fn add_unified(&mut self, mount: PathBuf) {
        let standard = |path: &Path| path.starts_with("/sys/fs/cgroup");
        if self.unified.as_deref().is_none_or(|known| standard(&mount) && !standard(known)) {
            self.unified = Some(mount);
        }
    }

    fn add_v1(&mut self, mount: PathBuf, options: &str) {
        // The mount flags come in field 6; the super block options hold the controllers and a few flags.
        const FLAGS: [&str; 8] =
            ["rw", "ro", "noprefix", "xattr", "clone_children", "cpuset_v2_mode", "favordynmods", "none"];
        let controllers: Vec<String> = options
            .split(',')
            .filter(|option| !FLAGS.contains(option) && !option.starts_with("release_agent="))
            .map(str::to_owned)
            .collect();
        if !controllers.is_empty() && !self.v1.iter().any(|known| known.controllers == controllers) {
            self.v1.push(Hierarchy { mount, controllers });
        }
    }
}

fn unescape(field: &str) -> PathBuf {
    if !field.contains('\\') {
        return PathBuf::from(field);
    }
    let text = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_with_one_controller_each() {
        let mounts = Mounts::parse(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw shared:4 - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(mounts.mode(), Some(CgroupMode::Hybrid));
        assert_eq!(mounts.v1.iter().map(Hierarchy::name).collect::<Vec<_>>(), ["cpu", "memory", "systemd"]);
        assert_eq!(mounts.v1[2].controllers, ["name=systemd"]);
        assert_eq!(mounts.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn controllers_sharing_a_hierarchy_and_repeated_mounts() {
        let mounts = Mounts::parse(
            "1 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             2 0 0:1 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct\n",
        );
        assert_eq!(mounts.mode(), Some(CgroupMode::V1));
        assert_eq!(mounts.v1.len(), 1);
        assert!(mounts.v1[0].has("cpuacct"));
        assert_eq!(mounts.v1[0].name(), "cpu,cpuacct");
    }

    #[test]
    fn unified_only_and_nothing() {
        let mounts = Mounts::parse(
            "1 0 0:1 / /mnt/c\\040d rw - cgroup2 cgroup2 rw\n2 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!((mounts.mode(), mounts.unified), (Some(CgroupMode::V2), Some(PathBuf::from("/sys/fs/cgroup"))));
        assert_eq!(Mounts::parse("1 0 0:1 / / rw - ext4 /dev/vda rw\n").mode(), None);
    }
}
