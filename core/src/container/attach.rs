//! `docker attach`: a client's ends of a container's streams, before, while and until it runs.

use std::sync::Arc;

use bytes::Bytes;
use dockerd_runtime::{ProcessKey, RuntimeDriver};
use dockerd_types::container::Status;
use dockerd_types::{ErrorKind, Kinded};
use tokio::sync::{mpsc, oneshot};

use super::detach_keys::{DetachFilter, DetachKeys};
use super::{Container, ContainerService};
use crate::error::EngineError;
use crate::streams::{ContainerStreams, LogEntry, LogQuery, LogReader, OutputChunk, ProcessStreams};

/// Which streams a client wants.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// It will write.
    pub stdin: bool,
    /// It wants standard output.
    pub stdout: bool,
    /// It wants standard error.
    pub stderr: bool,
    /// It wants what comes from now on.
    pub stream: bool,
    /// It wants what was logged so far first.
    pub logs: bool,
    /// Keys that detach it from a terminal; empty: the default.
    pub detach_keys: String,
}

/// Attaching is not possible now; Docker's words.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Frozen.
    #[error("container {0} is paused, unpause the container before attach")]
    Paused(String),
    /// Between two runs.
    #[error("container {0} is restarting, wait until the container is running before attach")]
    Restarting(String),
    /// No such keys.
    #[error("Invalid detach keys ({0}) provided")]
    DetachKeys(String),
}

impl Kinded for AttachError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Paused(_) | Self::Restarting(_) => ErrorKind::Conflict,
            Self::DetachKeys(_) => ErrorKind::InvalidArgument,
        }
    }
}

/// Why a session ends although output has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The client pressed the keys for it.
    Detached,
    /// The client's input has ended, and the process is not to be told.
    InputEnded,
}

/// A client's side of a process.
#[derive(Debug)]
pub struct AttachSession {
    /// Whether output is one raw stream.
    pub tty: bool,
    /// Output; ends when the process's output has ended.
    pub output: mpsc::Receiver<OutputChunk>,
    /// Input; dropping it is the end of input. `None` where the client may not write.
    pub input: Option<Input>,
}

/// The way in.
#[derive(Debug)]
pub struct Input {
    /// To the process.
    pub bytes: mpsc::Sender<Bytes>,
    /// Tells when the session is over because of what came in. Closed without a word when it is not.
    pub over: oneshot::Receiver<SessionEnd>,
}

impl Container {
    /// The real type of its streams; `None` in tests on fakes.
    pub(crate) fn process_streams(&self) -> Option<&Arc<ProcessStreams>> {
        self.io().as_any().downcast_ref::<ContainerStreams>().map(|streams| &streams.0)
    }
}

impl ContainerService {
    /// Attaches to a container, which may not have been started yet.
    pub async fn attach(&self, name: &str, options: AttachOptions) -> Result<AttachSession, EngineError> {
        let container = self.core.containers.find(name)?;
        let snapshot = container.snapshot();
        let keys = DetachKeys::parse(&options.detach_keys)
            .map_err(|_| EngineError::module(AttachError::DetachKeys(options.detach_keys.clone())))?;
        match snapshot.state.status {
            Status::Paused => return Err(EngineError::module(AttachError::Paused(name.to_owned()))),
            Status::Restarting => return Err(EngineError::module(AttachError::Restarting(name.to_owned()))),
            _ => {}
        }
        let streams = container.process_streams().ok_or(EngineError::NotBuilt("attaching"))?.clone();
        // The subscription comes before the log is read, so that nothing falls between the two.
        let wanted = options.stdin || options.stdout || options.stderr;
        let live = (options.stream && wanted).then(|| streams.subscribe());
        let earlier = if options.logs { earlier_output(&streams, &options).await? } else { Vec::new() };
        container.publish_event(&*self.core.events, "attach", &[]);
        let input = if options.stdin && options.stream && snapshot.spec.config.open_stdin {
            let driver = container.driver(&self.core)?;
            let once = snapshot.spec.config.stdin_once;
            let (events, who) = (self.core.events.clone(), container.clone());
            let told = move || who.publish_event(&*events, "detach", &[]);
            let order = InputOrder { driver, key: container.key(), once, keys, detached: Box::new(told) };
            Some(input_task(streams.clone(), order))
        } else {
            None
        };
        Ok(AttachSession { tty: streams.is_tty(), output: output_task(earlier, live, &options), input })
    }
}

async fn earlier_output(streams: &ProcessStreams, options: &AttachOptions) -> Result<Vec<LogEntry>, EngineError> {
    let Some(path) = streams.log_path() else { return Ok(Vec::new()) };
    let query = LogQuery { stdout: options.stdout, stderr: options.stderr, ..LogQuery::default() };
    let read = tokio::task::spawn_blocking(move || LogReader::new(&path, query).existing());
    read.await.map_err(std::io::Error::other).flatten().map_err(|error| EngineError::io("read container log", error))
}

fn output_task(
    earlier: Vec<LogEntry>,
    live: Option<mpsc::Receiver<OutputChunk>>,
    options: &AttachOptions,
) -> mpsc::Receiver<OutputChunk> {
    let (stdout, stderr) = (options.stdout, options.stderr);
    // Without replay and with everything wanted there is nothing to do in between.
    let everything = stdout && stderr;
    match live {
        Some(live) if earlier.is_empty() && everything => return live,
        _ => {}
    }
    let (sender, output) = mpsc::channel(16);
    tokio::spawn(async move {
        for entry in earlier {
            if sender.send(OutputChunk { stream: entry.stream, bytes: entry.line }).await.is_err() {
                return;
            }
        }
        let Some(mut live) = live else { return };
        while let Some(chunk) = live.recv().await {
            let wanted = match chunk.stream {
                dockerd_types::stream::StdStream::Stdout => stdout,
                dockerd_types::stream::StdStream::Stderr => stderr,
            };
            if wanted && sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    output
}

/// Where input goes and what its end means.
pub(crate) struct InputOrder {
    pub(crate) driver: Arc<dyn RuntimeDriver>,
    pub(crate) key: ProcessKey,
    /// The end of this client's input is the end of the process's.
    pub(crate) once: bool,
    /// Keys that detach, on a terminal.
    pub(crate) keys: DetachKeys,
    /// Told when they were pressed.
    pub(crate) detached: Box<dyn FnOnce() + Send + Sync>,
}

/// Takes input to the process. At its end standard input is closed, or the session is over.
pub(crate) fn input_task(streams: Arc<ProcessStreams>, order: InputOrder) -> Input {
    let (bytes, input) = mpsc::channel::<Bytes>(16);
    let (sender, over) = oneshot::channel();
    tokio::spawn(async move {
        let end = take_input(&streams, input, &order).await;
        if end == Some(SessionEnd::Detached) {
            (order.detached)();
        }
        if let Some(end) = end {
            // A session that has ended by itself does not listen any more.
            let _ = sender.send(end);
        }
    });
    Input { bytes, over }
}

/// Until input ends, or the process takes none any more; why the session is over, where it is.
async fn take_input(
    streams: &ProcessStreams,
    mut input: mpsc::Receiver<Bytes>,
    order: &InputOrder,
) -> Option<SessionEnd> {
    let mut filter = streams.is_tty().then(|| DetachFilter::new(order.keys.clone()));
    let mut progress = streams.progress();
    while let Some(bytes) = input.recv().await {
        let (bytes, detached) = match &mut filter {
            None => (bytes, false),
            Some(filter) => {
                let filtered = filter.feed(&bytes);
                (filtered.input.into(), filtered.detached)
            }
        };
        if !bytes.is_empty() && streams.write_stdin(&bytes).await.is_err() {
            return None;
        }
        if detached {
            return Some(SessionEnd::Detached);
        }
    }
    if !order.once || streams.is_tty() {
        return Some(SessionEnd::InputEnded);
    }
    // Input may end before the process is there to have its end told.
    if progress.wait_for(|progress| progress.connected || progress.drained).await.is_ok() {
        streams.close_stdin();
        if let Err(error) = order.driver.close_stdin(&order.key) {
            tracing::debug!(key = ?order.key, %error, "standard input could not be closed");
        }
    }
    None
}
