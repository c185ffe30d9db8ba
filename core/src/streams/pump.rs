//! The pump of one output stream: takes what comes, piece by piece, through the spool where there is a log, and lets it
//! go to the log and to those who are attached.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use dockerd_types::stream::StdStream;
use tokio::io::unix::AsyncFd;

use super::spool::Spool;
use super::{OutputChunk, ProcessStreams, SpoolState, lock};

/// Most bytes taken at once.
const PIECE: usize = 32 * 1024;

/// Runs until the output has ended.
pub(super) async fn run(streams: Arc<ProcessStreams>, fd: Arc<AsyncFd<OwnedFd>>, stream: StdStream) {
    let mut end = None;
    loop {
        let Ok(mut ready) = fd.readable().await else { break };
        let taken = ready.try_io(|fd| match streams.spool() {
            Some(spool) => staged_piece(&spool, fd.get_ref(), stream, &mut end),
            None => piece(fd.get_ref()),
        });
        match taken {
            Err(_would_block) => streams.rests(stream),
            // A terminal whose other side is closed answers EIO.
            Ok(Err(_)) => break,
            Ok(Ok(piece)) if piece.is_empty() => break,
            Ok(Ok(piece)) => streams.deliver(stream, Bytes::from(piece)).await,
        }
    }
    streams.pump_ended(stream);
}

/// Without a spool: out of the pipe into this process's memory.
fn piece(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    // Made only when there is something, so that an idle container costs no buffer.
    let mut piece = vec![0; PIECE];
    let length = rustix::io::read(fd, &mut piece[..])?;
    piece.truncate(length);
    Ok(piece)
}

fn staged_piece(spool: &Spool, fd: &OwnedFd, stream: StdStream, end: &mut Option<u64>) -> io::Result<Vec<u8>> {
    let at = end.map_or_else(|| spool.end(stream), Ok)?;
    let length = spool.stage(stream, fd.as_fd(), at, PIECE)?;
    *end = Some(at + length as u64);
    spool.read(stream, at, length)
}

impl ProcessStreams {
    /// The spool of this run, made when the first output comes; `None` where output is not logged or the supervisor
    /// could not be given its share.
    fn spool(&self) -> Option<Arc<Spool>> {
        let mut state = lock(&self.spool);
        if matches!(*state, SpoolState::Unused) {
            *state = self.make_spool();
        }
        match &*state {
            SpoolState::Open(spool) => Some(spool.clone()),
            SpoolState::Unused | SpoolState::Without => None,
        }
    }

    fn make_spool(&self) -> SpoolState {
        let (Some(log), Some(keeper)) = (&self.log, &self.keeper) else { return SpoolState::Without };
        let mut log = lock(log);
        let mark = log.first_mark();
        let made = Spool::create(self.tty, mark).and_then(|spool| {
            keeper.runtimes.keep(&keeper.key, &spool.descriptors())?;
            Ok(Arc::new(spool))
        });
        match made {
            Ok(spool) => {
                log.attach(spool.clone(), mark);
                SpoolState::Open(spool)
            }
            Err(error) => {
                tracing::warn!(key = ?keeper.key, %error, "output is logged without a spool");
                SpoolState::Without
            }
        }
    }

    /// Goes on with the spool of an earlier daemon: what it has not logged is logged now.
    pub(super) fn take_over(&self, descriptors: Vec<OwnedFd>) {
        *lock(&self.spool) = SpoolState::Unused;
        let Some(log) = self.log.as_ref().filter(|_| !descriptors.is_empty()) else { return };
        let mut log = lock(log);
        let resumed = Spool::take_over(descriptors).and_then(|(spool, mark)| {
            let spool = Arc::new(spool);
            log.resume(spool.clone(), mark)?;
            for stream in [StdStream::Stdout, StdStream::Stderr] {
                let mut end = spool.end(stream)?;
                if stream == StdStream::Stdout {
                    end += spool.staged(stream, end, PIECE).unwrap_or_default() as u64;
                }
                let mut at = mark.taken[super::spool::slot(stream)];
                while at < end {
                    let length = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                    log.write(stream, &spool.read(stream, at, length)?);
                    at += length as u64;
                }
            }
            Ok(spool)
        });
        *lock(&self.spool) = match resumed {
            Ok(spool) => SpoolState::Open(spool),
            Err(error) => {
                tracing::warn!(path = %log.path().display(), %error, "spool of the last daemon cannot be read");
                SpoolState::Without
            }
        };
    }

    /// Gives a new supervisor the descriptors of this run that must outlive the daemon: standard streams and spool.
    pub(crate) fn keep_again(&self) -> io::Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let stdin = self.stdin.borrow().clone();
        let outputs = lock(&self.outputs).clone();
        let borrowed = |fd: &Option<Arc<AsyncFd<OwnedFd>>>| -> Option<OwnedFd> {
            // A duplicate for the moment of sending, so that the pump may end meanwhile.
            fd.as_ref()?.get_ref().try_clone().ok()
        };
        let streams = [&stdin, &outputs[0], &outputs[1]].map(borrowed);
        let [stdin, stdout, stderr] = &streams;
        let streams: [Option<BorrowedFd<'_>>; 3] = [stdin, stdout, stderr].map(|fd| fd.as_ref().map(AsFd::as_fd));
        keeper.runtimes.keep_streams(&keeper.key, streams)?;
        match lock(&self.spool).clone() {
            SpoolState::Open(spool) => keeper.runtimes.keep(&keeper.key, &spool.descriptors()),
            SpoolState::Unused | SpoolState::Without => Ok(()),
        }
    }

    /// Nothing more for now: what is in the log needs no memory.
    fn rests(&self, stream: StdStream) {
        let SpoolState::Open(spool) = lock(&self.spool).clone() else { return };
        if let Some(taken) = self.log.as_ref().and_then(|log| lock(log).taken(stream)) {
            spool.give_back(stream, taken, true);
        }
    }

    fn log_piece(&self, stream: StdStream, bytes: &[u8]) {
        let Some(log) = &self.log else { return };
        let taken = {
            let mut log = lock(log);
            log.write(stream, bytes);
            log.taken(stream)
        };
        if let (Some(taken), SpoolState::Open(spool)) = (taken, lock(&self.spool).clone()) {
            spool.give_back(stream, taken, false);
        }
        self.changes.send_modify(|progress| progress.writes += 1);
    }

    async fn deliver(&self, stream: StdStream, bytes: Bytes) {
        self.log_piece(stream, &bytes);
        let sessions = lock(&self.sessions).clone();
        let mut gone = false;
        for session in sessions {
            gone |= session.send(OutputChunk { stream, bytes: bytes.clone() }).await.is_err();
        }
        if gone {
            lock(&self.sessions).retain(|session| !session.is_closed());
        }
    }
}
