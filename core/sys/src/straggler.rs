//! Ends processes that outlived their container, and waits for kernel notifications with a limit. Works through
//! pidfds, so a number that was given to another process in the meantime is never hit between looking and waiting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Sends SIGKILL to `pid` and gives back its pidfd, readable once it has ended; `None` if there is no such process.
pub fn kill(pid: i32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) => Ok(Some(pidfd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits until `fd` can be read (a pidfd: until the process ended). `false` when the time is over.
pub fn wait_readable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    wait(fd.as_fd(), PollFlags::IN, limit)
}

/// Waits until a kernfs file such as `cgroup.events` says it changed. Read the file before each wait: the change is
/// counted from the last read. `false` when the time is over.
pub fn wait_changed(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    wait(fd.as_fd(), PollFlags::PRI, limit)
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags, limit: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
