//! The compressed form of a lazily pulled layer while it is fetched: a sparse file that fills from two sides. Whoever reads a
//! container's file asks for the bytes it lies in, and goes first; the rest is fetched from the beginning on whenever nobody
//! waits. Every byte is fetched once.
//!
//! ```text
//! need(range) --gaps--> range request --aligned blocks--> file --mark--> present ---> waiters
//! fill()      --first gap--> range request, given up as soon as somebody needs something
//! ```
//! Only whole blocks are written, so what a later daemon finds as data in the file (lseek(2), `SEEK_DATA`) was fetched. It is
//! trusted no further: pieces are checked by their digests when they are read, the whole at the end.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dockerd_registry::{RegistryError, Repository};
use dockerd_types::Digest;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use rustix::fs::SeekFrom;
use tokio::sync::watch;

use super::ranges::Ranges;

/// What is written at a time starts and ends at multiples of it: no file system has larger blocks by default.
const BLOCK: u64 = 4096;
/// Least that is fetched for somebody who waits: what lies beside it is wanted soon, and costs less than a further request.
const LEAST: u64 = 64 << 10;
/// Most that is fetched ahead for somebody who reads on and on: far registries answer late, whatever they are asked for.
const LARGEST: u64 = 4 << 20;
/// Most that is asked for in one request while nobody waits.
const MOST: u64 = 32 << 20;
/// Bytes that are written at a time.
const PIECE: usize = 256 << 10;
/// How often a request that failed is made again for somebody who waits, and how long the first pause is; each is twice the one
/// before.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long somebody who waits lets a daemon that just came up find out whom to ask.
const FINDING_OUT: Duration = Duration::from_secs(60);

/// Why bytes cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FetchError {
    /// The registry's answer.
    #[error(transparent)]
    Registry(#[from] Arc<RegistryError>),
    /// The disk's.
    #[error("{0}")]
    Disk(Arc<io::Error>),
    /// The credentials of the pull ended with the daemon.
    #[error("nobody has told how to reach the registry; pull the image again")]
    NoRegistry,
    /// It is not wanted any more.
    #[error("the image was removed")]
    Gone,
    /// What came is not what was announced.
    #[error("{0}")]
    Invalid(String),
}

impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> Self {
        Self::Disk(Arc::new(error))
    }
}

impl From<RegistryError> for FetchError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Arc::new(error))
    }
}

impl FetchError {
    /// Whether it may be otherwise soon.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Registry(error) if error.may_retry())
    }
}

/// Bytes as they come.
pub(super) type Pieces = BoxStream<'static, Result<Bytes, RegistryError>>;

/// Where bytes come from.
pub(super) trait Source: Send + Sync + std::fmt::Debug {
    /// The bytes `range` of the blob `digest`, which has `size` bytes; not verified.
    fn range<'a>(
        &'a self,
        digest: &'a Digest,
        size: u64,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Pieces, RegistryError>>;
}

impl Source for Repository {
    fn range<'a>(
        &'a self,
        digest: &'a Digest,
        size: u64,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Pieces, RegistryError>> {
        Box::pin(async move {
            let part = self.range(digest, size, range).await?;
            let pieces = stream::unfold(part, |mut part| async { Some((part.next().await?, part)) });
            Ok(pieces.boxed())
        })
    }
}

/// A blob that is being fetched.
#[derive(Debug)]
pub(super) struct SparseBlob {
    digest: Digest,
    size: u64,
    file: Arc<File>,
    state: Mutex<State>,
    /// Raised whenever the state changes.
    changed: watch::Sender<u64>,
    opened: Instant,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that are here.
    present: Ranges,
    /// Bytes somebody fetches now.
    under_way: Ranges,
    /// How many wait for bytes.
    waiting: usize,
    source: Option<Arc<dyn Source>>,
    gone: bool,
    /// Where the last one who waited had got to, and how far beyond that was fetched.
    reached: u64,
    ahead: u64,
}

impl State {
    /// What to fetch for somebody who waits for `gap`: with what lies behind it, more and more of it as long as it is asked for in
    /// its order. `None` while others fetch what is waited for.
    fn ahead(&mut self, gap: Range<u64>, size: u64) -> Option<Range<u64>> {
        if self.under_way.gaps(gap.clone()).is_empty() {
            return None;
        }
        let follows = gap.start >= self.reached && gap.start - self.reached <= LEAST;
        self.ahead = if follows && self.reached > 0 { (self.ahead * 2).clamp(LEAST, LARGEST) } else { LEAST };
        let wanted = aligned(gap.start..gap.end.max(gap.start.saturating_add(self.ahead).min(size)), size);
        self.reached = wanted.end;
        Some(wanted)
    }
}

/// Attempts of one who wants bytes.
struct Attempts {
    most: u32,
    failed: u32,
    pause: Duration,
}

impl Attempts {
    fn new(most: u32) -> Self {
        Self { most: most.max(1), failed: 0, pause: PAUSE }
    }

    /// Waits before the next attempt, or gives the error back: it will not pass, or there were enough. With `progress`, some
    /// bytes came before it.
    async fn after(&mut self, error: FetchError, progress: bool, blob: &Digest) -> Result<(), FetchError> {
        self.failed = if progress { 1 } else { self.failed + 1 };
        if self.failed >= self.most || !error.may_pass() {
            return Err(error);
        }
        tracing::info!(%blob, %error, "a part of a layer is asked for again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Bytes somebody fetches; released when dropped.
struct Claim<'a> {
    blob: &'a SparseBlob,
    range: Range<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.blob.change(|state| state.under_way.remove(self.range.clone()));
    }
}

/// Somebody who waits; until it is dropped nothing is fetched that nobody waits for.
struct Waiting<'a>(&'a SparseBlob);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.waiting -= 1);
    }
}

impl SparseBlob {
    /// The blob `digest` of `size` bytes in the file `path`, made if it is not there.
    pub(super) fn open(path: &Path, digest: Digest, size: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() != size {
            // Nothing of a file of another length can be trusted.
            file.set_len(0)?;
            file.set_len(size)?;
        }
        let present = data_of(&file, size)?;
        let state = Mutex::new(State { present, ..State::default() });
        Ok(Self { digest, size, file: Arc::new(file), state, changed: watch::Sender::new(0), opened: Instant::now() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let out = change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
        out
    }

    /// Whom to ask from now on.
    pub(super) fn set_source(&self, source: Arc<dyn Source>) {
        self.change(|state| state.source = Some(source));
    }

    /// Nobody wants it any more.
    pub(super) fn give_up(&self) {
        self.change(|state| state.gone = true);
    }

    /// Bytes that are here.
    pub(super) fn fetched(&self) -> u64 {
        self.lock().present.bytes()
    }

    /// Forgets bytes that are not what they should be.
    pub(super) fn forget(&self, range: Range<u64>) {
        self.change(|state| state.present.remove(aligned(range, self.size)));
    }

    /// Reads bytes that are here. Blocking.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut out = vec![0; length];
        self.file.read_exact_at(&mut out, range.start)?;
        Ok(out)
    }

    /// Takes in bytes that came otherwise. Blocking.
    pub(super) fn put(&self, start: u64, bytes: &[u8]) -> io::Result<()> {
        let whole = aligned_within(start..start + bytes.len() as u64, self.size);
        if whole.is_empty() {
            return Ok(());
        }
        let from = usize::try_from(whole.start - start).map_err(io::Error::other)?;
        let length = usize::try_from(whole.end - whole.start).map_err(io::Error::other)?;
        self.file.write_all_at(&bytes[from..from + length], whole.start)?;
        self.change(|state| state.present.add(whole));
        Ok(())
    }

    /// Waits until the bytes `range` are here, fetching what is not.
    pub(super) async fn need(&self, range: Range<u64>) -> Result<(), FetchError> {
        if self.lock().present.covers(range.clone()) {
            return Ok(());
        }
        self.change(|state| state.waiting += 1);
        let _waiting = Waiting(self);
        let mut changed = self.changed.subscribe();
        let mut attempts = Attempts::new(ATTEMPTS);
        loop {
            changed.borrow_and_update();
            let claim = {
                let mut state = self.lock();
                if state.gone {
                    return Err(FetchError::Gone);
                }
                let Some(gap) = state.present.gaps(range.clone()).into_iter().next() else { return Ok(()) };
                let wanted = state.ahead(gap, self.size);
                let free = wanted.and_then(|wanted| state.present.first_gap_in(&state.under_way, wanted));
                free.map(|range| self.claim(&mut state, range))
            };
            let Some(claim) = claim else {
                // Somebody else brings it.
                changed.changed().await.map_err(|_| FetchError::Gone)?;
                continue;
            };
            match self.fetch(claim, false).await {
                Ok(()) => attempts = Attempts::new(ATTEMPTS),
                Err(error) => attempts.after(error, false, &self.digest).await?,
            }
        }
    }

    /// Fetches all that is missing, while nobody waits for anything else. Ends when all is here, or with the error that does not
    /// pass.
    pub(super) async fn fill(&self, most: u32) -> Result<(), FetchError> {
        let mut changed = self.changed.subscribe();
        let mut attempts = Attempts::new(most);
        loop {
            changed.borrow_and_update();
            let claim = {
                let mut state = self.lock();
                if state.gone {
                    return Err(FetchError::Gone);
                }
                if state.present.covers(0..self.size) {
                    return Ok(());
                }
                let free = match state.waiting {
                    0 => state.present.first_gap_in(&state.under_way, 0..self.size),
                    _ => None,
                };
                free.map(|free| {
                    let range = aligned(free.start..free.end.min(free.start + MOST), self.size);
                    self.claim(&mut state, range)
                })
            };
            let Some(claim) = claim else {
                changed.changed().await.map_err(|_| FetchError::Gone)?;
                continue;
            };
            let before = self.fetched();
            match self.fetch(claim, true).await {
                Ok(()) => attempts = Attempts::new(most),
                Err(error) => attempts.after(error, self.fetched() > before, &self.digest).await?,
            }
        }
    }

    fn claim(&self, state: &mut State, range: Range<u64>) -> Claim<'_> {
        state.under_way.add(range.clone());
        Claim { blob: self, range }
    }

    /// Fetches what `claim` is about, which begins and ends at blocks, and marks what has come. With `yields` the rest is left
    /// when somebody waits for anything.
    async fn fetch(&self, claim: Claim<'_>, yields: bool) -> Result<(), FetchError> {
        let range = claim.range.clone();
        let source = self.source().await?;
        let wanted_elsewhere = async {
            if !yields {
                return std::future::pending().await;
            }
            // Its sender lives as long as this.
            let _ = self.changed.subscribe().wait_for(|_| self.lock().waiting > 0).await;
        };
        let mut wanted_elsewhere = std::pin::pin!(wanted_elsewhere);
        let asked = tokio::select! {
            biased;
            () = &mut wanted_elsewhere => return Ok(()),
            part = source.range(&self.digest, self.size, range.clone()) => part,
        };
        let (mut part, mut at, mut gathered) = (asked?, range.start, BytesMut::new());
        loop {
            let (piece, left) = tokio::select! {
                biased;
                () = &mut wanted_elsewhere => (Ok(None), true),
                piece = part.next() => (piece.transpose(), false),
            };
            let end = matches!(piece, Ok(None) | Err(_));
            if let Ok(Some(piece)) = &piece {
                gathered.extend_from_slice(piece);
            }
            let last = at + gathered.len() as u64 == range.end;
            let whole = if last { gathered.len() } else { gathered.len() / BLOCK as usize * BLOCK as usize };
            if whole > 0 && (whole >= PIECE || last || end) {
                let bytes = gathered.split_to(whole).freeze();
                let (file, to) = (self.file.clone(), at);
                let written = tokio::task::spawn_blocking(move || file.write_all_at(&bytes, to));
                written.await.map_err(io::Error::other)??;
                self.change(|state| state.present.add(at..at + whole as u64));
                at += whole as u64;
            }
            match piece {
                Ok(Some(_)) => {}
                Ok(None) if left || at == range.end => return Ok(()),
                Ok(None) => return Err(RegistryError::Transfer(dockerd_registry::TransportError::ClosedEarly).into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whom to ask; waits a while for a daemon that has just begun.
    async fn source(&self) -> Result<Arc<dyn Source>, FetchError> {
        let known = async {
            let mut changed = self.changed.subscribe();
            loop {
                changed.borrow_and_update();
                if let Some(source) = self.lock().source.clone() {
                    return Ok(source);
                }
                changed.changed().await.map_err(|_| FetchError::Gone)?;
            }
        };
        tokio::time::timeout(FINDING_OUT.saturating_sub(self.opened.elapsed()), known)
            .await
            .unwrap_or(Err(FetchError::NoRegistry))
    }
}

/// The blocks that `range` touches.
fn aligned(range: Range<u64>, size: u64) -> Range<u64> {
    range.start / BLOCK * BLOCK..range.end.checked_next_multiple_of(BLOCK).map_or(size, |end| end.min(size))
}

/// The blocks that are all in `range`.
fn aligned_within(range: Range<u64>, size: u64) -> Range<u64> {
    let end = if range.end == size { size } else { range.end / BLOCK * BLOCK };
    range.start.next_multiple_of(BLOCK)..end
}

/// The parts of the file that are no holes.
fn data_of(file: &File, size: u64) -> io::Result<Ranges> {
    let (mut present, mut at) = (Ranges::default(), 0);
    while at < size {
        let start = match rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file.as_fd(), SeekFrom::Hole(start))?;
        present.add(aligned_within(start..end.min(size), size));
        at = end;
    }
    Ok(present)
}

#[cfg(test)]
mod tests;
