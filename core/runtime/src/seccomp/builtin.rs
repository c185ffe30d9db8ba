//! The profile containers run under unless told otherwise. Equal in effect to the one of Docker 28.5; ordered here by
//! what a call is for and why it may be used, so that a reviewer can see what a change opens.

use std::sync::LazyLock;

use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator};

use super::profile::{ArchMap, Condition, KernelVersion, Profile, Rule};

/// Calls every container may make, whatever their arguments.
const ALWAYS: [&str; 16] = [
    // Open, read and write files.
    "creat open openat openat2 close close_range read write readv writev pread64 pwrite64 preadv preadv2 pwritev \
     pwritev2 lseek _llseek dup dup2 dup3 fcntl fcntl64 ioctl flock truncate truncate64 ftruncate ftruncate64 fallocate \
     fsync fdatasync sync syncfs sync_file_range readahead fadvise64 fadvise64_64 copy_file_range sendfile sendfile64 \
     splice tee vmsplice umask",
    // Look at and change names, modes, owners and times.
    "access faccessat faccessat2 stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 \
     fstatfs fstatfs64 statmount listmount getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir mknod mknodat \
     link linkat symlink symlinkat readlink readlinkat unlink unlinkat rename renameat renameat2 chmod fchmod fchmodat \
     fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 utime utimes futimesat utimensat \
     utimensat_time64 name_to_handle_at",
    // Extended attributes.
    "getxattr getxattrat lgetxattr fgetxattr setxattr setxattrat lsetxattr fsetxattr listxattr listxattrat llistxattr \
     flistxattr removexattr removexattrat lremovexattr fremovexattr",
    // Wait for descriptors and watch files. fanotify_init is not here: only root of the host makes such a group.
    "poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1 epoll_ctl \
     epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 inotify_init inotify_init1 \
     inotify_add_watch inotify_rm_watch fanotify_mark pipe pipe2",
    // The old asynchronous I/O. io_uring is left out: its kernel side has too often led out of containers.
    "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set",
    // Memory.
    "brk mmap mmap2 munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall mseal \
     remap_file_pages memfd_create memfd_secret membarrier map_shadow_stack pkey_alloc pkey_free pkey_mprotect \
     process_mrelease cachestat",
    // Processes. clone has a rule of its own, because of namespaces.
    "fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid getppid gettid getpgid getpgrp getsid setpgid \
     setsid prctl pidfd_open restart_syscall rseq set_tid_address set_robust_list get_robust_list set_thread_area \
     get_thread_area uretprobe riscv_hwprobe",
    // Locks between threads.
    "futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue",
    // Signals.
    "kill tkill tgkill pidfd_send_signal pause alarm sigaltstack sigprocmask sigreturn rt_sigaction rt_sigpending \
     rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
     rt_tgsigqueueinfo signalfd signalfd4",
    // Users, groups and capabilities; the kernel checks what may become what.
    "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32 \
     getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid \
     setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset",
    // Clocks and timers; setting the clock needs CAP_SYS_TIME, which adjusting functions check themselves.
    "time times gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep \
     clock_nanosleep_time64 clock_adjtime clock_adjtime64 adjtimex nanosleep getitimer setitimer timer_create \
     timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
     timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    // Scheduling and limits.
    "sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam \
     sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval \
     sched_rr_get_interval_time64 sched_yield getpriority setpriority getcpu getrlimit ugetrlimit setrlimit prlimit64 \
     getrusage",
    // Sockets, once made; socket has a rule of its own. socketcall hides its arguments, so it cannot be told apart.
    "accept accept4 bind connect listen shutdown getpeername getsockname getsockopt setsockopt socketpair socketcall \
     send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64",
    // System V and POSIX interprocess communication.
    "ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget \
     mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64",
    // Giving up more rights.
    "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    // Facts about the system.
    "uname sysinfo getrandom",
];

/// Calls that come with a capability, because the kernel would let its holder do harm through nothing else.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Calls that exist, or are harmless, on some machines only.
const BY_MACHINE: [(&[&str], &str); 6] = [
    (&["ppc64le"], "sync_file_range2 swapcontext"),
    (&["arm", "arm64"], "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    (&["amd64", "x32"], "arch_prctl"),
    (&["amd64", "x32", "x86"], "modify_ldt"),
    (&["s390", "s390x"], "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (&["riscv64"], "riscv_flush_icache"),
];

/// Personalities that change nothing dangerous: Linux, Linux with old uname, both with 32-bit machine name, and the
/// question for the current one.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// AF_VSOCK reaches the hypervisor past every network namespace.
const AF_VSOCK: u64 = 40;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// The profile, built once.
pub(super) static PROFILE: LazyLock<Profile> = LazyLock::new(build);

fn build() -> Profile {
    let mut rules = vec![allow(&ALWAYS.join(" "))];
    // Before 4.8 a traced process could get around its filter.
    rules.push(Rule {
        includes: Condition { min_kernel: Some(KernelVersion { major: 4, minor: 8 }), ..Condition::default() },
        ..allow("process_vm_readv process_vm_writev ptrace")
    });
    rules.push(Rule { args: vec![arg(0, AF_VSOCK, LinuxSeccompOperator::ScmpCmpNe)], ..allow("socket") });
    rules.extend(
        PERSONALITIES
            .map(|value| Rule { args: vec![arg(0, value, LinuxSeccompOperator::ScmpCmpEq)], ..allow("personality") }),
    );
    rules.extend(BY_MACHINE.map(|(arches, names)| Rule {
        includes: Condition { arches: owned(arches), ..Condition::default() },
        ..allow(names)
    }));
    rules.extend(BY_CAPABILITY.map(|(capability, names)| Rule { includes: caps(capability), ..allow(names) }));
    rules.extend(unprivileged_clone());
    Profile {
        default_action: Some(LinuxSeccompAction::ScmpActErrno),
        default_errno_ret: Some(EPERM),
        arch_map: arch_map(),
        syscalls: rules,
        ..Profile::default()
    }
}

/// Without CAP_SYS_ADMIN, clone makes processes but no namespaces. The flags of clone3 lie in memory where a filter
/// cannot look; ENOSYS makes the C library fall back to clone.
fn unprivileged_clone() -> [Rule; 3] {
    let masked = |index| vec![arg(index, NAMESPACE_FLAGS, LinuxSeccompOperator::ScmpCmpMaskedEq)];
    let s390 = &["s390", "s390x"];
    [
        Rule {
            args: masked(0),
            excludes: Condition { arches: owned(s390), ..caps("CAP_SYS_ADMIN") },
            ..allow("clone")
        },
        Rule {
            args: masked(1),
            includes: Condition { arches: owned(s390), ..Condition::default() },
            excludes: caps("CAP_SYS_ADMIN"),
            ..allow("clone")
        },
        Rule {
            action: Some(LinuxSeccompAction::ScmpActErrno),
            errno_ret: Some(ENOSYS),
            excludes: caps("CAP_SYS_ADMIN"),
            ..allow("clone3")
        },
    ]
}

fn arch_map() -> Vec<ArchMap> {
    [
        ("X86_64", &["X86", "X32"][..]),
        ("AARCH64", &["ARM"]),
        ("MIPS64", &["MIPS", "MIPS64N32"]),
        ("MIPS64N32", &["MIPS", "MIPS64"]),
        ("MIPSEL64", &["MIPSEL", "MIPSEL64N32"]),
        ("MIPSEL64N32", &["MIPSEL", "MIPSEL64"]),
        ("S390X", &["S390"]),
        ("RISCV64", &[]),
    ]
    .map(|(main, others)| ArchMap {
        architecture: format!("SCMP_ARCH_{main}"),
        sub_architectures: Some(others.iter().map(|other| format!("SCMP_ARCH_{other}")).collect()),
    })
    .into()
}

fn allow(names: &str) -> Rule {
    Rule {
        names: names.split_ascii_whitespace().map(str::to_owned).collect(),
        action: Some(LinuxSeccompAction::ScmpActAllow),
        ..Rule::default()
    }
}

fn arg(index: usize, value: u64, op: LinuxSeccompOperator) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default().index(index).value(value).op(op).build().expect("every field has a default")
}

fn caps(name: &str) -> Condition {
    Condition { caps: vec![name.to_owned()], ..Condition::default() }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
