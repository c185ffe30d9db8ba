//! What the kernel tells of a connected socket, and options of sockets for which there is no safe wrapper.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{getsockopt, sockopt};

/// The process that listens at, or connected, the other end of a Unix socket (unix(7), `SO_PEERCRED`); `None`: it is none of
/// our process id namespace.
pub fn peer_process(socket: impl AsFd) -> io::Result<Option<u32>> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0))
}

/// How much of what was written the peer has not taken yet: over a Unix socket what it has not read (with the kernel's own
/// overhead), over TCP what its machine has not acknowledged.
#[allow(unsafe_code, reason = "SIOCOUTQ has no safe wrapper")]
pub fn unread_by_peer(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one int, and bytes is one.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option that is one int.
#[allow(unsafe_code, reason = "of these options there is no safe wrapper")]
pub(crate) fn set_option(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is one int, and its size is given.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn tells_whose_the_other_end_is() {
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        assert_eq!(peer_process(&ours).expect("asked"), Some(std::process::id()));
    }

    #[test]
    fn tells_when_the_peer_has_read() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("pair");
        assert_eq!(unread_by_peer(&ours).expect("asked"), 0);
        ours.write_all(b"head").expect("written");
        assert!(unread_by_peer(&ours).expect("asked") > 0);
        theirs.read_exact(&mut [0; 4]).expect("read");
        assert_eq!(unread_by_peer(&ours).expect("asked"), 0);
    }
}
