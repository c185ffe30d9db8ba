//! Entering and leaving namespaces (setns(2), unshare(2)). Only for single-threaded processes or dedicated threads.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::process::CloneFlags;

/// Enters the namespaces `flags` of the process behind `target` (a pidfd), or the one namespace `target` (an nsfs file).
#[allow(unsafe_code, reason = "setns with a pidfd and several flags has no safe wrapper")]
pub fn enter(target: impl AsFd, flags: CloneFlags) -> io::Result<()> {
    // SAFETY: takes a descriptor and flags only.
    let result = unsafe { libc::setns(target.as_fd().as_raw_fd(), flags as libc::c_int) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves the namespaces `flags` for new ones.
#[allow(unsafe_code, reason = "unshare is unsafe in rustix because of descriptors; no such flag is passed here")]
pub fn unshare(flags: CloneFlags) -> io::Result<()> {
    // SAFETY: takes flags only.
    let result = unsafe { libc::unshare(flags as libc::c_int) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `job` in the mount namespace of the process behind `target` (a pidfd), in that namespace's root, and comes back:
/// to the own namespace, root and working directory. `None` when that process has ended. Only for a dedicated thread,
/// which has root and working directory to itself from then on.
pub fn visit_mounts<T>(target: impl AsFd, job: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let here = |path: &str| rustix::fs::open(path, flags, rustix::fs::Mode::empty());
    let (root, directory) = (here("/")?, here(".")?);
    let own = open(std::path::Path::new("/proc/thread-self/ns/mnt"))?;
    unshare(libc::CLONE_FS as CloneFlags)?;
    match enter(&target, crate::process::NEW_MOUNT) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    }
    let result = job();
    enter(&own, crate::process::NEW_MOUNT)?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    rustix::process::fchdir(&directory)?;
    result.map(Some)
}

/// Opens a namespace file such as `/proc/self/ns/pid`.
pub fn open(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(std::fs::File::open(path)?.into())
}

/// Brings up the loopback interface of the calling thread's network namespace (netdevice(7)).
#[allow(unsafe_code, reason = "interface ioctls have no safe wrapper")]
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: request is a valid ifreq that names an interface and its new flags.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The index of a network interface, in the network namespace of `socket`, which may be of any family (netdevice(7),
/// `SIOCGIFINDEX`). Takes none of the kernel's network locks. Errors: `ENODEV`.
pub fn interface_index(socket: impl AsFd, name: &str) -> io::Result<u32> {
    Ok(rustix::net::netdevice::name_to_index(socket, name)?)
}
