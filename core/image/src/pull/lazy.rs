//! Which layers of a pull come later (`--lazy-pull`): those with a table of contents that can be verified. What stands in the way of
//! that is no error; the layer is then pulled like any other.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dockerd_registry::{Descriptor, Repository};
use dockerd_types::{Digest, Reference};
use tokio::sync::{Notify, Semaphore};

use super::transfer::{Transfers, blocking};
use super::{PullError, Way};
use crate::erofs::NO_TAG;
use crate::lazy::Held;
use crate::store::{Image, ImageStore};
use crate::toc::{LazyLayer, Locator, Next, Toc, TocError, locate};

/// Layers of fewer bytes are fetched sooner than a table of contents is read.
const LEAST: u64 = 256 << 10;

/// Why a layer does not come later.
#[derive(Debug, thiserror::Error)]
enum Hindrance {
    #[error(transparent)]
    Toc(#[from] TocError),
    #[error(transparent)]
    Registry(#[from] dockerd_registry::RegistryError),
    #[error("it has no files with content")]
    Empty,
    #[error(transparent)]
    Store(#[from] PullError),
}

/// A table of contents, and the pieces of the blob it was found in.
struct Found {
    toc: Toc,
    pieces: Vec<(u64, Bytes)>,
}

impl ImageStore {
    /// How to find out whether `blob` can be used before it is here.
    pub(super) fn may_come_later(&self, blob: &Descriptor) -> Option<Locator> {
        let large = blob.size >= LEAST && self.lazies().is_enabled() && blob.urls.is_empty();
        large.then(|| locate(&blob.annotations, blob.size)).flatten()
    }

    /// Decides about the layers that may come later; those that cannot are transferred from now on.
    pub(super) async fn decide(
        &self,
        repository: &Repository,
        reference: &Reference,
        blobs: &[Descriptor],
        diff_ids: &[Digest],
        slots: &Arc<Semaphore>,
        ways: &mut [Way],
    ) {
        let deciding = ways.iter_mut().zip(blobs).zip(diff_ids).map(|((way, blob), diff_id)| async move {
            let Way::Perhaps(locator) = way else { return };
            *way = match self.later(repository, reference, blob, diff_id, locator).await {
                Ok(held) => Way::Later(Arc::new(held)),
                Err(why) => {
                    tracing::info!(digest = %blob.digest, %why, "a layer is not pulled lazily");
                    Way::Transfer(Transfers::join(self, repository, blob, slots), Notify::new())
                }
            };
        });
        futures_util::future::join_all(deciding).await;
    }

    async fn later(
        &self,
        repository: &Repository,
        reference: &Reference,
        blob: &Descriptor,
        diff_id: &Digest,
        locator: &mut Locator,
    ) -> Result<Held, Hindrance> {
        let (store, descriptor, layer) = (self.clone(), blob.clone(), diff_id.clone());
        if let Some(held) = self.lazies().hold(&blob.digest).filter(|held| held.layer.diff_id() == diff_id) {
            return Ok(held);
        }
        let Found { toc, pieces } = find(repository, blob, locator).await?;
        let reference = reference.clone();
        let taken = blocking(move || {
            // What makes no tree is not kept.
            let parsed = LazyLayer::parse(toc.kind, &toc.json, NO_TAG);
            if !parsed.as_ref().is_ok_and(|layer| layer.payload_size > 0) {
                return Ok(Err(parsed.err().map_or(Hindrance::Empty, Hindrance::Toc)));
            }
            let held = store.lazies().add(&descriptor, &layer, &reference, &toc)?;
            held.layer.take_in(&pieces)?;
            Ok(Ok(held))
        });
        taken.await?
    }

    /// A pull of an image that is here, but not all of it: what is missing comes from `repository` from now on. It is waited for
    /// unless pulls are lazy.
    pub(super) async fn go_on(&self, repository: &Repository, image: &Image) -> Result<(), PullError> {
        for layer in &image.layers {
            let pending = self.lazies().of_layer(&layer.diff_id);
            if let Some(held) = pending.and_then(|pending| self.lazies().hold(pending.blob_digest())) {
                self.fetch_rest(&held, repository);
            }
        }
        if self.lazies().is_enabled() {
            return Ok(());
        }
        Ok(self.whole(image).await?)
    }
}

/// Fetches and verifies the table of contents of `blob`.
async fn find(repository: &Repository, blob: &Descriptor, locator: &mut Locator) -> Result<Found, Hindrance> {
    let mut pieces = Vec::new();
    loop {
        let wanted = locator.wanted();
        let mut part = repository.range(&blob.digest, blob.size, wanted.clone()).await?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = part.next().await {
            bytes.extend_from_slice(&piece?);
        }
        let bytes = bytes.freeze();
        let next = locator.feed(&bytes)?;
        pieces.push((wanted.start, bytes));
        if let Next::Done(toc) = next {
            return Ok(Found { toc, pieces });
        }
    }
}
