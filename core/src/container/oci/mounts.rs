//! The mounts of a specification: Docker's defaults, what the user asked for laid over them, `/dev/shm` and the files
//! over `/etc`.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use dockerd_types::container::HostConfig;
use oci_spec::runtime::Mount;

use super::{OciInput, SpecError, mount};

/// A user mount with its host side known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedMount {
    /// Host path.
    pub source: PathBuf,
    /// Path in the container.
    pub destination: String,
    /// What kind.
    pub kind: ResolvedKind,
    /// Read-only.
    pub read_only: bool,
    /// Propagation, empty for none.
    pub propagation: String,
}

/// Kinds of [`ResolvedMount`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvedKind {
    /// A bind.
    Bind {
        /// bind instead of rbind.
        non_recursive: bool,
        /// Read-only at the top only.
        top_read_only: bool,
    },
    /// A tmpfs with these options.
    Tmpfs(Vec<String>),
}

/// What lies at `/dev/shm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shm {
    /// Nothing of ours.
    None,
    /// A tmpfs of the container alone, of this size.
    Private(u64),
    /// A directory of the host: the host's, another container's or this shareable container's.
    Bind(PathBuf),
}

/// The files bound over the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFiles {
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `/etc/hostname`.
    pub hostname: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
}

pub(super) fn build(input: &OciInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let host = &input.spec.host;
    let user = user_mounts(input)?;
    let taken: HashSet<&str> = user.iter().filter_map(|m| m.destination().to_str()).collect();
    let own_dev = taken.contains("/dev");
    let mut out: Vec<Mount> = defaults(host, input.security.writable_cgroups)?
        .into_iter()
        .filter(|m| {
            let at = m.destination().to_str().unwrap_or_default();
            let covered = own_dev && at.starts_with("/dev/");
            !covered && !taken.contains(at)
        })
        .collect();
    if host.readonly_rootfs {
        out.iter_mut().for_each(make_default_read_only);
    }
    if !taken.contains("/dev/shm") {
        out.extend(shm(&input.shm)?);
    }
    out.extend(user.iter().cloned());
    if let Some(files) = &input.files {
        let pairs = [
            ("/etc/resolv.conf", &files.resolv_conf),
            ("/etc/hostname", &files.hostname),
            ("/etc/hosts", &files.hosts),
        ];
        for (at, source) in pairs {
            if !taken.contains(at) {
                out.push(file_bind(at, source, host.readonly_rootfs)?);
            }
        }
    }
    Ok(out)
}

fn defaults(host: &HostConfig, writable_cgroups: bool) -> Result<Vec<Mount>, SpecError> {
    // Privileged containers see /sys and the cgroups writable, unless their root is read-only as a whole.
    let ro = if host.privileged && !host.readonly_rootfs { None } else { Some("ro") };
    let cgroup_ro = if writable_cgroups { None } else { ro };
    let with = |base: &[&'static str], ro: Option<&'static str>| -> Vec<&'static str> {
        base.iter().copied().chain(ro).collect()
    };
    let quiet = ["nosuid", "noexec", "nodev"];
    Ok(vec![
        mount("/proc", "proc", "proc", &quiet)?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/sys", "sysfs", "sysfs", &with(&quiet, ro))?,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &with(&quiet, cgroup_ro))?,
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet)?,
    ])
}

/// With a read-only root the default mounts are read-only too, but for those a program cannot live without.
fn make_default_read_only(mount: &mut Mount) {
    const WRITABLE: [&str; 5] = ["/proc", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts"];
    if mount.destination().to_str().is_some_and(|at| WRITABLE.contains(&at)) {
        return;
    }
    let mut options = mount.options().clone().unwrap_or_default();
    if !options.iter().any(|o| o == "ro") {
        options.push("ro".to_owned());
        mount.set_options(Some(options));
    }
}

fn shm(shm: &Shm) -> Result<Option<Mount>, SpecError> {
    Ok(match shm {
        Shm::None => None,
        Shm::Private(size) => {
            let size = format!("size={size}");
            Some(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size])?)
        }
        Shm::Bind(path) => Some(mount("/dev/shm", "bind", &path.to_string_lossy(), &["rbind", "rprivate"])?),
    })
}

fn file_bind(at: &str, source: &std::path::Path, read_only: bool) -> Result<Mount, SpecError> {
    let source = source.to_string_lossy();
    if read_only {
        mount(at, "bind", &source, &["rbind", "ro", "rprivate"])
    } else {
        mount(at, "bind", &source, &["rbind", "rprivate"])
    }
}

/// Binds, volumes, typed mounts and the tmpfs map; parents before children.
fn user_mounts(input: &OciInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let mut sorted: BTreeMap<(usize, String), Mount> = BTreeMap::new();
    for resolved in &input.mounts {
        let key = (depth(&resolved.destination), resolved.destination.clone());
        sorted.insert(key, resolved_mount(resolved, input.host.recursive_read_only)?);
    }
    for (at, options) in &input.spec.host.tmpfs {
        let user = options.split(',').filter(|o| !o.is_empty());
        sorted.insert((depth(at), at.clone()), tmpfs(at, user)?);
    }
    Ok(sorted.into_values().collect())
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

fn resolved_mount(resolved: &ResolvedMount, recursive_read_only: bool) -> Result<Mount, SpecError> {
    match &resolved.kind {
        ResolvedKind::Tmpfs(options) => {
            let ro = resolved.read_only.then_some("ro");
            tmpfs(&resolved.destination, options.iter().map(String::as_str).chain(ro))
        }
        ResolvedKind::Bind { non_recursive, top_read_only } => {
            let mut options = vec![if *non_recursive { "bind" } else { "rbind" }];
            if resolved.read_only {
                let recursive = recursive_read_only && !non_recursive && !top_read_only;
                options.push(if recursive { "rro" } else { "ro" });
            }
            if !resolved.propagation.is_empty() {
                options.push(&resolved.propagation);
            }
            mount(&resolved.destination, "bind", &resolved.source.to_string_lossy(), &options)
        }
    }
}

/// A tmpfs with Docker's base options; what the user wrote later wins over what contradicts it.
fn tmpfs<'a>(at: &str, user: impl Iterator<Item = &'a str>) -> Result<Mount, SpecError> {
    let mut options: Vec<&str> = vec!["noexec", "nosuid", "nodev", "rprivate"];
    for option in user {
        options.retain(|have| !contradicts(have, option));
        options.push(option);
    }
    mount(at, "tmpfs", "tmpfs", &options)
}

fn contradicts(have: &str, new: &str) -> bool {
    const OPPOSITES: [(&str, &str); 6] = [
        ("noexec", "exec"),
        ("nosuid", "suid"),
        ("nodev", "dev"),
        ("ro", "rw"),
        ("sync", "async"),
        ("atime", "noatime"),
    ];
    let key = |option: &str| option.split_once('=').map(|(key, _)| key.to_owned());
    have == new
        || (key(have).is_some() && key(have) == key(new))
        || OPPOSITES.iter().any(|&(a, b)| (have == a && new == b) || (have == b && new == a))
        || (is_propagation(have) && is_propagation(new))
}

fn is_propagation(option: &str) -> bool {
    matches!(option, "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable")
}

/// A shared or slave mount needs the root file system to receive events too.
pub(super) fn rootfs_propagation(mounts: &[ResolvedMount]) -> Option<&'static str> {
    let any = |kinds: [&str; 2]| mounts.iter().any(|m| kinds.contains(&&*m.propagation));
    if any(["shared", "rshared"]) {
        Some("shared")
    } else if any(["slave", "rslave"]) {
        Some("rslave")
    } else {
        None
    }
}
