//! `docker import URL`: the file is got from a web server and goes piece by piece into the store.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use dockerd_image::{Image, ImportOptions};
use dockerd_registry::{Address, FetchError, Fetched};
use tokio::sync::mpsc;

use super::ImageService;
use super::transfer::Reader;
use crate::error::EngineError;

/// Pieces that may wait between the network and the disk.
const PIECES: usize = 64;

impl From<FetchError> for EngineError {
    fn from(error: FetchError) -> Self {
        Self::module(error)
    }
}

/// What an import from a URL tells.
#[derive(Debug, Clone)]
pub enum ImportNote {
    /// The server answers; the URL, without a password.
    Downloading(String),
    /// So many bytes are here, of all where that is known.
    Importing(u64, Option<u64>),
    /// It is done.
    Done(Arc<Image>),
}

/// Where an image is to be imported from.
#[derive(Debug, Clone)]
pub struct Source(Address);

impl Source {
    /// Parses a URL; `http` is meant where it names no scheme.
    pub fn parse(text: &str) -> Result<Self, EngineError> {
        Ok(Self(Address::parse(text)?))
    }
}

impl std::fmt::Display for Source {
    /// Without a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ImageService {
    /// Makes an image of one layer out of the tar at `source`. `options` are read once the server has answered: as under stock,
    /// what is wrong with the server is told first. Stops, and leaves nothing behind, when it is dropped.
    pub async fn import_from(
        &self,
        source: Source,
        options: impl FnOnce() -> Result<ImportOptions, EngineError> + Send,
        tell: impl Fn(ImportNote) + Send + Sync + 'static,
    ) -> Result<(), EngineError> {
        let (client, _) = self.registries.with(&self.core.live())?;
        let fetched = client.fetch(&source.0).await?;
        tell(ImportNote::Downloading(source.to_string()));
        let options = options()?;
        let (sender, body) = mpsc::channel(PIECES);
        let whole = Arc::new(AtomicBool::new(false));
        let body = Whole { body: Reader::new(body), whole: whole.clone() };
        let (received, image) = tokio::join!(receive(fetched, sender, &whole, &tell), self.import_read(body, options));
        // What the network says is why the archive is not whole.
        received?;
        tell(ImportNote::Done(image?));
        Ok(())
    }
}

/// Passes a file on and notes that it is whole; stops when nobody reads any more.
async fn receive(
    mut file: Fetched,
    sender: mpsc::Sender<io::Result<Bytes>>,
    whole: &AtomicBool,
    tell: &(impl Fn(ImportNote) + Sync),
) -> Result<(), EngineError> {
    let mut current = 0;
    while let Some(piece) = file.piece().await {
        let piece = piece?;
        current += piece.len() as u64;
        if sender.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
        tell(ImportNote::Importing(current, file.length));
    }
    whole.store(true, Ordering::Release);
    Ok(())
}

/// A body that was given up in the middle is not one that has ended.
struct Whole {
    body: Reader,
    whole: Arc<AtomicBool>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.body.read(buffer)? {
            0 if !buffer.is_empty() && !self.whole.load(Ordering::Acquire) => Err(io::ErrorKind::UnexpectedEof.into()),
            length => Ok(length),
        }
    }
}
