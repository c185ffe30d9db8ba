//! From an OCI runtime description to a launch plan: everything that can be decided before `clone3` is decided here, in
//! the daemon. Pure but for opening namespace files.

use std::os::fd::OwnedFd;
use std::path::Path;

use dockerd_sys::mount::{Propagation, READ_ONLY};
use dockerd_sys::process as clone_bits;
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxSeccomp, Mount, PosixRlimitType, Process, Spec};

use super::options::MountOptions;
use super::plan::{
    CapabilityPlan, CgroupJoin, DeviceNode, FdIndex, JoinNamespace, LaunchPlan, MountSource, MountStep, ProcessPlan,
    StdioPlan,
};
use super::sysctl;
use crate::capabilities;
use crate::cgroup::{CgroupDriver, CgroupMount, JoinTarget};
use crate::driver::{LaunchError, LaunchRequest, ProcessKey};
use crate::seccomp;

/// Descriptors that travel with a plan, in the order their positions say.
#[derive(Debug, Default)]
pub(crate) struct FdSet {
    /// The descriptors.
    pub(crate) fds: Vec<OwnedFd>,
}

impl FdSet {
    /// Adds one; its position.
    pub(crate) fn push(&mut self, fd: OwnedFd) -> FdIndex {
        self.fds.push(fd);
        // A message carries 64 descriptors at most; a plan has about 20.
        FdIndex::try_from(self.fds.len() - 1).unwrap_or(FdIndex::MAX)
    }

    /// Adds what a new process needs to get into its cgroups.
    pub(crate) fn push_cgroup(&mut self, target: JoinTarget) -> CgroupJoin {
        CgroupJoin {
            clone_into: target.clone_into.map(|fd| self.push(fd)),
            tasks: target.tasks.into_iter().map(|fd| self.push(fd)).collect(),
        }
    }
}

/// What the plan needs besides the request.
#[derive(Debug)]
pub(crate) struct PlanContext<'a> {
    /// For the view of the cgroups inside.
    pub(crate) cgroups: &'a CgroupDriver,
    /// The container's cgroup.
    pub(crate) cgroup_path: &'a str,
    /// How to get into it.
    pub(crate) join: JoinTarget,
    /// An empty directory on the host.
    pub(crate) mount_point: &'a Path,
    /// The streams, already in `fds`.
    pub(crate) stdio: StdioPlan,
}

/// Makes the plan; the request's descriptors move into `fds`.
pub(crate) fn launch_plan(
    request: LaunchRequest,
    context: PlanContext<'_>,
    fds: &mut FdSet,
) -> Result<LaunchPlan, LaunchError> {
    let spec = &request.spec;
    let linux = spec.linux().as_ref().ok_or_else(|| invalid("linux section is missing"))?;
    let process = spec.process().as_ref().ok_or_else(|| invalid("process section is missing"))?;
    let sysctls = sysctl::settings(linux)?;
    let (clone_flags, join) = namespaces(linux, request.netns, fds)?;
    let own_uts = clone_flags & clone_bits::NEW_UTS != 0;
    let mut mounts = Vec::new();
    for mount in spec.mounts().as_deref().unwrap_or_default() {
        let private = clone_flags & clone_bits::NEW_CGROUP != 0;
        mount_steps(mount, context.cgroups, context.cgroup_path, private, &mut mounts);
    }
    Ok(LaunchPlan {
        key: ProcessKey::Container(request.id),
        clone_flags,
        join,
        cgroup: fds.push_cgroup(context.join),
        rootfs: fds.push(request.rootfs),
        mount_point: context.mount_point.to_string_lossy().into_owned(),
        readonly_root: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        host_propagation: host_propagation(linux),
        root_propagation: linux.rootfs_propagation().as_deref().and_then(propagation),
        hostname: spec.hostname().clone().filter(|name| own_uts && !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| own_uts && !name.is_empty()),
        mounts,
        devices: devices(linux),
        masked_paths: linux.masked_paths().clone().unwrap_or_default(),
        readonly_paths: linux.readonly_paths().clone().unwrap_or_default(),
        sysctls,
        process: process_plan(process, linux.seccomp().as_ref())?,
        stdio: context.stdio,
        init: request.init,
    })
}

fn invalid(text: &str) -> LaunchError {
    LaunchError::InvalidSpec(text.to_owned())
}

/// The default keeps the host's mount events out of the container's copies but lets `rslave` binds see them, as runc.
fn host_propagation(linux: &Linux) -> Propagation {
    match linux.rootfs_propagation().as_deref() {
        Some("shared" | "rshared") => Propagation::Shared,
        Some("private" | "rprivate") => Propagation::Private,
        _ => Propagation::Slave,
    }
}

fn propagation(text: &str) -> Option<Propagation> {
    match text {
        "shared" | "rshared" => Some(Propagation::Shared),
        "slave" | "rslave" => Some(Propagation::Slave),
        "unbindable" | "runbindable" => Some(Propagation::Unbindable),
        "" => None,
        _ => Some(Propagation::Private),
    }
}

fn namespaces(
    linux: &Linux,
    netns: Option<OwnedFd>,
    fds: &mut FdSet,
) -> Result<(u64, Vec<JoinNamespace>), LaunchError> {
    let (mut flags, mut join) = (0, Vec::new());
    for namespace in linux.namespaces().as_deref().unwrap_or_default() {
        let kind = match namespace.typ() {
            LinuxNamespaceType::Mount => clone_bits::NEW_MOUNT,
            LinuxNamespaceType::Uts => clone_bits::NEW_UTS,
            LinuxNamespaceType::Ipc => clone_bits::NEW_IPC,
            LinuxNamespaceType::Pid => clone_bits::NEW_PID,
            LinuxNamespaceType::Network if netns.is_some() => continue,
            LinuxNamespaceType::Network => clone_bits::NEW_NET,
            LinuxNamespaceType::Cgroup => clone_bits::NEW_CGROUP,
            LinuxNamespaceType::User | LinuxNamespaceType::Time => {
                return Err(invalid("user and time namespaces are not supported yet"));
            }
        };
        match namespace.path() {
            None => flags |= kind,
            Some(path) => {
                let fd = dockerd_sys::ns::open(path)
                    .map_err(|error| LaunchError::InvalidSpec(format!("namespace {}: {error}", path.display())))?;
                join.push(JoinNamespace { fd: fds.push(fd), kind });
            }
        }
    }
    if let Some(netns) = netns {
        join.push(JoinNamespace { fd: fds.push(netns), kind: clone_bits::NEW_NET });
    }
    if flags & clone_bits::NEW_MOUNT == 0 {
        return Err(invalid("a container without a mount namespace of its own is not supported"));
    }
    Ok((flags, join))
}

fn mount_steps(mount: &Mount, cgroups: &CgroupDriver, path: &str, private: bool, out: &mut Vec<MountStep>) {
    let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
    let target = mount.destination().to_string_lossy().into_owned();
    let kind = mount.typ().as_deref().unwrap_or("none");
    if matches!(kind, "cgroup" | "cgroup2") {
        cgroup_steps(&target, &options, cgroups.container_mounts(path, private), out);
        return;
    }
    let source = match (options.bind, mount.source()) {
        (Some(recursive), Some(source)) => MountSource::Bind { path: source.to_string_lossy().into_owned(), recursive },
        (_, source) => {
            let source = source.as_ref().map_or_else(|| kind.into(), |source| source.to_string_lossy());
            file_system(kind, &source, options.data)
        }
    };
    let bind = options.bind.is_some();
    out.push(MountStep {
        target,
        source,
        attributes: options.attributes,
        recursive_attributes: options.recursive_attributes,
        // A copy of a shared host mount would be shared too; Docker's default is rprivate.
        propagation: options.propagation.or_else(|| bind.then_some(Propagation::Private)),
        optional: kind == "mqueue",
    });
}

/// `source` is what the mount table shows as the device.
fn file_system(kind: &str, source: &str, mut options: Vec<String>) -> MountSource {
    options.insert(0, format!("source={source}"));
    MountSource::FileSystem { kind: kind.to_owned(), options }
}

fn cgroup_steps(target: &str, options: &MountOptions, mounts: Vec<CgroupMount>, out: &mut Vec<MountStep>) {
    let mut base = None;
    for mount in mounts {
        let (name, source) = match mount {
            CgroupMount::Tmpfs => {
                base = Some(out.len());
                (String::new(), file_system("tmpfs", "tmpfs", vec!["mode=755".to_owned()]))
            }
            CgroupMount::Bind { name, source } => {
                let path = source.to_string_lossy().into_owned();
                (name, MountSource::Bind { path, recursive: false })
            }
            CgroupMount::Hierarchy { name, options } => {
                (name, file_system("cgroup", "cgroup", options.split(',').map(str::to_owned).collect()))
            }
            CgroupMount::Symlink { name, target } => (name, MountSource::Symlink { to: target }),
            CgroupMount::Unified => (String::new(), file_system("cgroup2", "cgroup", Vec::new())),
        };
        let path = if name.is_empty() { target.to_owned() } else { format!("{target}/{name}") };
        out.push(MountStep {
            target: path,
            source,
            attributes: options.attributes,
            recursive_attributes: false,
            propagation: Some(Propagation::Private),
            optional: false,
        });
    }
    // The tmpfs itself must be writable until its directories are made; it is protected last.
    if let Some(base) = base.filter(|_| options.attributes.set & READ_ONLY != 0) {
        out[base].attributes.set &= !READ_ONLY;
        out.push(MountStep { source: MountSource::Remount, attributes: options.attributes, ..out[base].clone() });
    }
}

fn devices(linux: &Linux) -> Vec<DeviceNode> {
    let default = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let node =
        |path: String, kind, major, minor, mode, uid, gid| DeviceNode { path, kind, major, minor, mode, uid, gid };
    let asked = linux.devices().as_deref().unwrap_or_default();
    let mut out: Vec<DeviceNode> = asked
        .iter()
        .map(|device| {
            let kind = device.typ().as_str().chars().next().unwrap_or('c');
            let (major, minor) = (device.major() as u32, device.minor() as u32);
            let path = device.path().to_string_lossy().into_owned();
            let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
            node(path, kind, major, minor, mode, device.uid().unwrap_or(0), device.gid().unwrap_or(0))
        })
        .collect();
    for (name, major, minor) in default {
        let path = format!("/dev/{name}");
        if !out.iter().any(|device| device.path == path) {
            out.push(node(path, 'c', major, minor, 0o666, 0, 0));
        }
    }
    out
}

/// The process part, shared by launches and execs.
pub(crate) fn process_plan(process: &Process, seccomp: Option<&LinuxSeccomp>) -> Result<ProcessPlan, LaunchError> {
    let argv = process.args().clone().unwrap_or_default();
    if argv.is_empty() {
        return Err(invalid("args must not be empty"));
    }
    let sets = process.capabilities().as_ref().map(capabilities::from_oci_process);
    let capabilities = sets.map_or_else(CapabilityPlan::default, |sets| CapabilityPlan {
        bounding: sets.bounding,
        effective: sets.effective,
        permitted: sets.permitted,
        inheritable: sets.inheritable,
        ambient: sets.ambient,
    });
    let program = seccomp.map(seccomp::compile).transpose().map_err(|e| LaunchError::InvalidSpec(e.to_string()))?;
    let (seccomp, seccomp_flags) = program.map_or((Vec::new(), 0), |p| (p.instructions.clone(), p.flags));
    let rlimits = process.rlimits().as_deref().unwrap_or_default();
    Ok(ProcessPlan {
        argv,
        env: process.env().clone().unwrap_or_default(),
        cwd: process.cwd().to_string_lossy().into_owned(),
        uid: process.user().uid(),
        gid: process.user().gid(),
        groups: process.user().additional_gids().clone().unwrap_or_default(),
        umask: process.user().umask(),
        capabilities,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        seccomp,
        seccomp_flags,
        rlimits: rlimits.iter().map(|limit| (rlimit_number(limit.typ()), limit.soft(), limit.hard())).collect(),
        oom_score_adj: process.oom_score_adj(),
    })
}

/// The kernel's number of a resource limit (the same on x86 and arm).
fn rlimit_number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

/// The section of a container's description that an exec shares with it.
pub(crate) fn seccomp_of(spec: &Spec) -> Option<&LinuxSeccomp> {
    spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref())
}
