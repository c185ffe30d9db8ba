//! The terminal of a process an external runtime starts: the runtime makes it in the container and sends its master
//! over a socket.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use dockerd_sys::fdpass;
use tokio::io::Interest;
use tokio::net::UnixListener;

/// Where programs write that only do something and end. Appended to, so that one file serves both streams.
pub(super) fn output(printed: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().create(true).append(true).open(printed)?.into())
}

/// What was printed there.
pub(super) fn printed(path: &Path) -> String {
    let mut text = Vec::new();
    match File::open(path).and_then(|mut file| io::Read::read_to_end(&mut file, &mut text)) {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

/// Waits for the runtime to connect and send the terminal's master.
pub(super) async fn master(listener: UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept().await?;
    loop {
        stream.readable().await?;
        // The message itself is the terminal's path, of no interest here.
        let mut text = [0; 4096];
        match stream.try_io(Interest::READABLE, || fdpass::receive(&stream, &mut text)) {
            Ok((_, fds)) => return fds.into_iter().next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
