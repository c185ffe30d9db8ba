//! A part of a blob by itself (distribution-spec, "Pulling blobs"; RFC 9110, section 14), for those who do not need the whole of
//! it now. Nothing is tried again here: who waits for the bytes knows best how long.

use std::ops::Range;

use bytes::Bytes;
use dockerd_types::Digest;
use hyper::StatusCode;

use crate::client::Body;
use crate::download::{check_range, refused};
use crate::error::{RegistryError, TransportError};
use crate::pace::Pace;
use crate::repository::{Inner, Repository};
use crate::session::Session;

/// The bytes of a part, as they come. Dropped, the rest is not sent.
pub struct BlobRange {
    body: Body,
    pace: Pace,
    missing: u64,
    ended: bool,
}

impl std::fmt::Debug for BlobRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobRange").field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl Repository {
    /// The bytes `range` of the blob `digest`, which has `size` bytes. Not verified.
    ///
    /// # Errors
    ///
    /// What the registry says against it, and [`RegistryError::Malformed`] when it cannot send parts of blobs.
    pub async fn range(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobRange, RegistryError> {
        let inner = self.inner();
        let asked = inner.over_endpoints(|session| inner.ask_range(session, digest, size, &range)).await;
        asked.map_err(|error| inner.translated(error, &digest.to_string()))
    }
}

impl Inner {
    async fn ask_range(
        &self,
        session: &Session,
        digest: &Digest,
        size: u64,
        range: &Range<u64>,
    ) -> Result<BlobRange, RegistryError> {
        if range.is_empty() || range.end > size {
            let why = format!("bytes {} to {} of {size}", range.start, range.end);
            return Err(RegistryError::Malformed { what: "range", why });
        }
        session.ping().await?;
        let last = range.end - 1;
        let response = self.get_blob(session, digest, Some((range.start, last))).await?;
        match response.status {
            StatusCode::PARTIAL_CONTENT => check_range(&response, range.start, last, size)?,
            StatusCode::OK if *range == (0..size) => {}
            StatusCode::OK => {
                let why = "the registry does not send parts of blobs".to_owned();
                return Err(RegistryError::Malformed { what: "answer", why });
            }
            _ => return Err(refused(session, response).await),
        }
        Ok(BlobRange {
            body: response.body,
            pace: session.limits().pace(),
            missing: range.end - range.start,
            ended: false,
        })
    }
}

impl BlobRange {
    /// The next bytes; none when all have come. After an error nothing comes.
    pub async fn next(&mut self) -> Option<Result<Bytes, RegistryError>> {
        if self.missing == 0 {
            // The connection is of use again when its answer is at its end.
            if !std::mem::replace(&mut self.ended, true) {
                let _ = self.body.piece(&mut self.pace).await;
            }
            return None;
        }
        let piece = match self.body.piece(&mut self.pace).await {
            Some(Ok(piece)) if piece.len() as u64 <= self.missing => Ok(piece),
            Some(Ok(_)) => Err(RegistryError::Malformed { what: "answer", why: "more than was asked for".to_owned() }),
            Some(Err(error)) => Err(RegistryError::Transfer(error)),
            None => Err(RegistryError::Transfer(TransportError::ClosedEarly)),
        };
        match &piece {
            Ok(piece) => self.missing -= piece.len() as u64,
            Err(_) => (self.missing, self.ended) = (0, true),
        }
        Some(piece)
    }
}
