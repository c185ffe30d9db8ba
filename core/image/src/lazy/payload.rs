//! What the kernel reads of a layer whose blob is being fetched: the payload that the TOC's tree points into (`toc/`). A piece
//! is asked for, its chunks' compressed bytes are fetched, inflated and verified, and kept plain in a file without a name, so
//! that each chunk is inflated once.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dockerd_sys::fuse::ReadReply;
use tokio::sync::watch;

use super::blob::{FetchError, SparseBlob};
use crate::toc::{Codec, LazyLayer};

/// How long somebody who reads waits between rounds of attempts. Readers rather wait than get an error, which would leave pages
/// behind that nobody who waits for them can be killed on (`dockerd_sys::fuse`).
const PAUSE: Duration = Duration::from_secs(10);
/// Most bytes of the blob that one read may be answered from in one go; what lies further apart is none of one another's business.
const TOGETHER: u64 = 4 << 20;

/// A payload.
#[derive(Debug)]
pub(super) struct Payload {
    blob: Arc<SparseBlob>,
    layer: LazyLayer,
    plain: File,
    state: Mutex<State>,
    /// Raised whenever a chunk is no longer worked on.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    /// Which chunks are in the file of plain bytes, a bit for each.
    done: Vec<u64>,
    busy: HashSet<usize>,
}

impl State {
    fn is_done(&self, chunk: usize) -> bool {
        self.done[chunk / 64] & (1 << (chunk % 64)) != 0
    }
}

/// A chunk somebody works on; released when dropped.
struct Claim<'a> {
    payload: &'a Payload,
    chunk: usize,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.payload.lock().busy.remove(&self.chunk);
        self.payload.changed.send_modify(|count| *count += 1);
    }
}

impl Payload {
    /// Of `layer`, whose blob is `blob`. Plain bytes are kept in directory `directory`.
    pub(super) fn new(blob: Arc<SparseBlob>, layer: LazyLayer, directory: &Path) -> io::Result<Self> {
        let plain = tempfile::tempfile_in(directory)?;
        plain.set_len(layer.payload_size)?;
        let done = vec![0; layer.all_chunks().len().div_ceil(64)];
        let state = Mutex::new(State { done, busy: HashSet::new() });
        Ok(Self { blob, layer, plain, state, changed: watch::Sender::new(0) })
    }

    /// Bytes of it; whole pages.
    pub(super) fn size(&self) -> u64 {
        self.layer.payload_size
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a read, however long that takes.
    pub(super) async fn serve(self: Arc<Self>, offset: u64, reply: ReadReply) {
        let range = offset..offset + reply.length() as u64;
        loop {
            match self.bring(range.clone()).await {
                Ok(()) => break,
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, "a container waits for a part of its image");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(%error, "a part of an image cannot be had");
                    return reply.fail(rustix::io::Errno::IO.raw_os_error());
                }
            }
        }
        // Dropped unanswered it is an error too.
        let _ = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; reply.length()];
            match self.plain.read_exact_at(&mut bytes, offset) {
                Ok(()) => reply.bytes(&bytes),
                Err(error) => {
                    tracing::error!(%error, "a part of an image cannot be read");
                    reply.fail(rustix::io::Errno::IO.raw_os_error());
                }
            }
        })
        .await;
    }

    /// Has the chunks of `range` in the file of plain bytes.
    async fn bring(self: &Arc<Self>, range: Range<u64>) -> Result<(), FetchError> {
        let chunks = self.layer.all_chunks();
        let first = chunks.partition_point(|chunk| chunk.payload().end <= range.start);
        let end = chunks.partition_point(|chunk| chunk.payload().start < range.end);
        // Together first: each by itself would be a round trip.
        let missing = |at: &usize| !self.lock().is_done(*at) && chunks[*at].codec() != Codec::Zeros;
        let blobs = (first..end).filter(missing).map(|at| chunks[at].blob());
        let all = blobs.reduce(|all, blob| all.start.min(blob.start)..all.end.max(blob.end));
        if let Some(all) = all.filter(|all| all.end - all.start <= TOGETHER) {
            self.blob.need(all).await?;
        }
        for chunk in first..end {
            self.bring_chunk(chunk).await?;
        }
        Ok(())
    }

    async fn bring_chunk(self: &Arc<Self>, at: usize) -> Result<(), FetchError> {
        let chunk = self.layer.all_chunks()[at];
        if chunk.codec() == Codec::Zeros {
            return Ok(());
        }
        let mut changed = self.changed.subscribe();
        let _claim = loop {
            changed.borrow_and_update();
            {
                let mut state = self.lock();
                if state.is_done(at) {
                    return Ok(());
                }
                if state.busy.insert(at) {
                    break Claim { payload: self, chunk: at };
                }
            }
            changed.changed().await.map_err(|_| FetchError::Gone)?;
        };
        // What a killed daemon or a power cut left in the blob's file may be torn: then it is fetched again, once.
        let mut again = true;
        loop {
            self.blob.need(chunk.blob()).await?;
            let payload = self.clone();
            let inflated = tokio::task::spawn_blocking(move || {
                let plain = chunk.inflate(&payload.blob.read(chunk.blob())?);
                let Ok(plain) = plain else { return Ok(plain.map(drop)) };
                payload.plain.write_all_at(&plain, chunk.payload().start)?;
                Ok::<_, io::Error>(Ok(()))
            });
            match inflated.await.map_err(io::Error::other)?? {
                Ok(()) => break,
                Err(error) if again => {
                    tracing::warn!(%error, "a part of a layer is fetched again");
                    self.blob.forget(chunk.blob());
                    again = false;
                }
                Err(error) => return Err(FetchError::Invalid(error.to_string())),
            }
        }
        self.lock().done[at / 64] |= 1 << (at % 64);
        Ok(())
    }
}
