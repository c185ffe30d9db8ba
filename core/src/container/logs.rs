//! `docker logs`.

use std::sync::Arc;

use dockerd_types::{ErrorKind, Kinded};
use tokio::sync::mpsc;

use super::ContainerService;
use crate::error::EngineError;
use crate::streams::{LogEntry, LogQuery, LogReader, ProcessStreams};

/// The container's log cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("configured logging driver does not support reading")]
pub struct NotReadable;

impl Kinded for NotReadable {
    fn kind(&self) -> ErrorKind {
        ErrorKind::NotImplemented
    }
}

/// A log being read.
#[derive(Debug)]
pub struct LogSession {
    /// Whether output is one raw stream.
    pub tty: bool,
    /// Lines; ends with the log, or with the container where it is followed.
    pub entries: mpsc::Receiver<std::io::Result<LogEntry>>,
}

impl ContainerService {
    /// Reads a container's log.
    pub async fn logs(&self, name: &str, query: LogQuery) -> Result<LogSession, EngineError> {
        let container = self.core.containers.find(name)?;
        let streams = container.process_streams().ok_or(EngineError::NotBuilt("reading logs"))?.clone();
        let Some(path) = streams.log_path() else { return Err(EngineError::module(NotReadable)) };
        let running = container.snapshot().state.is_running();
        let (sender, entries) = mpsc::channel(64);
        let follow = query.follow && running;
        let reader = LogReader::new(&path, query);
        let tty = streams.is_tty();
        tokio::spawn(async move {
            if let Err(error) = read(reader, streams, follow, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(LogSession { tty, entries })
    }
}

async fn read(
    reader: LogReader,
    streams: Arc<ProcessStreams>,
    follow: bool,
    out: &mpsc::Sender<std::io::Result<LogEntry>>,
) -> std::io::Result<()> {
    let mut progress = streams.progress();
    let mut first = true;
    let mut reader = reader;
    loop {
        // Seen before reading: what is written meanwhile is found by the next turn.
        let ended = !follow || progress.borrow_and_update().drained;
        let read = tokio::task::spawn_blocking(move || {
            let entries = if first { reader.existing() } else { reader.more() };
            (reader, entries)
        });
        let (back, entries) = read.await.map_err(std::io::Error::other)?;
        reader = back;
        first = false;
        for entry in entries? {
            if out.send(Ok(entry)).await.is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return Ok(()) },
            () = out.closed() => return Ok(()),
        }
    }
}
