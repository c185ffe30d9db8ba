//! Several consecutive ranges of a blob at once. Each has a task of its own that reads ahead; never more of them run than
//! allowed, so at most that many parts wait in memory. All end with the [`Parts`].

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::Response;
use crate::download::{DownloadRequest, check_range, refused};
use crate::error::{RegistryError, TransportError};
use crate::repository::Inner;

/// Pieces of one part that may wait. Small pieces fill it before the part is there; then the part waits.
const WAITING: usize = 2048;

/// A part that is being fetched.
pub(crate) struct Part {
    /// The byte after its last.
    pub(crate) end: u64,
    /// Its bytes, in order; ends early when the task fails without a word.
    pub(crate) pieces: mpsc::Receiver<Result<Bytes, RegistryError>>,
}

/// What is left of a blob, cut in parts.
pub(crate) struct Parts {
    inner: Arc<Inner>,
    index: usize,
    request: DownloadRequest,
    /// The first byte nobody fetches yet.
    next: u64,
    length: u64,
    at_once: usize,
    running: VecDeque<Part>,
    tasks: JoinSet<()>,
}

impl Parts {
    pub(crate) fn new(
        inner: &Arc<Inner>,
        index: usize,
        request: &DownloadRequest,
        at: u64,
        length: u64,
        at_once: usize,
    ) -> Self {
        let (inner, request, tasks) = (Arc::clone(inner), request.clone(), JoinSet::new());
        Self { inner, index, request, next: at, length, at_once, running: VecDeque::new(), tasks }
    }

    /// Begins as many parts as may run; `answered`: the answer of the first is there already.
    pub(crate) fn begin(&mut self, mut answered: Option<Response>) {
        // Tasks that are done are of no interest.
        while self.tasks.try_join_next().is_some() {}
        while self.running.len() < self.at_once && self.next < self.request.size {
            let first = self.next;
            let end = first.saturating_add(self.length).min(self.request.size);
            let (out, pieces) = mpsc::channel(WAITING);
            let fetch =
                Fetch { inner: Arc::clone(&self.inner), index: self.index, request: self.request.clone(), first, end };
            let response = answered.take();
            self.tasks.spawn(async move {
                if let Err(error) = fetch.run(response, &out).await {
                    // Nobody there: nobody to tell.
                    let _ = out.send(Err(error)).await;
                }
            });
            self.running.push_back(Part { end, pieces });
            self.next = end;
        }
    }

    /// The part that comes next; none at the end.
    pub(crate) fn next(&mut self) -> Option<Part> {
        self.running.pop_front()
    }
}

struct Fetch {
    inner: Arc<Inner>,
    index: usize,
    request: DownloadRequest,
    first: u64,
    end: u64,
}

impl Fetch {
    async fn run(
        &self,
        answered: Option<Response>,
        out: &mpsc::Sender<Result<Bytes, RegistryError>>,
    ) -> Result<(), RegistryError> {
        let session = self.inner.nth(self.index).ok_or_else(|| self.inner.no_endpoint())?;
        let last = self.end - 1;
        let response = match answered {
            Some(response) => response,
            None => {
                let response = self.inner.get_blob(session, &self.request.digest, Some((self.first, last))).await?;
                if response.status != StatusCode::PARTIAL_CONTENT {
                    return Err(refused(session, response).await);
                }
                check_range(&response, self.first, last, self.request.size)?;
                response
            }
        };
        let mut body = response.body;
        let mut missing = self.end - self.first;
        let mut pace = session.limits().pace();
        while let Some(piece) = body.piece(&mut pace).await {
            let piece = piece.map_err(RegistryError::Transfer)?;
            missing = missing.checked_sub(piece.len() as u64).ok_or_else(|| RegistryError::BlobSize {
                digest: self.request.digest.to_string(),
                expected: self.request.size,
                got: self.request.size.saturating_add(1),
            })?;
            if out.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
        if missing > 0 { Err(RegistryError::Transfer(TransportError::ClosedEarly)) } else { Ok(()) }
    }
}
