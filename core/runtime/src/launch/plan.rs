//! The launch plan: all that the supervisor and the new process need to know, resolved by the daemon. It crosses the
//! supervisor's socket, so its types are plain data; descriptors travel beside it and are named by their position.

use dockerd_sys::mount::{Attributes, Propagation};
use serde::{Deserialize, Serialize};

use crate::driver::{ProcessKey, StdioRequest};

/// Position of a descriptor among those that came with the message.
pub(crate) type FdIndex = u8;

/// One container to bring up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LaunchPlan {
    /// What it is known as.
    pub key: ProcessKey,
    /// `CLONE_NEW*` bits of namespaces to make.
    pub clone_flags: u64,
    /// Namespaces to enter before anything else.
    pub join: Vec<JoinNamespace>,
    /// cgroups to enter.
    pub cgroup: CgroupJoin,
    /// Detached tree of the root file system.
    pub rootfs: FdIndex,
    /// Directory on the host where the root is attached for a moment, in the new mount namespace only.
    pub mount_point: String,
    /// Remount the root read-only at the end.
    pub readonly_root: bool,
    /// Propagation of the host's mounts before anything is mounted, so that nothing travels back.
    pub host_propagation: Propagation,
    /// Propagation of the container's root.
    pub root_propagation: Option<Propagation>,
    /// Host name to set in the new UTS namespace.
    pub hostname: Option<String>,
    /// NIS domain name to set there.
    pub domainname: Option<String>,
    /// What to mount, in order.
    pub mounts: Vec<MountStep>,
    /// Nodes to make below the root.
    pub devices: Vec<DeviceNode>,
    /// Paths to hide.
    pub masked_paths: Vec<String>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<String>,
    /// `net/ipv4/...` below /proc/sys, and the value.
    pub sysctls: Vec<(String, String)>,
    /// The workload.
    pub process: ProcessPlan,
    /// Standard streams.
    pub stdio: StdioPlan,
    /// Whether our init is process 1.
    pub init: bool,
}

/// One process to run in a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecPlan {
    /// What it is known as.
    pub key: ProcessKey,
    /// pidfd of the container's first process.
    pub target: FdIndex,
    /// `CLONE_NEW*` bits of the target's namespaces to enter, except the PID namespace.
    pub namespaces: u64,
    /// cgroups to enter.
    pub cgroup: CgroupJoin,
    /// The process.
    pub process: ProcessPlan,
    /// Standard streams.
    pub stdio: StdioPlan,
}

/// A namespace to enter.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct JoinNamespace {
    /// Its file.
    pub fd: FdIndex,
    /// Its `CLONE_NEW*` bit.
    pub kind: u64,
}

/// How to get into the container's cgroups.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CgroupJoin {
    /// Version 2 directory for `clone3`.
    pub clone_into: Option<FdIndex>,
    /// Version 1 `tasks` files to write `0` to.
    pub tasks: Vec<FdIndex>,
}

/// One mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MountStep {
    /// Path in the container.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// Attribute bits.
    pub attributes: Attributes,
    /// Whether attributes go to the whole tree (recursive read-only); fall back to the top where the kernel cannot.
    pub recursive_attributes: bool,
    /// Propagation of the new mount and everything below it.
    pub propagation: Option<Propagation>,
    /// A failure is passed over (mounts that not every kernel has).
    pub optional: bool,
}

/// What a [`MountStep`] mounts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum MountSource {
    /// A new file system of this type.
    FileSystem {
        /// `proc`, `tmpfs`, ...
        kind: String,
        /// `key=value` or flags.
        options: Vec<String>,
    },
    /// A host path.
    Bind {
        /// The path.
        path: String,
        /// With everything mounted below it.
        recursive: bool,
    },
    /// What is mounted at the target already, its attributes changed.
    Remount,
    /// A symbolic link instead of a mount (co-mounted version 1 controllers).
    Symlink {
        /// Where it points.
        to: String,
    },
}

/// A device node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// `b`, `c`/`u` or `p`.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The program to run and what it may do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessPlan {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// `K=V`.
    pub env: Vec<String>,
    /// Working directory, made when missing.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// umask, where one is asked for.
    pub umask: Option<u32>,
    /// Capability sets as bit masks.
    pub capabilities: CapabilityPlan,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// Compiled seccomp program; empty for none.
    pub seccomp: Vec<u64>,
    /// Flags of its installation.
    pub seccomp_flags: u32,
    /// Resource number, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
}

/// Capability sets as bit masks.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct CapabilityPlan {
    /// What `execve` may ever give.
    pub bounding: u64,
    /// What the kernel checks.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What survives `execve` of capable files.
    pub inheritable: u64,
    /// What survives `execve` of plain files.
    pub ambient: u64,
}

/// Standard streams: the child's ends, and the daemon's ends the supervisor keeps duplicates of.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct StdioPlan {
    /// Terminal, open stdin, size.
    pub request: StdioRequest,
    /// Child's ends of stdin, stdout, stderr; `None` is `/dev/null` (or the terminal).
    pub child: [Option<FdIndex>; 3],
    /// Daemon's ends, in the same order.
    pub daemon: [Option<FdIndex>; 3],
}

/// Which step of the child's work failed; the texts are those runc's users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Entering a cgroup.
    Cgroup,
    /// Entering a namespace.
    Namespace,
    /// Attaching the root.
    Root,
    /// A mount.
    Mount,
    /// A device node.
    Device,
    /// `pivot_root`.
    Pivot,
    /// Hiding a path.
    Mask,
    /// A kernel parameter.
    Sysctl,
    /// Host name.
    Hostname,
    /// The terminal.
    Terminal,
    /// Resource limits, OOM score.
    Limits,
    /// The working directory.
    WorkingDirectory,
    /// User and groups.
    User,
    /// Capabilities and seccomp.
    Privileges,
    /// Looking the program up: it is not there.
    ProgramMissing,
    /// Looking the program up or running it: not allowed.
    ProgramRefused,
    /// `execve` failed otherwise.
    Exec,
}

/// What a child says when it cannot go on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SetupFailure {
    /// Where.
    pub step: Step,
    /// On what.
    pub subject: String,
    /// The kernel's error number; 0 where there is none.
    pub errno: i32,
    /// Words for the person.
    pub reason: String,
}
