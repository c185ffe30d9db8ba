//! One layer's way from a registry: downloaded into a file of the ingest directory, and staged while it still arrives. Pulls
//! that want the same blob at the same time share one transfer; it ends when the last of them lets go of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use dockerd_registry::{Descriptor, DownloadEvent, DownloadRequest, Repository};
use dockerd_types::Digest;
use tokio::sync::{Semaphore, mpsc, watch};

use super::PullError;
use crate::decompress::{Compression, MAGIC, read_up_to};
use crate::error::ImageError;
use crate::intake::disk::{Engine, Keep};
use crate::intake::spool::{Spool, Writer};
use crate::intake::stage::{Job, StagedLayer};
use crate::store::ImageStore;

/// Pieces that may wait between the network and the disk; each has some ten kilobytes, and on a fast network a few hundred.
const PIECES: usize = 8;
/// Blobs of so many bytes are written past the page cache: smaller ones are not worth the setting up.
const LARGE: u64 = 4 << 20;
/// Blobs of so many are handed on in memory.
const SMALL: u64 = 128 << 10;

/// How far a transfer is.
#[derive(Debug, Clone)]
pub(super) enum TransferState {
    /// For its turn.
    Waiting,
    /// Bytes of the blob that are here.
    Downloading(u64),
    /// The registry failed; it is asked again after so many seconds.
    Retrying(u64),
    /// All is here and has the right digest.
    Complete,
    /// It came to nothing.
    Failed(Arc<PullError>),
}

/// Transfers under way, by digest, each with its number.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    running: Mutex<Running>,
    /// Layers being decompressed.
    staging: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    all: HashMap<Digest, (u64, Weak<Transfer>)>,
}

/// One transfer; dropped by everybody it stops and takes its file away.
#[derive(Debug)]
pub(super) struct Transfer {
    number: u64,
    store: ImageStore,
    blob: Descriptor,
    state: watch::Receiver<TransferState>,
    job: Arc<Mutex<Option<Arc<Job>>>>,
    /// The sha256 digest of what was received, whatever algorithm the blob is named by.
    received: Arc<OnceLock<Digest>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(job) = self.job() {
            job.cancel();
        }
        let mut running = self.store.transfers().lock();
        // Unless a newer one has the file's name by now.
        if running.all.get(&self.blob.digest).is_some_and(|(number, _)| *number == self.number) {
            running.all.remove(&self.blob.digest);
            self.store.ingests().remove(&self.blob.digest);
        }
    }
}

impl Transfers {
    /// The transfer of `blob`, started if nobody has it under way. `slots` bounds how many download at once.
    pub(super) fn join(
        store: &ImageStore,
        repository: &Repository,
        blob: &Descriptor,
        slots: &Arc<Semaphore>,
    ) -> Arc<Transfer> {
        let mut old = None;
        let mut running = store.transfers().lock();
        if let Some((_, known)) = running.all.get(&blob.digest) {
            match known.upgrade() {
                Some(transfer) if !matches!(*transfer.state.borrow(), TransferState::Failed(_)) => return transfer,
                // It has failed or is being given up, and may still write to its file: that is not to be this one's.
                given_up => {
                    old = given_up;
                    store.ingests().remove(&blob.digest);
                }
            }
        }
        running.next += 1;
        let number = running.next;
        let transfer = Transfer::start(number, store, repository, blob, slots.clone());
        running.all.insert(blob.digest.clone(), (number, Arc::downgrade(&transfer)));
        drop(running);
        // Its end takes the lock.
        drop(old);
        transfer
    }

    /// Whether the processors have enough to do with what has arrived: more that comes early would only fill memory.
    fn are_busy(&self) -> bool {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        self.staging.load(Ordering::Relaxed) >= processors
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer {
    fn start(
        number: u64,
        store: &ImageStore,
        repository: &Repository,
        blob: &Descriptor,
        slots: Arc<Semaphore>,
    ) -> Arc<Self> {
        let slot = slots.clone().try_acquire_owned().ok();
        let begin = if slot.is_some() { TransferState::Downloading(0) } else { TransferState::Waiting };
        let (sender, state) = watch::channel(begin);
        let (job, received) = (Arc::new(Mutex::new(None)), Arc::new(OnceLock::new()));
        let noted = received.clone();
        let (work, at) = ((store.clone(), repository.clone(), blob.clone()), job.clone());
        let task = tokio::spawn(async move {
            let (store, repository, blob) = work;
            let _slot = match slot {
                Some(slot) => Ok(slot),
                None => slots.acquire_owned().await,
            };
            let end = match download(&store, &repository, &blob, &sender, &at).await {
                Ok(digest) => {
                    let _ = noted.set(digest);
                    TransferState::Complete
                }
                Err(error) => TransferState::Failed(Arc::new(error)),
            };
            sender.send_replace(end);
        });
        let task = task.abort_handle();
        Arc::new(Self { number, store: store.clone(), blob: blob.clone(), state, job, received, task })
    }

    /// How far it is, to be followed.
    pub(super) fn state(&self) -> watch::Receiver<TransferState> {
        self.state.clone()
    }

    fn job(&self) -> Option<Arc<Job>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The staged layer, once it is [`Complete`](TransferState::Complete); `None` when another pull took it. Calls `report`
    /// with the bytes of the blob that are done. Blocking.
    pub(super) fn take(&self, mut report: impl FnMut(u64)) -> Result<Option<StagedLayer>, ImageError> {
        let Some(job) = self.job() else { return Ok(None) };
        job.take(|| report(job.consumed()))
    }

    /// The sha256 digest of the received file, once it is [`Complete`](TransferState::Complete).
    pub(super) fn digest(&self) -> &Digest {
        self.received.get().unwrap_or(&self.blob.digest)
    }

    /// The received file.
    pub(super) fn received(&self) -> Option<Spool> {
        self.job().map(|job| job.source().clone())
    }
}

/// Gets the blob and has it staged, from the start again where the registry cannot go on in the middle; its sha256 digest.
async fn download(
    store: &ImageStore,
    repository: &Repository,
    blob: &Descriptor,
    state: &watch::Sender<TransferState>,
    job: &Mutex<Option<Arc<Job>>>,
) -> Result<Digest, PullError> {
    loop {
        let path = store.ingests().path(&blob.digest);
        let (writer, spool) = Spool::keep(&path)?;
        let running = Job::new(spool.clone());
        *job.lock().unwrap_or_else(PoisonError::into_inner) = Some(running.clone());
        // What follows is cancelled with this future: the job then reads that its source has broken off.
        let _guard = AbortOnDrop(spool.clone());
        stage(store, running);
        let (size, writer) = (blob.size, writer.verifying(&blob.digest));
        let (mut writer, offset) = blocking(move || {
            let mut writer = writer;
            let offset = writer.catch_up(size).map_err(ImageError::io("receive layer"))?;
            Ok((writer, offset))
        })
        .await?;
        state.send_replace(TransferState::Downloading(offset));
        if offset < size {
            match receive(store, repository, blob, offset, writer, state).await? {
                Some(done) => writer = done,
                None => {
                    spool.abort("the registry began anew");
                    store.ingests().remove(&blob.digest);
                    continue;
                }
            }
        }
        let finished = blocking(move || writer.finish_verified().map_err(ImageError::io("receive layer")));
        let (digest, found) = finished.await?;
        if found != blob.digest {
            store.ingests().remove(&blob.digest);
            if offset > 0 {
                tracing::info!(digest = %blob.digest, "what was here of a layer is not of it; it is got anew");
                continue;
            }
            return Err(PullError::Verification { expected: blob.digest.clone(), found });
        }
        return Ok(digest);
    }
}

/// Writes what the registry sends from `offset` on; `None` when it would only begin anew.
async fn receive(
    store: &ImageStore,
    repository: &Repository,
    blob: &Descriptor,
    offset: u64,
    writer: Writer,
    state: &watch::Sender<TransferState>,
) -> Result<Option<Writer>, PullError> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
    let (size, work) = (blob.size, store.clone());
    let mut writing = tokio::task::spawn_blocking(move || {
        let (mut writer, mut first) = (writer, true);
        while let Some(piece) = pieces.blocking_recv() {
            if std::mem::take(&mut first) {
                writer = prepared(writer, offset, size, &piece);
            }
            writer.set_patient(work.transfers().are_busy());
            writer.write(&piece).map_err(ImageError::io("receive layer"))?;
        }
        Ok::<_, ImageError>(writer)
    });
    let request = DownloadRequest { digest: blob.digest.clone(), size: blob.size, offset, urls: blob.urls.clone() };
    let (mut download, mut current) = (repository.download(request), offset);
    while let Some(event) = download.next().await {
        match event? {
            DownloadEvent::Data(piece) => {
                current += piece.len() as u64;
                if sender.send(piece).await.is_err() {
                    // The disk failed; the writer says how.
                    break;
                }
                state.send_replace(TransferState::Downloading(current));
            }
            DownloadEvent::Retrying { seconds } => _ = state.send_replace(TransferState::Retrying(seconds)),
            DownloadEvent::Restarted => return Ok(None),
        }
    }
    drop(sender);
    let writer = (&mut writing).await.map_err(PullError::panicked)??;
    Ok(Some(writer))
}

/// The writer as a blob of `size` bytes wants it that goes on at `offset` with `piece`: in its compressed form nobody reads it
/// again but who decompresses it right now. A plain one is a layer's tar, which containers read.
fn prepared(writer: Writer, offset: u64, size: u64, piece: &[u8]) -> Writer {
    let is_plain = offset == 0 && Compression::of(piece) == Compression::None;
    let keep = match size {
        LARGE.. if offset == 0 => Keep::OnDisk(size),
        _ => Keep::InCache,
    };
    if is_plain || size < SMALL { writer } else { writer.handing(keep, Engine::best(keep)) }
}

/// Decompresses, hashes and unpacks what arrives, on a thread of its own.
fn stage(store: &ImageStore, job: Arc<Job>) {
    let store = store.clone();
    let counted = Staging::begin(&store.transfers().staging);
    tokio::task::spawn_blocking(move || {
        let _counted = counted;
        let mut head = [0; MAGIC];
        let compression = job.source().reader().and_then(|mut reader| {
            let length = read_up_to(&mut reader, &mut head).map_err(ImageError::io("read layer"))?;
            Ok(Compression::of(&head[..length]))
        });
        match compression {
            Ok(compression) => job.run(compression, &**store.snapshots(), store.content().temporary()),
            Err(error) => job.fail(error),
        }
    });
}

/// Counts a layer that is being staged.
struct Staging(Arc<AtomicUsize>);

impl Staging {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Breaks a spool off for its readers, unless it is whole by then.
struct AbortOnDrop(Spool);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort("canceled");
    }
}

/// Runs `work` off the async workers.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, PullError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(PullError::panicked)??)
}
