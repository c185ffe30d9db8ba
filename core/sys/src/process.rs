//! Making, watching and signalling processes: `clone3`, pidfds, `waitid`, `prctl` (see the man page of each call).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

/// Namespaces for [`clone`]: the kernel's `CLONE_NEW*` bits.
pub type CloneFlags = u64;

/// New mount namespace.
pub const NEW_MOUNT: CloneFlags = libc::CLONE_NEWNS as u64;
/// New UTS namespace.
pub const NEW_UTS: CloneFlags = libc::CLONE_NEWUTS as u64;
/// New IPC namespace.
pub const NEW_IPC: CloneFlags = libc::CLONE_NEWIPC as u64;
/// New PID namespace.
pub const NEW_PID: CloneFlags = libc::CLONE_NEWPID as u64;
/// New network namespace.
pub const NEW_NET: CloneFlags = libc::CLONE_NEWNET as u64;
/// New cgroup namespace.
pub const NEW_CGROUP: CloneFlags = libc::CLONE_NEWCGROUP as u64;
/// New user namespace.
pub const NEW_USER: CloneFlags = libc::CLONE_NEWUSER as u64;

const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of [`clone`] this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The caller; the child's process id and pidfd.
    Parent {
        /// Process id in the caller's namespace.
        pid: i32,
        /// Its pidfd, close-on-exec.
        pidfd: OwnedFd,
    },
}

/// Proof that this process had a single thread when asked. Processes that hold it start no threads; their children by
/// [`clone`] have one thread too.
#[derive(Debug, Clone, Copy)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads of this process; `None` when there are several.
    pub fn check() -> io::Result<Option<Self>> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        Ok((threads == 1).then_some(Self(())))
    }
}

/// Makes a child like fork(2), in the namespaces of `flags`, and in `cgroup` (version 2 directory) where given.
/// The child ends with SIGCHLD to the parent. It goes on in a copy of the caller's memory, where locks held by other
/// threads would stay locked for ever: hence the proof that there are none.
#[allow(unsafe_code, reason = "clone3 has no safe wrapper")]
pub fn clone(_proof: SingleThreaded, flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | CLONE_PIDFD;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: args is a valid clone_args of the size given; without CLONE_VM and with no stack this behaves as fork.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match result {
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just made this descriptor for us.
        pid if pid > 0 => Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a plain child with the old call, which seccomp filters that answer `ENOSYS` to `clone3` let through.
/// `Some(pid)` in the parent, `None` in the child.
#[allow(unsafe_code, reason = "clone has no safe wrapper")]
pub fn fork(_proof: SingleThreaded) -> io::Result<Option<i32>> {
    // SAFETY: no stack, no shared memory and no pointers: this behaves as fork, and there is a single thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid as i32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the calling process at once, without running exit handlers: for children of [`clone`].
#[allow(unsafe_code, reason = "_exit has no safe wrapper")]
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Replaces the program (execve(2)). Returns only the error.
#[allow(unsafe_code, reason = "execve has no safe wrapper in our dependencies that takes prepared arrays")]
pub fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

/// Collects one ended child, any: its process id and how it ended; `None` when no child has ended.
#[allow(unsafe_code, reason = "waitpid through libc keeps the raw status we need for real-time signals")]
pub fn collect_any() -> io::Result<Option<(i32, Ended)>> {
    let mut status = 0;
    // SAFETY: status is a valid place for the result.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some((pid, ended(status)))),
        _ => {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) }
        }
    }
}

/// Closes every descriptor from 3 up, then runs `then`, which must not count on any of them, and ends with its code.
#[allow(unsafe_code, reason = "closes descriptors that values of the caller own")]
pub fn without_descriptors(then: impl FnOnce() -> i32) -> ! {
    // SAFETY: the values that own the descriptors are never used or dropped again, because this never returns and
    // `then` is told not to; _exit runs no destructors.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    exit_now(then())
}

/// Waits for any blocked signal and takes it: its number.
#[allow(unsafe_code, reason = "sigwaitinfo with real-time signals")]
pub fn wait_signal() -> io::Result<i32> {
    // SAFETY: the set is filled by the next call; the information about the signal is not asked for.
    let signal = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigwaitinfo(&raw const set, std::ptr::null_mut())
    };
    if signal > 0 { Ok(signal) } else { Err(io::Error::last_os_error()) }
}

/// Collects child `pid` if it has ended; `None` while it runs.
#[allow(unsafe_code, reason = "as collect_any")]
pub fn collect(pid: i32) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: status is a valid place for the result.
    match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
        0 => Ok(None),
        result if result == pid => Ok(Some(ended(status))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for child `pid` to end and collects it.
#[allow(unsafe_code, reason = "as collect_any")]
pub fn wait_for(pid: i32) -> io::Result<Ended> {
    loop {
        let mut status = 0;
        // SAFETY: status is a valid place for the result.
        let result = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if result == pid {
            return Ok(ended(status));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Waits for any child to end and collects it.
#[allow(unsafe_code, reason = "as collect_any")]
pub fn wait_any() -> io::Result<(i32, Ended)> {
    let mut status = 0;
    // SAFETY: status is a valid place for the result.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
    if pid > 0 { Ok((pid, ended(status))) } else { Err(io::Error::last_os_error()) }
}

fn ended(status: i32) -> Ended {
    if libc::WIFSIGNALED(status) {
        Ended::Signaled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    }
}

/// Opens a pidfd for `pid`.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Whether the process behind `pidfd` has ended, collected or not.
pub fn has_ended(pidfd: impl AsFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Sends signal number `signal` through `pidfd`; `ESRCH` when the process has ended and been collected.
#[allow(unsafe_code, reason = "the safe wrapper takes no real-time signals")]
pub fn pidfd_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: no pointers but a null siginfo, which the call allows.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::c_void>(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to process `pid`; negative for a process group, -1 for all.
#[allow(unsafe_code, reason = "the safe wrapper takes no real-time signals")]
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes plain numbers.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The shortest turn the kernel grants, in nanoseconds.
const SHORT_TURN: u64 = 100_000;

/// Lets the calling thread, and all that it makes, have short turns on a processor, but soon after they wake, also when others
/// are busy there (sched_setattr(2); since Linux 6.12 a thread's `sched_runtime` counts without a real-time policy). Only a
/// wish, so a refusal is of no interest.
pub fn short_turns() {
    set_turn(SHORT_TURN);
}

/// Takes [`short_turns`] back for the calling thread.
pub fn usual_turns() {
    set_turn(0);
}

#[allow(unsafe_code, reason = "sched_setattr has no safe wrapper")]
fn set_turn(nanoseconds: u64) {
    let Ok(nice) = rustix::process::getpriority_process(None) else { return };
    // SAFETY: all-zero is a valid sched_attr, and its policy SCHED_OTHER.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    attributes.sched_nice = nice;
    attributes.sched_runtime = nanoseconds;
    // SAFETY: a valid sched_attr of the size it says, which the kernel only reads; process 0 is the calling thread.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// How much nicer threads are whose work nobody waits for.
const BACKGROUND_NICENESS: i32 = 10;

/// Lets the calling thread's work give way to that of others: for tear-down and for what is made ahead. Only a wish, so
/// a refusal is of no interest.
pub fn give_way() {
    usual_turns();
    // On Linux a process of 0 here means the calling thread alone (setpriority(2), "C library/kernel differences").
    let _ = rustix::process::setpriority_process(None, BACKGROUND_NICENESS);
}

/// Makes orphaned descendants of this process its children (prctl(2), `PR_SET_CHILD_SUBREAPER`).
pub fn become_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Forbids this process and its descendants to gain privileges by `execve`.
pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Whether this process and what it starts from now on may be given huge pages unasked (prctl(2),
/// `PR_SET_THP_DISABLE`; kept over `execve`).
pub fn allow_huge_pages(allow: bool) -> io::Result<()> {
    prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!allow))
}

/// Names the calling thread, as ps shows it (15 bytes at most).
#[allow(unsafe_code, reason = "prctl with a string")]
pub fn set_name(name: &CStr) {
    // SAFETY: name is a valid C string; the kernel copies 16 bytes at most and stops at its end.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Where the arguments of this process are in memory, as ps reads them (proc_pid_stat(5), `arg_start` and `arg_end`).
#[derive(Debug)]
pub struct Arguments {
    start: usize,
    length: usize,
}

impl Arguments {
    /// Looks it up; `/proc` must be mounted.
    pub fn find() -> io::Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The name, in parentheses, may contain anything; what follows it begins with the third field.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = fields.split_whitespace().skip(48 - 3).filter_map(|field| field.parse::<usize>().ok());
        match (fields.next(), fields.next()) {
            (Some(start), Some(end)) if 0 < start && start < end => Ok(Self { start, length: end - start }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Shows `arguments` in the place of the real ones, as many bytes of them as those had.
    #[allow(unsafe_code, reason = "the arguments' memory has no owner in Rust")]
    pub fn replace<'a>(self, arguments: impl Iterator<Item = &'a [u8]>) {
        let bytes = arguments.flat_map(|argument| argument.iter().copied().chain([0]));
        let bytes = bytes.take(self.length - 1).chain(std::iter::repeat(0)).take(self.length);
        for (offset, byte) in bytes.enumerate() {
            // SAFETY: the kernel has put the arguments into these bytes of the initial stack, which stay mapped and
            // writable. Each string in there still ends: the last byte is zero.
            unsafe { std::ptr::with_exposed_provenance_mut::<u8>(self.start + offset).write_volatile(byte) };
        }
    }
}

#[allow(unsafe_code, reason = "prctl has no safe wrapper for these options here")]
fn prctl(option: i32, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take plain numbers.
    if unsafe { libc::prctl(option, value, 0, 0, 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets group, supplementary groups and user of the calling process, which has a single thread, in this order.
#[allow(unsafe_code, reason = "glibc's wrappers are process wide; raw calls suffice for a single thread")]
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let check = |result: libc::c_long| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the list is valid for its length; the other calls take plain numbers.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
    }
}

/// Sets a resource limit of the calling process by the kernel's number (`RLIMIT_*`).
#[allow(unsafe_code, reason = "raw numbers come from the launch plan")]
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: limit is valid; the old value is not asked for; pid 0 is the caller.
    let result = unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a socket that was handed over is a unix socket.
pub fn is_unix_socket(socket: impl AsFd) -> io::Result<bool> {
    let domain = rustix::net::sockopt::socket_domain(socket)?;
    Ok(domain == rustix::net::AddressFamily::UNIX)
}

/// Microseconds of the monotonic clock, as service managers compare them.
pub fn monotonic_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither is ever negative.
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default() / 1000
}

/// The soft limit of open files from before [`raise_open_files`], for programs that are started later.
static OPEN_FILES_BEFORE: OnceLock<u64> = OnceLock::new();

/// Lets this process have as many files open as its hard limit allows; `before` is the soft limit that programs started
/// by it shall have, where this process's own is not the one (it was raised by a parent).
pub fn raise_open_files(before: Option<u64>) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let _ = OPEN_FILES_BEFORE.set(before.unwrap_or(soft));
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The soft limit from before it was raised; `None` if it never was.
pub fn open_files_before() -> Option<u64> {
    OPEN_FILES_BEFORE.get().copied()
}

/// Gives the calling process, which is about to execute another program, the soft limit from before it was raised.
pub fn restore_open_files() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Some(soft) = open_files_before() else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?)
}

/// Blocks all signals in the calling thread.
pub fn block_all_signals() -> io::Result<()> {
    nix::sys::signal::SigSet::all().thread_block().map_err(io::Error::from)
}

/// Puts all signals but SIGPIPE back to their defaults, so that children need not: what is ignored stays so over `execve`.
#[allow(unsafe_code, reason = "sigaction for every number, real-time ones included")]
pub fn default_signals() {
    for signal in (1..=64).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: SIG_DFL is valid for every signal; numbers that cannot be changed answer EINVAL, which is ignored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// In a child of a process that has called [`default_signals`]: the rest of it, and unblocks all, as a program expects to
/// find them.
#[allow(unsafe_code, reason = "sigaction")]
pub fn reset_signals() -> io::Result<()> {
    // SAFETY: SIG_DFL is valid for SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    nix::sys::signal::SigSet::all().thread_unblock().map_err(io::Error::from)
}

/// SIGCHLD as a readable descriptor, non-blocking; the signal is blocked for the calling thread.
#[derive(Debug)]
pub struct ChildSignals(nix::sys::signalfd::SignalFd);

impl ChildSignals {
    /// Blocks SIGCHLD and opens the descriptor.
    pub fn open() -> io::Result<Self> {
        use nix::sys::signalfd::{SfdFlags, SignalFd};
        let mut set = nix::sys::signal::SigSet::empty();
        set.add(nix::sys::signal::Signal::SIGCHLD);
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Takes what has arrived, so that the descriptor is not readable any more.
    pub fn drain(&self) {
        while let Ok(Some(_)) = self.0.read_signal() {}
    }
}

impl AsFd for ChildSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets `fd` live on over `execve`; its number, to be told to the new program.
pub fn keep_over_exec(fd: OwnedFd) -> io::Result<i32> {
    use std::os::fd::IntoRawFd;
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
    Ok(fd.into_raw_fd())
}

/// Takes over a descriptor that [`keep_over_exec`] has let through, close-on-exec again.
#[allow(unsafe_code, reason = "a number that came through execve becomes an owned descriptor")]
pub fn take_inherited(number: i32) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: checked to be open by the fcntl; the caller's list names each inherited descriptor once, and nothing else in
    // this fresh program owns descriptors it did not open.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC) {
        Ok(()) => Ok(fd),
        Err(error) => {
            // Not ours: it must not be closed.
            std::mem::forget(fd);
            Err(error.into())
        }
    }
}

/// Closes every descriptor from 3 up that [`keep_over_exec`] has let through and nobody has taken: what an earlier program
/// has handed on and this one knows nothing of, or what was made ready for an `execve` that failed. Children would inherit it.
#[allow(unsafe_code, reason = "numbers from /proc are looked at and closed")]
pub fn close_untaken() -> io::Result<()> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    let numbers: Vec<i32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number >= 3) {
        // SAFETY: only looked at, and a number that is not open is an error.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_getfd(fd).is_ok_and(|flags| !flags.contains(rustix::io::FdFlags::CLOEXEC)) {
            // SAFETY: whatever this program owns is close-on-exec, so nothing owns this one.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_asked_for_and_given_back() {
        // Only where the kernel tells (Linux 6.12 with its scheduler's statistics).
        let turn = || -> Option<u64> {
            let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
            text.lines().find_map(|line| line.strip_prefix("se.slice")?.rsplit(' ').next()?.parse().ok())
        };
        let check = move || {
            let Some(before) = turn() else { return };
            short_turns();
            assert_eq!(turn(), Some(SHORT_TURN));
            let inherited = std::thread::spawn(turn).join().expect("no panic");
            assert_eq!(inherited, Some(SHORT_TURN), "threads inherit it");
            usual_turns();
            assert_eq!(turn(), Some(before));
        };
        std::thread::spawn(check).join().expect("no panic");
    }
}
