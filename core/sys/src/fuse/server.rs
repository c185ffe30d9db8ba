//! The thread that serves all sessions.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::session::{self, Received, Session};
use super::{FileSource, Opened, wire};

/// Token of the descriptor that wakes the thread; sessions count from 1.
const WAKE: u64 = 0;
/// Requests that are taken of one session before the others have their turn.
const BURST: usize = 32;

/// Serves files on a thread of its own. Dropping it is [`FuseServer::leave`] and the end of the thread.
pub struct FuseServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    stop: AtomicBool,
    sessions: Mutex<Sessions>,
    /// Held while a session is begun: see [`session::first_open`].
    opening: Mutex<()>,
}

#[derive(Default)]
struct Sessions {
    by_token: HashMap<u64, Arc<Session>>,
    last: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for FuseServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FuseServer").field("sessions", &self.sessions()).finish_non_exhaustive()
    }
}

impl FuseServer {
    /// Starts the thread. Touches no device yet. Errors: of thread and descriptor creation.
    pub fn start() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let (stop, sessions, opening) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { epoll, wake, stop, sessions, opening });
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("fuse".to_owned()).spawn(move || served.serve())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Makes a file of `size` bytes that come from `source`. Waits for this server's thread, so not to be called by a source.
    /// Errors: [`io::ErrorKind::Unsupported`] before Linux 6.9; `ENODEV` or `ENOENT` without FUSE; what mounting gives. After
    /// an error `source` is not told of an end.
    pub fn open(&self, size: u64, source: Arc<dyn FileSource>) -> io::Result<Opened> {
        let _one_at_a_time = lock(&self.shared.opening);
        let device = session::open_device()?;
        let mount = session::mount(&device)?;
        let session = Arc::new(Session::new(device, size, source));
        let token = self.shared.add(&session)?;
        let file = session::first_open(mount, session.device.fd.as_raw_fd());
        let opened =
            file.and_then(|file| Ok(Opened { file: File::from(file), device: session.device.fd.try_clone()? }));
        opened.map_err(|error| {
            self.shared.remove(token);
            if session.is_refused() { super::too_old() } else { error }
        })
    }

    /// Goes on with the session of `device`, which a process that has ended had begun with a file of as many bytes.
    /// What waits for an answer is asked of `source` now. A session that has ended meanwhile is no error: `source` is
    /// told. Errors: [`io::ErrorKind::Unsupported`] before Linux 6.9; [`io::ErrorKind::InvalidInput`] for another
    /// descriptor.
    pub fn resume(&self, device: OwnedFd, size: u64, source: Arc<dyn FileSource>) -> io::Result<()> {
        session::resend(&device)?;
        self.shared.add(&Arc::new(Session::new(device, size, source))).map(drop)
    }

    /// Takes no requests any more and leaves the sessions to those who keep their devices. Replies that are dropped
    /// from now on are no errors: who reads waits for the next server. To be called before a daemon that ends in order
    /// drops what it works on. Where nobody keeps a device, readers get errors when this process has closed it.
    pub fn leave(&self) {
        self.shared.stop.store(true, Ordering::Release);
        lock(&self.shared.sessions).by_token.values().for_each(|session| session.device.leave());
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }

    /// How many sessions are served.
    pub fn sessions(&self) -> usize {
        lock(&self.shared.sessions).by_token.len()
    }
}

impl Drop for FuseServer {
    fn drop(&mut self) {
        self.leave();
        // A source that held the server drops it on the very thread, which then ends by itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn add(&self, session: &Arc<Session>) -> io::Result<u64> {
        let mut sessions = lock(&self.sessions);
        if self.stop.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the server has left"));
        }
        sessions.last += 1;
        let token = sessions.last;
        epoll::add(&self.epoll, &session.device.fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        sessions.by_token.insert(token, Arc::clone(session));
        Ok(token)
    }

    fn remove(&self, token: u64) -> Option<Arc<Session>> {
        let session = lock(&self.sessions).by_token.remove(&token)?;
        // Duplicates of the device may live on, and with them it would stay in the set.
        let _ = epoll::delete(&self.epoll, &session.device.fd);
        Some(session)
    }

    fn serve(&self) {
        let mut events = Vec::with_capacity(64);
        let mut buffer = vec![0; wire::BUFFER];
        while !self.stop.load(Ordering::Acquire) {
            if let Err(error) = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None)
                && error != rustix::io::Errno::INTR
            {
                // Not even possible: the set and its buffer are ours.
                return;
            }
            for event in events.drain(..) {
                self.take(event.data.u64(), &mut buffer);
            }
        }
    }

    fn take(&self, token: u64, buffer: &mut [u8]) {
        let Some(session) = lock(&self.sessions).by_token.get(&token).cloned() else { return };
        for _ in 0..BURST {
            match session.receive(buffer) {
                Received::Request => {}
                Received::Nothing => return,
                Received::End => {
                    if self.remove(token).is_some() {
                        session.source.ended();
                    }
                    return;
                }
            }
        }
    }
}
