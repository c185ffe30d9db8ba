//! Files whose bytes this program gives, one at a time as the kernel asks for them (FUSE; the kernel's
//! Documentation/filesystems/fuse, include/uapi/linux/fuse.h): each is a read-only file system of its own that is nothing but
//! that file, mounted nowhere. An EROFS image may have one as a device before its bytes are here: who reads it waits.
//!
//! A session outlives the process that serves it. Somebody who lives on keeps a duplicate of its device descriptor; the
//! kernel then lets readers wait, and the next process takes the session over with [`FuseServer::resume`], where all requests
//! come again that were not answered (`FUSE_NOTIFY_RESEND`, Linux 6.9). The libraries there are make and end their sessions
//! themselves and cannot take over one that somebody else began; a file for reading needs ten kinds of requests, so they are
//! spoken here.
//!
//! ```text
//! reader --> page cache --READ--> /dev/fuse --> one thread, all sessions (epoll) --> FileSource::read
//!    ^                                ^                                                   |
//!    +---------- bytes ---------------+---- ReadReply::data, from any thread, any time ---+
//! ```
//!
//! What to know of the kernel's side:
//! - A reader that waits can be killed, also through EROFS and an overlay. Some cannot, until their answer comes: those
//!   that read the file itself with `O_DIRECT` or mapped with `MADV_RANDOM`, all through an EROFS image mounted with
//!   `directio`, and those of a page whose first READ was answered with an error. So rather answer late than with one.
//! - OPEN, FLUSH and STATX are answered with "not implemented" once, in [`FuseServer::open`], and not sent again: opening,
//!   closing and `fstat` need no server. FLUSH cannot be interrupted; a process that dies must not have to answer its own.
//! - What is read ahead is the kernel's usual 128 KiB at most. More is no faster where the bytes are here (measured),
//!   and where they are not, a reader waits for all of a request, not only for its page.
//! - An EROFS image reads its devices in blocks, so that a last part of one is not read: the size is to be whole blocks.
//! - Programs must not wait for themselves: whatever a [`FileSource`] does to find its bytes must not read the file.

mod server;
mod session;
mod wire;

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use server::FuseServer;
use session::Device;

/// Where the bytes of a file come from.
pub trait FileSource: Send + Sync {
    /// `length` bytes from `offset` are asked for, at most 1 MiB and never beyond the end. Called by the thread that
    /// serves all files, so it must not wait for anything; the answer may be given later, by any thread. After
    /// [`FuseServer::resume`] what was asked of the process before is asked again.
    fn read(&self, offset: u64, length: usize, reply: ReadReply);

    /// The kernel has let go of the file: nobody has it open, and nobody will ask again. Called once, by the same thread.
    fn ended(&self);
}

/// A file that was made.
#[derive(Debug)]
pub struct Opened {
    /// Open for reading; can be opened anew through `/proc/self/fd`. Its file system lives as long as somebody has it open.
    pub file: File,
    /// A duplicate of the session's descriptor, for somebody who outlives this process.
    pub device: OwnedFd,
}

/// The answer that a read waits for. Dropped without one, it is `EIO`, unless the server has left: then it is for the next
/// server to give.
#[derive(Debug)]
pub struct ReadReply {
    device: Arc<Device>,
    unique: u64,
    length: usize,
    answered: bool,
}

impl ReadReply {
    /// How many bytes are asked for.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Answers with `parts`, together exactly as many bytes as were asked for; otherwise the reader gets `EIO`, because the
    /// kernel would take fewer for the file's end.
    pub fn data(mut self, parts: &[IoSlice<'_>]) {
        if parts.iter().map(|part| part.len()).sum::<usize>() == self.length {
            self.answered = true;
            self.device.answer(self.unique, parts);
        }
    }

    /// As [`ReadReply::data`], of one part.
    pub fn bytes(self, bytes: &[u8]) {
        self.data(&[IoSlice::new(bytes)]);
    }

    /// Answers with the error number `errno`, such as `EIO`.
    pub fn fail(mut self, errno: i32) {
        self.answered = true;
        self.device.refuse(self.unique, errno);
    }
}

impl Drop for ReadReply {
    fn drop(&mut self) {
        if !self.answered && !self.device.is_left() {
            self.device.refuse(self.unique, libc::EIO);
        }
    }
}

/// Why a file cannot be made or gone on with: [`io::ErrorKind::Unsupported`] for a kernel that is too old.
fn too_old() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this kernel cannot send FUSE requests again (Linux 6.9 can)")
}
