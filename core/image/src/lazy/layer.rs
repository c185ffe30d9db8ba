//! One lazily pulled layer: what is kept of it, who fetches it, and who reads it.
//!
//! ```text
//! image/lazy/<digest of the blob>/layer.json   what it is (LazyDocument)
//!                                 toc          its table of contents, verified when it came
//!                                 blob         the compressed layer, with holes (blob.rs)
//! ```

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dockerd_store::{Durability, document};
use dockerd_types::{Digest, Reference};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::blob::{FetchError, SparseBlob};
use super::payload::Payload;
use crate::erofs::NO_TAG;
use crate::error::ImageError;
use crate::toc::{Kind, LazyLayer, Toc};

const DOCUMENT: &str = "layer.json";
const TOC: &str = "toc";
const BLOB: &str = "blob";

/// `layer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LazyDocument {
    /// The blob.
    pub(super) blob: Digest,
    /// Bytes of it.
    pub(super) size: u64,
    /// Its media type in the manifest.
    pub(super) media_type: String,
    /// The layer's plain tar, by the image's configuration; verified in the end.
    pub(super) diff_id: Digest,
    /// The format of its table of contents.
    pub(super) kind: Kind,
    /// Where it is.
    pub(super) reference: Reference,
}

impl document::Document for LazyDocument {
    const VERSION: u32 = 1;
}

/// How far the fetching is.
#[derive(Debug, Clone)]
pub(crate) enum FetchState {
    /// Under way.
    Running,
    /// Given up, until somebody pulls the image again.
    Failed(Arc<str>),
    /// All is here, and the layers are ordinary ones.
    Whole,
}

/// A layer of which not all is here.
#[derive(Debug)]
pub(crate) struct PendingLayer {
    pub(super) document: LazyDocument,
    pub(super) directory: PathBuf,
    pub(super) blob: Arc<SparseBlob>,
    pub(super) state: watch::Sender<FetchState>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Layers of drivers that are made of it.
    chains: HashSet<Digest>,
    /// Sessions of the kernel that read it.
    sessions: HashSet<String>,
    /// What they read, as long as somebody does.
    payload: Weak<Payload>,
    task: Option<AbortHandle>,
}

impl PendingLayer {
    /// Keeps a new one in directory `directory`, on disk when this returns.
    pub(super) fn create(directory: &Path, document: LazyDocument, toc: &Toc) -> Result<Self, ImageError> {
        let fail = || ImageError::io("keep the table of contents of a layer");
        fs::create_dir_all(directory).map_err(fail())?;
        let file = fs::File::create(directory.join(TOC)).map_err(fail())?;
        io::Write::write_all(&mut &file, &toc.json).and_then(|()| file.sync_data()).map_err(fail())?;
        document::write(&directory.join(DOCUMENT), &document, Durability::Disk)?;
        Self::of(directory, document)
    }

    /// One that was kept.
    pub(super) fn open(directory: &Path) -> Result<Self, ImageError> {
        let document = document::read::<LazyDocument>(&directory.join(DOCUMENT))?;
        Self::of(directory, document)
    }

    fn of(directory: &Path, document: LazyDocument) -> Result<Self, ImageError> {
        let blob = SparseBlob::open(&directory.join(BLOB), document.blob.clone(), document.size);
        let blob = Arc::new(blob.map_err(ImageError::io("open a layer that is being fetched"))?);
        let (state, inner) = (watch::Sender::new(FetchState::Running), Mutex::default());
        Ok(Self { document, directory: directory.to_owned(), blob, state, inner })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer's plain tar, as the image says.
    pub(crate) fn diff_id(&self) -> &Digest {
        &self.document.diff_id
    }

    /// Where it is in a registry.
    pub(crate) fn reference(&self) -> &Reference {
        &self.document.reference
    }

    /// Its compressed form.
    pub(crate) fn blob_digest(&self) -> &Digest {
        &self.document.blob
    }

    /// Bytes of that.
    pub(super) fn size(&self) -> u64 {
        self.document.size
    }

    /// Its file of the blob.
    pub(super) fn blob_path(&self) -> PathBuf {
        self.directory.join(BLOB)
    }

    /// Keeps pieces of the blob that came with the table of contents. Blocking.
    pub(crate) fn take_in(&self, pieces: &[(u64, bytes::Bytes)]) -> Result<(), ImageError> {
        let put = |(start, bytes): &(u64, bytes::Bytes)| self.blob.put(*start, bytes);
        pieces.iter().try_for_each(put).map_err(ImageError::io("keep a layer that is being fetched"))
    }

    /// Its table of contents. Blocking.
    pub(crate) fn table(&self) -> Result<LazyLayer, ImageError> {
        let json = fs::read(self.directory.join(TOC)).map_err(ImageError::io("read table of contents"))?;
        LazyLayer::parse(self.document.kind, &json, NO_TAG).map_err(|error| ImageError::Archive(error.to_string()))
    }

    /// What the kernel reads; all who read it share one. Blocking.
    pub(super) fn payload(&self) -> Result<Arc<Payload>, ImageError> {
        let mut inner = self.lock();
        if let Some(payload) = inner.payload.upgrade() {
            return Ok(payload);
        }
        let payload = Payload::new(self.blob.clone(), self.table()?, &self.directory);
        let payload = Arc::new(payload.map_err(ImageError::io("open a layer that is being fetched"))?);
        inner.payload = Arc::downgrade(&payload);
        Ok(payload)
    }

    pub(super) fn add_chain(&self, chain: &Digest) {
        self.lock().chains.insert(chain.clone());
    }

    /// Whether it was there.
    pub(super) fn remove_chain(&self, chain: &Digest) -> bool {
        self.lock().chains.remove(chain)
    }

    pub(crate) fn chains(&self) -> Vec<Digest> {
        self.lock().chains.iter().cloned().collect()
    }

    pub(super) fn add_session(&self, name: &str) {
        self.lock().sessions.insert(name.to_owned());
    }

    pub(super) fn remove_session(&self, name: &str) {
        self.lock().sessions.remove(name);
    }

    /// Whether nobody needs anything of it.
    pub(super) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.chains.is_empty() && inner.sessions.is_empty()
    }

    /// Has `task` fetch it; the one before ends.
    pub(super) fn set_task(&self, task: AbortHandle) {
        if let Some(before) = self.lock().task.replace(task) {
            before.abort();
        }
    }

    /// Whether somebody fetches it.
    pub(super) fn is_running(&self) -> bool {
        self.lock().task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Nobody wants it any more.
    pub(super) fn stop(&self) {
        if let Some(task) = self.lock().task.take() {
            task.abort();
        }
        self.blob.give_up();
        self.state.send_if_modified(|state| {
            let running = matches!(state, FetchState::Running);
            if running {
                *state = FetchState::Failed("the image was removed".into());
            }
            running
        });
    }

    /// Waits until it is an ordinary layer.
    pub(crate) async fn whole(&self) -> Result<(), FetchError> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                FetchState::Running => {}
                FetchState::Failed(why) => return Err(FetchError::Invalid(why.to_string())),
                FetchState::Whole => return Ok(()),
            }
            state.changed().await.map_err(|_| FetchError::Gone)?;
        }
    }
}
