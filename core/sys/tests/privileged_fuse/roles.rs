//! What other processes of this test do. Each talks to its parent over a socket that is its standard input.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;

use dockerd_sys::fdpass;
use dockerd_sys::fuse::FuseServer;

use super::image;
use super::source::{LIMIT, Mode, Source, noise};

/// First argument of such a process.
pub(crate) const MODE: &str = "role";
/// Bytes of the file that servers have.
pub(crate) const SIZE: usize = 8 << 20;
/// Where a server that reads its own file reads.
pub(crate) const OWN: u64 = 3 << 20;

/// A process with a role; killed when it is dropped.
pub(crate) struct Actor {
    child: Child,
    socket: OwnedFd,
}

impl Actor {
    /// Starts one and hands it `fds`.
    pub(crate) fn start(role: &str, fds: &[&File]) -> Self {
        let (ours, theirs) = fdpass::pair().expect("pair");
        let program = std::env::current_exe().expect("own path");
        let child = Command::new(program).args([MODE, role]).stdin(theirs).process_group(0).spawn().expect("started");
        let fds: Vec<_> = fds.iter().map(|file| file.as_fd()).collect();
        fdpass::send(&ours, b"begin", &fds).expect("sent");
        Self { child, socket: ours }
    }

    /// Waits for its next word; with what comes along.
    pub(crate) fn hear(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        assert!(readable(&self.socket), "a word was expected");
        let mut buffer = [0; 64];
        let (length, fds) = fdpass::receive(&self.socket, &mut buffer).expect("received");
        (buffer[..length].to_vec(), fds)
    }

    /// Kills it; whether it dies in time.
    pub(crate) fn kill(&mut self) -> bool {
        let pid = i32::try_from(self.child.id()).expect("a number");
        let pidfd = dockerd_sys::process::pidfd_open(pid).expect("pidfd");
        self.child.kill().expect("killed");
        let died = readable(&pidfd);
        if died {
            self.child.wait().expect("collected");
        }
        died
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn readable(fd: &OwnedFd) -> bool {
    let mut poll = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&limit)).expect("polled") > 0
}

/// Plays a role until it is killed or its parent goes away.
pub(crate) fn play(role: &str) {
    let parent = std::io::stdin().as_fd().try_clone_to_owned().expect("a socket");
    let (_, fds) = fdpass::receive(&parent, &mut [0; 64]).expect("received");
    let mut files = fds.into_iter().map(File::from);
    match role.split_once('@') {
        Some((how, offset)) => {
            let file = files.next().expect("a file");
            read(how, &file, offset.parse().expect("an offset"));
            fdpass::send(&parent, b"read", &[]).expect("sent");
        }
        None => serve(role, parent),
    }
}

/// Reads in one of the ways there are.
fn read(how: &str, file: &File, offset: u64) {
    match how {
        "read" => drop(file.read_at(&mut [0; 100], offset).expect("read")),
        "map" => {
            let length = SIZE;
            #[allow(unsafe_code, reason = "a page is read as programs are")]
            // SAFETY: the mapping is of that length and the file does not become shorter; nobody else uses it.
            let byte = unsafe {
                let fd = file.as_raw_fd();
                let map = libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0);
                assert_ne!(map, libc::MAP_FAILED);
                map.cast::<u8>().add(offset as usize).read_volatile()
            };
            assert_eq!(byte, noise(SIZE)[offset as usize]);
        }
        other => panic!("no way to read: {other}"),
    }
}

/// Serves a file and tells of each request for it, without an answer: `ready` with the file and the device, then `asked`.
fn serve(role: &str, parent: OwnedFd) {
    let server = FuseServer::start().expect("started");
    let parent = Arc::new(parent);
    let teller = Arc::clone(&parent);
    let tell = move |offset: u64| fdpass::send(&teller, format!("asked {offset}").as_bytes(), &[]).expect("sent");
    let source = Source::telling(noise(SIZE), Mode::Keep, tell);
    let opened = server.open(source.size(), source).expect("opened");
    fdpass::send(&parent, b"ready", &[opened.file.as_fd(), opened.device.as_fd()]).expect("sent");
    if role == "reads-itself" {
        let dir = tempfile::tempdir().expect("a directory");
        let image = image::mounted(&opened.file);
        let overlay = image::overlaid(&image, &dir);
        // Only what is open is left for the test's directory to go.
        drop(dir);
        let ways = [("read", image::inside(&overlay)), ("map", image::inside(&image))];
        std::thread::scope(|scope| {
            for (at, (how, path)) in ways.into_iter().enumerate() {
                let offset = OWN + ((at as u64) << 20);
                scope.spawn(move || read(how, &File::open(path).expect("opened"), offset));
            }
        });
        return;
    }
    // Until the parent goes away.
    let _ = fdpass::receive(&*parent, &mut [0; 64]);
}
