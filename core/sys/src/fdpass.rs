//! Messages with descriptors over `SOCK_SEQPACKET` Unix sockets (unix(7), `SCM_RIGHTS`). One send is one receive.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Most descriptors one message may carry (the kernel's `SCM_MAX_FD` is 253).
pub const MAX_FDS: usize = 64;

/// A connected pair, both ends close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A listening socket at `path`, mode as the umask says; a stale file there must be removed by the caller.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 8)?;
    Ok(socket)
}

/// Connects to the socket at `path`. The connection is blocking.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket(SocketFlags::CLOEXEC)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Accepts one connection (non-blocking, close-on-exec).
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

fn seqpacket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends `bytes` with `fds` as one message. The receiver gets duplicates.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(Errno::TOOBIG.raw_os_error()));
    }
    let sent =
        retry(|| rustix::net::sendmsg(&socket, &[io::IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL))?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one message into `buffer`; its length (0: the other end is closed) and its descriptors, close-on-exec.
/// A message longer than `buffer` is an error, never silently cut.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let result = retry(|| {
        rustix::net::recvmsg(&socket, &mut [io::IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if result.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message longer than the buffer"));
    }
    Ok((result.bytes, fds))
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (left, right) = pair().expect("socket pair");
        let (pipe_read, pipe_write) = rustix::pipe::pipe().expect("pipe");
        send(&left, b"hello", &[pipe_write.as_fd()]).expect("sent");
        let mut buffer = [0; 16];
        let (length, fds) = receive(&right, &mut buffer).expect("received");
        assert_eq!((&buffer[..length], fds.len()), (&b"hello"[..], 1));
        rustix::io::write(&fds[0], b"x").expect("written");
        let mut byte = [0; 1];
        assert_eq!(rustix::io::read(&pipe_read, &mut byte).expect("read"), 1);
        drop(left);
        assert_eq!(receive(&right, &mut buffer).expect("closed").0, 0);
    }

    #[test]
    fn long_messages_are_refused_not_cut() {
        let (left, right) = pair().expect("socket pair");
        send(&left, b"0123456789", &[]).expect("sent");
        assert!(receive(&right, &mut [0; 4]).is_err());
    }
}
