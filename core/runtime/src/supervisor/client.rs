//! The daemon's side of the supervisor: one connection, requests matched to replies by number, exits as they come.
//! Sending is one system call from the caller's task; receiving is one task for all.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_sys::fdpass;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::entry;
use super::protocol::{Envelope, MAX_MESSAGE, Message, OLDEST_RESUMABLE, Reply, Request, VERSION};
use crate::driver::ProcessExit;

/// What stands in a message whose content is in the memory file that comes with it.
pub(super) const IN_FILE: &[u8] = b"\xff\xff\xff\xffmemfd";

/// Why the supervisor gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// It could not be started or reached.
    #[error("cannot reach the supervisor: {0}")]
    Io(#[from] io::Error),
    /// It went away before it answered.
    #[error("the supervisor went away")]
    Lost,
    /// It is of a version whose processes cannot be taken over.
    #[error(
        "the supervisor in use is of version {version} (protocol {protocol}), which this daemon cannot take over: stop its containers with the daemon of that version first"
    )]
    TooOld {
        /// Its program's version.
        version: String,
        /// What it speaks.
        protocol: u32,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It answered something else than was asked.
    #[error("unexpected answer from the supervisor: {0}")]
    Protocol(String),
}

type Answer = (Reply, Vec<OwnedFd>);

enum Waiter {
    One(oneshot::Sender<Answer>),
    Many(mpsc::UnboundedSender<Answer>),
}

type Waiters = Mutex<HashMap<u64, Waiter>>;

/// A connection to the supervisor. Dropping it leaves the supervisor and its processes alone.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Arc<AsyncFd<OwnedFd>>,
    waiters: Arc<Waiters>,
    next: AtomicU64,
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiter")
    }
}

fn lock(waiters: &Waiters) -> MutexGuard<'_, HashMap<u64, Waiter>> {
    waiters.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Connects to the supervisor of `exec_root`, starting or upgrading it where needed. Exits go to `exits`, which gets
    /// `None` when the supervisor is lost.
    pub(crate) async fn open(
        exec_root: &Path,
        program: &Path,
        exits: mpsc::UnboundedSender<Option<ProcessExit>>,
    ) -> Result<Self, SupervisorError> {
        let socket = connect_or_start(exec_root, program).await?;
        let client = Self::over(socket, exits)?;
        client.check_version(program).await?;
        Ok(client)
    }

    fn over(socket: OwnedFd, exits: mpsc::UnboundedSender<Option<ProcessExit>>) -> Result<Self, SupervisorError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(io::Error::from)?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe; the descriptor is owned by the AsyncFd alone and never replaced"
        )]
        let socket = Arc::new(AsyncFd::with_interest(socket, Interest::READABLE | Interest::WRITABLE)?);
        let waiters = Arc::new(Waiters::default());
        tokio::spawn(receive_all(Arc::clone(&socket), Arc::clone(&waiters), exits));
        Ok(Self { socket, waiters, next: AtomicU64::new(1) })
    }

    async fn check_version(&self, program: &Path) -> Result<(), SupervisorError> {
        let (protocol, version) = self.hello().await?;
        if protocol == VERSION && version == env!("CARGO_PKG_VERSION") {
            return Ok(());
        }
        if protocol < OLDEST_RESUMABLE {
            return Err(SupervisorError::TooOld { version, protocol });
        }
        self.upgrade(program).await
    }

    async fn hello(&self) -> Result<(u32, String), SupervisorError> {
        match self.ask(Request::Hello, &[]).await?.0 {
            Reply::Hello(protocol, version) => Ok((protocol, version)),
            other => Err(SupervisorError::Protocol(format!("{other:?}"))),
        }
    }

    /// Has the supervisor execute `program` in place. It keeps the connection; success is told by the next Hello.
    pub(crate) async fn upgrade(&self, program: &Path) -> Result<(), SupervisorError> {
        let program = File::open(program)?;
        let protocol = dockerd_sys::memory::sealed("protocol", VERSION.to_string().as_bytes())?;
        self.tell(Request::Upgrade, &[program.as_fd(), protocol.as_fd()]).await?;
        match self.hello().await? {
            (VERSION, _) => Ok(()),
            (other, _) => Err(SupervisorError::Protocol(format!("supervisor stays at protocol {other}"))),
        }
    }

    /// Requests that wait for their answer.
    pub(crate) fn unanswered(&self) -> usize {
        lock(&self.waiters).len()
    }

    /// Sends `request` with `fds` and waits for its answer.
    pub(crate) async fn ask(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, SupervisorError> {
        let (sender, answer) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.waiters).insert(id, Waiter::One(sender));
        if let Err(error) = self.send(id, request, fds).await {
            lock(&self.waiters).remove(&id);
            return Err(error);
        }
        answer.await.map_err(|_| SupervisorError::Lost)
    }

    /// Sends a request that has no answer.
    pub(crate) async fn tell(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(), SupervisorError> {
        self.send(0, request, fds).await
    }

    /// As [`Client::tell`], from code that cannot wait; a full socket is an error.
    pub(crate) fn tell_now(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(), SupervisorError> {
        let bytes = encode(0, request)?;
        Ok(fdpass::send(self.socket.get_ref(), &bytes, fds)?)
    }

    /// Sends a request that is answered by several messages and `Done`: those messages.
    pub(crate) async fn ask_all(&self, request: Request) -> Result<Vec<Answer>, SupervisorError> {
        let (sender, mut answers) = mpsc::unbounded_channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.waiters).insert(id, Waiter::Many(sender));
        if let Err(error) = self.send(id, request, &[]).await {
            lock(&self.waiters).remove(&id);
            return Err(error);
        }
        let mut out = Vec::new();
        loop {
            match answers.recv().await {
                Some((Reply::Done, _)) => break,
                Some(answer) => out.push(answer),
                None => return Err(SupervisorError::Lost),
            }
        }
        lock(&self.waiters).remove(&id);
        Ok(out)
    }

    async fn send(&self, id: u64, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(), SupervisorError> {
        let bytes = encode(id, request)?;
        let file = if bytes.len() > MAX_MESSAGE { Some(memory_file(&bytes)?) } else { None };
        let mut all = fds.to_vec();
        all.extend(file.as_ref().map(AsFd::as_fd));
        let message = if file.is_some() { IN_FILE } else { &bytes };
        match fdpass::send(self.socket.get_ref(), message, &all) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Ok(other?),
        }
        loop {
            let mut ready = self.socket.writable().await?;
            match ready.try_io(|socket| fdpass::send(socket.get_ref(), message, &all)) {
                Ok(result) => return Ok(result?),
                Err(_would_block) => {}
            }
        }
    }
}

fn encode(id: u64, request: Request) -> Result<Vec<u8>, SupervisorError> {
    postcard::to_stdvec(&Envelope { id, request }).map_err(|error| SupervisorError::Protocol(error.to_string()))
}

fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::Seek;
    let mut file = File::from(rustix::fs::memfd_create("request", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

async fn receive_all(
    socket: Arc<AsyncFd<OwnedFd>>,
    waiters: Arc<Waiters>,
    exits: mpsc::UnboundedSender<Option<ProcessExit>>,
) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let Ok(mut ready) = socket.readable().await else { break };
        match ready.try_io(|socket| fdpass::receive(socket.get_ref(), &mut buffer)) {
            Err(_would_block) => {}
            Ok(Ok((0, _)) | Err(_)) => break,
            Ok(Ok((length, fds))) => match postcard::from_bytes(&buffer[..length]) {
                Ok(Message::Reply(id, reply)) => deliver(&waiters, id, reply, fds),
                Ok(Message::Exited(exit)) => drop(exits.send(Some(exit))),
                Err(error) => tracing::error!(%error, "message from the supervisor cannot be read"),
            },
        }
    }
    lock(&waiters).clear();
    drop(exits.send(None));
}

fn deliver(waiters: &Waiters, id: u64, reply: Reply, fds: Vec<OwnedFd>) {
    let mut waiters = lock(waiters);
    match waiters.remove(&id) {
        Some(Waiter::One(sender)) => drop(sender.send((reply, fds))),
        Some(Waiter::Many(sender)) => {
            drop(sender.send((reply, fds)));
            waiters.insert(id, Waiter::Many(sender));
        }
        None => {}
    }
}

async fn connect_or_start(exec_root: &Path, program: &Path) -> Result<OwnedFd, SupervisorError> {
    let path = exec_root.join("supervisor.sock");
    match fdpass::connect(&path) {
        Ok(socket) => return Ok(socket),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
        Err(error) => return Err(error.into()),
    }
    start(exec_root, &path, program)?;
    Ok(fdpass::connect(&path)?)
}

/// Makes the socket first and hands it over, so that connecting needs no waiting.
fn start(exec_root: &Path, path: &PathBuf, program: &Path) -> Result<(), SupervisorError> {
    std::fs::create_dir_all(entry::journal_dir(exec_root))?;
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let listener = fdpass::listen(path)?;
    let log = File::options().create(true).append(true).open(entry::journal_dir(exec_root).join("log"))?;
    let open_files = dockerd_sys::process::open_files_before().map(|soft| soft.to_string());
    let mut arguments: Vec<&OsStr> = vec!["supervisor".as_ref(), "--exec-root".as_ref(), exec_root.as_os_str()];
    if let Some(soft) = &open_files {
        arguments.extend::<[&OsStr; 2]>([entry::OPEN_FILES.as_ref(), soft.as_ref()]);
    }
    let status = dockerd_sys::command::run_detached(program, &arguments, listener, log.into())?;
    if status.success() { Ok(()) } else { Err(SupervisorError::Refused(format!("supervisor did not start: {status}"))) }
}
