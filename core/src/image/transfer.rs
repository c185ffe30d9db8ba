//! `docker load`, `docker save`, `docker import`: byte streams on one side, the blocking store on the other.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use dockerd_image::{Image, ImportOptions, LoadProgress, Loaded, Platform};
use tokio::sync::mpsc;

use super::{ImageService, blocking};
use crate::error::EngineError;

/// A body under way; an error ends it.
pub type ByteReceiver = mpsc::Receiver<io::Result<Bytes>>;

/// Pieces that may wait between the network and the disk.
const PIECES: usize = 16;
/// Size of the pieces written.
const PIECE: usize = 128 * 1024;

impl ImageService {
    /// Loads all images of an archive; `progress` may be called often.
    pub async fn load(
        &self,
        body: ByteReceiver,
        platform: Option<Platform>,
        mut progress: impl FnMut(LoadProgress) + Send + 'static,
    ) -> Result<Vec<Loaded>, EngineError> {
        let store = self.store.clone();
        let load = move || store.load(Reader::new(body), platform.as_ref(), &mut |step| progress(step));
        let loaded = blocking(load).await??;
        for item in &loaded {
            let id = item.image.id.as_str();
            self.event("load", id, item.references.first().map_or_else(|| id.to_owned(), |r| r.familiar()).as_str());
        }
        Ok(loaded)
    }

    /// Writes images as one tar. The names are checked before the first byte.
    pub async fn save(&self, names: &[String], platform: Option<&Platform>) -> Result<ByteReceiver, EngineError> {
        let selection = self.store.select(names, platform)?;
        for image in selection.images() {
            self.store.whole(image).await?;
            self.event("save", image.id.as_str(), image.id.as_str());
        }
        let (sender, receiver) = mpsc::channel(PIECES);
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let mut writer = io::BufWriter::with_capacity(PIECE, Writer { sender: sender.clone() });
            let saved = store.save(&selection, &mut writer).map_err(io::Error::other).and_then(|()| writer.flush());
            if let Err(error) = saved {
                // The client may have gone; then nobody reads this.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(receiver)
    }

    /// Makes an image of one layer out of a tar.
    pub async fn import(&self, body: ByteReceiver, options: ImportOptions) -> Result<Arc<Image>, EngineError> {
        self.import_read(Reader::new(body), options).await
    }

    /// The same from a blocking reader.
    pub(super) async fn import_read(
        &self,
        body: impl Read + Send + 'static,
        options: ImportOptions,
    ) -> Result<Arc<Image>, EngineError> {
        let store = self.store.clone();
        let image = blocking(move || store.import(body, &options)).await??;
        let name = image.references.first().map_or_else(|| image.id.to_string(), |r| r.familiar());
        self.event("import", image.id.as_str(), &name);
        Ok(image)
    }
}

/// A body as a blocking reader.
#[derive(Debug)]
pub(crate) struct Reader {
    body: ByteReceiver,
    piece: Bytes,
}

impl Reader {
    pub(crate) fn new(body: ByteReceiver) -> Self {
        Self { body, piece: Bytes::new() }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.body.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// A blocking writer into a body; fails once nobody reads it any more.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let sent = self.sender.blocking_send(Ok(Bytes::copy_from_slice(buffer)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
