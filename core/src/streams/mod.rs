//! A process's standard streams for its whole life: the pumps that take its output (`pump.rs`), the way to the log that
//! outlives the daemon (`spool.rs`), the log, those who are attached. Output goes to the log first, then to every attached
//! client in order; a pump holds no buffer while it waits.

mod attributes;
mod log;
mod pump;
mod reader;
mod spool;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dockerd_runtime::{BoxFuture, ProcessIo, ProcessKey};
use dockerd_types::stream::StdStream;
pub use log::LogOptionsError;
pub(crate) use log::{JsonLog, LogSettings};
pub(crate) use reader::LogReader;
pub use reader::{LogEntry, LogQuery};
use spool::Spool;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::container::spec::ContainerSpec;
use crate::error::EngineError;
use crate::ports::{RuntimeSet, Streams, StreamsMaker};

/// Pieces of output an attached client may be behind before the process waits for it.
const BEHIND: usize = 64;

/// A piece of output.
#[derive(Debug, Clone)]
pub struct OutputChunk {
    /// From which stream.
    pub stream: StdStream,
    /// The bytes.
    pub bytes: Bytes,
}

/// Streams of one container or exec.
#[derive(Debug)]
pub struct ProcessStreams {
    tty: bool,
    log: Option<Mutex<JsonLog>>,
    sessions: Mutex<Vec<mpsc::Sender<OutputChunk>>>,
    stdin: watch::Sender<Option<Arc<AsyncFd<OwnedFd>>>>,
    pumps: AtomicUsize,
    keeper: Option<Keeper>,
    /// The daemon's ends while their pumps run, by stream.
    outputs: Mutex<[Option<Arc<AsyncFd<OwnedFd>>>; 2]>,
    /// The spool of this run, if it has one.
    spool: Mutex<SpoolState>,
    /// Counts log writes and ends, for those who follow.
    changes: watch::Sender<Progress>,
}

/// A run's way to the log.
#[derive(Debug, Clone, Default)]
enum SpoolState {
    /// No output came yet.
    #[default]
    Unused,
    /// Pieces go through it.
    Open(Arc<Spool>),
    /// There is none: pieces are read straight, and one that is under way dies with the daemon.
    Without,
}

/// Hands descriptors to a process that outlives the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    pub(crate) runtimes: Arc<dyn RuntimeSet>,
    pub(crate) key: ProcessKey,
}

/// What those who wait for a process's output look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    writes: u64,
    /// Whether a process is connected.
    pub(crate) connected: bool,
    /// Whether its output has ended.
    pub(crate) drained: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProcessStreams {
    /// Streams without a process yet; `log` where its output is kept.
    pub(crate) fn new(tty: bool, log: Option<LogSettings>, keeper: Option<Keeper>) -> Arc<Self> {
        Arc::new(Self {
            tty,
            keeper,
            outputs: Mutex::default(),
            spool: Mutex::default(),
            log: log.map(|settings| Mutex::new(JsonLog::new(settings))),
            sessions: Mutex::default(),
            stdin: watch::Sender::new(None),
            pumps: AtomicUsize::new(0),
            changes: watch::Sender::default(),
        })
    }

    /// Whether all output is one raw stream.
    pub(crate) fn is_tty(&self) -> bool {
        self.tty
    }

    /// All output from now on.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<OutputChunk> {
        let (sender, receiver) = mpsc::channel(BEHIND);
        lock(&self.sessions).push(sender);
        receiver
    }

    /// Follows the progress of output.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.changes.subscribe()
    }

    /// The log's first file and settings.
    pub(crate) fn log_path(&self) -> Option<PathBuf> {
        self.log.as_ref().map(|log| lock(log).path().to_owned())
    }

    /// Connects a process; the pumps run until its output ends.
    pub(crate) fn connect(self: &Arc<Self>, io: ProcessIo) -> io::Result<()> {
        let ProcessIo { stdin, stdout, stderr, kept } = io;
        self.take_over(kept);
        self.stdin.send_replace(stdin.map(|fd| async_fd(fd, Interest::WRITABLE)).transpose()?.map(Arc::new));
        let outputs = [(stdout, StdStream::Stdout), (stderr, StdStream::Stderr)];
        let outputs: Vec<_> = outputs.into_iter().filter_map(|(fd, stream)| Some((fd?, stream))).collect();
        self.pumps.store(outputs.len(), Ordering::Release);
        self.changes.send_modify(|progress| {
            progress.connected = true;
            progress.drained = outputs.is_empty();
        });
        for (fd, stream) in outputs {
            let fd = Arc::new(async_fd(fd, Interest::READABLE)?);
            lock(&self.outputs)[spool::slot(stream)] = Some(fd.clone());
            tokio::spawn(pump::run(Arc::clone(self), fd, stream));
        }
        Ok(())
    }

    fn pump_ended(&self, stream: StdStream) {
        if let Some(log) = &self.log {
            lock(log).finish(stream);
        }
        lock(&self.outputs)[spool::slot(stream)] = None;
        if self.pumps.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.changes.send_modify(|progress| progress.drained = true);
        }
    }

    /// Writes to the process's standard input, once there is one; an error when it is closed.
    pub(crate) async fn write_stdin(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut stdin = self.stdin.subscribe();
        let mut progress = self.progress();
        // An attach may come before the start.
        let connected = progress.wait_for(|progress| progress.connected).await.is_ok();
        let open = stdin.borrow_and_update().clone();
        let Some(stdin) = open.filter(|_| connected) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        while !bytes.is_empty() {
            let mut ready = stdin.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Err(_would_block) => {}
                Ok(written) => bytes = &bytes[written?..],
            }
        }
        Ok(())
    }

    /// Closes the daemon's end of standard input.
    pub(crate) fn close_stdin(&self) {
        self.stdin.send_replace(None);
    }

    /// Waits until all output was let through, at most `limit`.
    pub(crate) async fn wait_drained(&self, limit: Duration) {
        let mut progress = self.progress();
        let _ = tokio::time::timeout(limit, progress.wait_for(|progress| progress.drained)).await;
    }

    /// The run is over: sessions end, standard input is closed.
    pub(crate) fn finish(&self) {
        self.close_stdin();
        *lock(&self.spool) = SpoolState::Unused;
        lock(&self.sessions).clear();
        self.changes.send_modify(|progress| {
            progress.connected = false;
            progress.drained = true;
        });
    }
}

fn async_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    #[allow(deprecated, reason = "its successor is unsafe; the descriptor is owned by the AsyncFd alone")]
    AsyncFd::with_interest(fd, interest)
}

/// The engine's view of a container's streams.
#[derive(Debug)]
pub struct ContainerStreams(pub(crate) Arc<ProcessStreams>);

impl Streams for ContainerStreams {
    fn prepare(&self) -> Result<(), EngineError> {
        match &self.0.log {
            Some(log) => lock(log).open().map_err(|error| EngineError::io("open container log", error)),
            None => Ok(()),
        }
    }

    fn begin(&self, io: ProcessIo) -> Result<(), EngineError> {
        self.0.connect(io).map_err(|error| EngineError::io("connect streams", error))
    }

    fn drained(&self, limit: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.0.wait_drained(limit))
    }

    fn describe(&self) -> String {
        let (sessions, progress) = (lock(&self.0.sessions).len(), *self.0.changes.borrow());
        let (pumps, spool) = (self.0.pumps.load(Ordering::Acquire), lock(&self.0.spool).clone());
        let spool = match spool {
            SpoolState::Unused => "unused",
            SpoolState::Open(_) => "open",
            SpoolState::Without => "none",
        };
        format!(
            "pumps {pumps} spool {spool} sessions {sessions} writes {} drained {}",
            progress.writes, progress.drained
        )
    }

    fn keep_again(&self) -> Result<(), EngineError> {
        self.0.keep_again().map_err(|error| EngineError::io("keep streams", error))
    }

    fn end(&self) {
        self.0.finish();
        if let Some(log) = &self.0.log {
            lock(log).close();
        }
    }

    fn discard(&self) {
        self.0.finish();
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

/// Makes the streams of containers, with the log driver each asks for.
#[derive(Debug)]
pub struct Maker {
    /// Whose supervisor holds what must outlive the daemon.
    pub runtimes: Arc<dyn RuntimeSet>,
}

impl StreamsMaker for Maker {
    fn make(&self, spec: &ContainerSpec, name: &str) -> Arc<dyn Streams> {
        let settings = |path| LogSettings::of(path, &spec.host.log_config.options, &attributes::of(spec, name));
        let log = spec.log_path.clone().map(settings);
        let keeper = Keeper { runtimes: self.runtimes.clone(), key: ProcessKey::Container(spec.id.clone()) };
        Arc::new(ContainerStreams(ProcessStreams::new(spec.config.tty, log, Some(keeper))))
    }
}
