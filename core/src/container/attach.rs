//! `docker attach`: a client's ends of a container's streams, before, while and until it runs.

use std::sync::Arc;

use bytes::Bytes;
use dockerd_runtime::{ProcessKey, RuntimeDriver};
use dockerd_types::container::Status;
use tokio::sync::mpsc;

use super::error::ContainerError;
use super::{Container, ContainerService};
use crate::error::EngineError;
use crate::streams::{ContainerStreams, LogEntry, LogQuery, LogReader, OutputChunk, ProcessStreams};

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Default)]
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
}

/// A client's side of a process.
#[derive(Debug)]
pub struct AttachSession {
    /// Whether output is one raw stream.
    pub tty: bool,
    /// Output; ends when the process's output has ended.
    pub output: mpsc::Receiver<OutputChunk>,
    /// Input; dropping it is the end of input. `None` where the client may not write.
    pub input: Option<mpsc::Sender<Bytes>>,
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
        match snapshot.state.status {
            Status::Paused => return Err(ContainerError::ExecPaused(container.id().clone()).into()),
            Status::Restarting => return Err(ContainerError::Restarting(container.id().clone()).into()),
            _ => {}
        }
        let streams = container.process_streams().ok_or(EngineError::NotBuilt("attaching"))?.clone();
        // The subscription comes before the log is read, so that nothing falls between the two.
        let live = options.stream.then(|| streams.subscribe());
        let earlier = if options.logs { earlier_output(&streams, options).await? } else { Vec::new() };
        container.publish_event(&*self.core.events, "attach", &[]);
        let input = if options.stdin && options.stream && snapshot.spec.config.open_stdin {
            let driver = container.driver(&self.core)?;
            let close = snapshot.spec.config.stdin_once;
            Some(input_task(streams.clone(), driver, container.key(), close))
        } else {
            None
        };
        Ok(AttachSession { tty: streams.is_tty(), output: output_task(earlier, live, options), input })
    }
}

async fn earlier_output(streams: &ProcessStreams, options: AttachOptions) -> Result<Vec<LogEntry>, EngineError> {
    let Some(path) = streams.log_path() else { return Ok(Vec::new()) };
    let query = LogQuery { stdout: options.stdout, stderr: options.stderr, ..LogQuery::default() };
    let read = tokio::task::spawn_blocking(move || LogReader::new(&path, query).existing());
    read.await.map_err(std::io::Error::other).flatten().map_err(|error| EngineError::io("read container log", error))
}

fn output_task(
    earlier: Vec<LogEntry>,
    live: Option<mpsc::Receiver<OutputChunk>>,
    options: AttachOptions,
) -> mpsc::Receiver<OutputChunk> {
    // Without replay and with everything wanted there is nothing to do in between.
    let everything = options.stdout && options.stderr;
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
                dockerd_types::stream::StdStream::Stdout => options.stdout,
                dockerd_types::stream::StdStream::Stderr => options.stderr,
            };
            if wanted && sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    output
}

/// Takes input to the process; at its end closes standard input where `close` says so.
pub(crate) fn input_task(
    streams: Arc<ProcessStreams>,
    driver: Arc<dyn RuntimeDriver>,
    key: ProcessKey,
    close: bool,
) -> mpsc::Sender<Bytes> {
    let (sender, mut input) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let mut progress = streams.progress();
        while let Some(bytes) = input.recv().await {
            if streams.write_stdin(&bytes).await.is_err() {
                return;
            }
        }
        // Input may end before the process is there to have its end told.
        if close
            && progress.wait_for(|progress| progress.connected || progress.drained).await.is_ok()
            && !streams.is_tty()
        {
            streams.close_stdin();
            if let Err(error) = driver.close_stdin(&key) {
                tracing::debug!(?key, %error, "standard input could not be closed");
            }
        }
    });
    sender
}
