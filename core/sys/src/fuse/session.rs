//! One session: its device, its mount, and what is answered to which request.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_set_flag, fsconfig_set_string, fsopen};

use super::wire::{self, Request};
use super::{FileSource, ReadReply};
use crate::mount::{NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, create};

/// `/dev/fuse` (the kernel's Documentation/admin-guide/devices.txt).
const DEVICE: (u32, u32) = (10, 229);

/// A session's end here.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) fd: OwnedFd,
    left: AtomicBool,
}

/// A file that is served.
pub(super) struct Session {
    pub(super) device: Arc<Device>,
    pub(super) source: Arc<dyn FileSource>,
    size: u64,
    refused: AtomicBool,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    Request,
    Nothing,
    End,
}

impl Session {
    pub(super) fn new(fd: OwnedFd, size: u64, source: Arc<dyn FileSource>) -> Self {
        let device = Arc::new(Device { fd, left: AtomicBool::new(false) });
        Self { device, source, size, refused: AtomicBool::new(false) }
    }

    /// Whether the kernel is too old.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Takes one request and answers it, or has the source answer it.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Received {
        match rustix::io::read(&self.device.fd, &mut *buffer) {
            Ok(length) => {
                self.serve(&buffer[..length]);
                Received::Request
            }
            Err(Errno::AGAIN) => Received::Nothing,
            // ENOENT: whoever asked was killed while the request was being read.
            Err(Errno::INTR | Errno::NOENT) => Received::Request,
            // ENODEV: the last user is gone; ECONNABORTED: somebody ended it by force. No other is known.
            Err(_) => Received::End,
        }
    }

    fn serve(&self, message: &[u8]) {
        let Some((unique, request)) = wire::parse(message) else { return };
        match request {
            Request::Init(init) => match wire::init_answer(init) {
                Ok(bytes) => self.answer(unique, &bytes),
                Err(wire::TooOld) => {
                    self.refused.store(true, Ordering::Release);
                    self.device.refuse(unique, libc::EPROTO);
                }
            },
            Request::GetAttr => self.answer(unique, &wire::attributes(self.size)),
            Request::StatFs => self.answer(unique, &wire::sizes(self.size)),
            Request::Read { offset, length } => self.read(unique, offset, length),
            Request::Forget => {}
            Request::Farewell => self.answer(unique, &[]),
            Request::Change => self.device.refuse(unique, libc::EROFS),
            Request::Unknown => self.device.refuse(unique, libc::ENOSYS),
            Request::Short => self.device.refuse(unique, libc::EINVAL),
        }
    }

    fn read(&self, unique: u64, offset: u64, length: u32) {
        if length > wire::MAX_READ {
            return self.device.refuse(unique, libc::EINVAL);
        }
        // The kernel asks for whole pages.
        match u64::from(length).min(self.size.saturating_sub(offset)) as usize {
            0 => self.answer(unique, &[]),
            length => {
                let reply = ReadReply { device: Arc::clone(&self.device), unique, length, answered: false };
                self.source.read(offset, length, reply);
            }
        }
    }

    fn answer(&self, unique: u64, bytes: &[u8]) {
        self.device.answer(unique, &[IoSlice::new(bytes)]);
    }
}

impl Device {
    /// From now on a request that is dropped is left to the next server.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    pub(super) fn is_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Answers request `unique`. Whether anybody still waits for it is of no interest: readers may be killed at any time.
    pub(super) fn answer(&self, unique: u64, parts: &[IoSlice<'_>]) {
        let length = parts.iter().map(|part| part.len()).sum();
        let Some(head) = wire::head(unique, 0, length) else { return self.refuse(unique, libc::EIO) };
        let joined: Vec<u8>;
        let mut all = vec![IoSlice::new(&head)];
        // writev(2) takes 1024 parts.
        if parts.len() < 1024 {
            all.extend_from_slice(parts);
        } else {
            joined = parts.iter().flat_map(|part| part.iter().copied()).collect();
            all.push(IoSlice::new(&joined));
        }
        self.send(&all);
    }

    /// Answers request `unique` with the error number `errno`, or with `EIO` if it is none.
    pub(super) fn refuse(&self, unique: u64, errno: i32) {
        // Numbers the kernel does not take for an error would leave the reader without an answer.
        let errno = if (1..512).contains(&errno) { errno } else { libc::EIO };
        if let Some(head) = wire::head(unique, errno, 0) {
            self.send(&[IoSlice::new(&head)]);
        }
    }

    fn send(&self, parts: &[IoSlice<'_>]) {
        while let Err(Errno::INTR) = rustix::io::writev(&self.fd, parts) {}
    }
}

/// Opens a device for a new session.
pub(super) fn open_device() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?)
}

/// Mounts a file system that is one file, detached; its requests come from `device`.
pub(super) fn mount(device: &OwnedFd) -> io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: String| fsconfig_set_string(context.as_fd(), key, value);
    set("source", "dockerd-rs".to_owned())?;
    set("fd", device.as_raw_fd().to_string())?;
    set("rootmode", format!("{:o}", wire::MODE))?;
    set("user_id", "0".to_owned())?;
    set("group_id", "0".to_owned())?;
    set("max_read", wire::MAX_READ.to_string())?;
    // Containers with users of their own read, too.
    fsconfig_set_flag(context.as_fd(), "allow_other")?;
    // Of the file system, not only of the mount: otherwise each read makes the attributes stale.
    fsconfig_set_flag(context.as_fd(), "ro")?;
    create(context.as_fd(), READ_ONLY | NO_SUID | NO_DEV | NO_EXEC)
}

/// Opens the file of `mount`, whose device has the number `device`: once for the kernel to learn what is not served and
/// once for good. Waits for the server.
///
/// The thread that waits must not itself keep alive what it waits for: a process that is killed while it waits for an answer
/// would never end if that thread's descriptors had the session's device among them. So it has descriptors of its own,
/// without that one. Other sessions' devices may be among them, but none that is being begun: there is one at a time.
pub(super) fn first_open(mount: OwnedFd, device: RawFd) -> io::Result<OwnedFd> {
    let (ours, theirs) = crate::fdpass::pair()?;
    let open = || -> io::Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?;
        nix::unistd::close(device)?;
        let file = attributes_then_open(mount.as_fd())?;
        crate::fdpass::send(&theirs, &[0], &[file.as_fd()])
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("fuse-open".to_owned()).spawn_scoped(scope, open)?;
        thread.join().map_err(|_| io::Error::other("panicked"))?
    })?;
    let (_, fds) = crate::fdpass::receive(&ours, &mut [0])?;
    fds.into_iter().next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn attributes_then_open(mount: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // With the time of birth, which is not served either: once asked for in vain, it is not asked for again.
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    rustix::fs::statx(mount, "", AtFlags::EMPTY_PATH, flags)?;
    // Not that of the process: this thread's descriptors are its own.
    let path = format!("/proc/thread-self/fd/{}", mount.as_raw_fd());
    let open = || rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    drop(open()?);
    Ok(open()?)
}

/// Asks the kernel for all requests that nobody has answered, on a device that was begun by another process.
pub(super) fn resend(device: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(device)?;
    let is_device = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    if !is_device || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) != DEVICE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::ioctl_fionbio(device, true)?;
    match rustix::io::write(device, &wire::resend()) {
        // Whether it has ended shows in the next read.
        Ok(_) | Err(Errno::NODEV | Errno::CONNABORTED | Errno::NOTCONN) => Ok(()),
        Err(Errno::INVAL) => Err(super::too_old()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl FileSource for Nothing {
        fn read(&self, _offset: u64, _length: usize, _reply: ReadReply) {}
        fn ended(&self) {}
    }

    fn wait(device: &OwnedFd) {
        let mut poll = [rustix::event::PollFd::new(device, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut poll, Some(&limit)).expect("polled"), 1, "nothing came");
    }

    #[test]
    fn privileged_a_server_that_dies_while_a_file_is_opened_holds_up_nobody() {
        let device = open_device().expect("/dev/fuse");
        let mount = mount(&device).expect("mounted");
        let session = Session::new(device, 1, Arc::new(Nothing));
        wait(&session.device.fd);
        let mut buffer = vec![0; wire::BUFFER];
        assert_eq!(session.receive(&mut buffer), Received::Request, "INIT");
        // Behind the header and the major version, where it was read to. Before 7.39 (Linux 6.6) there is no STATX.
        let minor = u32::from_ne_bytes(buffer[44..48].try_into().expect("four bytes"));
        let (done, told) = std::sync::mpsc::channel();
        let number = session.device.fd.as_raw_fd();
        std::thread::spawn(move || done.send(first_open(mount, number).map(drop)).expect("told"));
        wait(&session.device.fd);
        let asked = rustix::io::read(&session.device.fd, &mut buffer[..]).is_ok();
        assert!(asked || minor < 39, "STATX, which gets no answer");
        drop(session);
        let result = told.recv_timeout(std::time::Duration::from_secs(20)).expect("ends");
        assert!(result.is_err());
    }
}
