//! Layers that containers use before they are here (`--lazy-pull`). A pull brings only a layer's table of contents; its tree is
//! mounted over a file that this daemon serves to the kernel ([`dockerd_sys::fuse`]), and what is read there is fetched first.
//! Meanwhile the rest is fetched too, and in the end the layer is verified as a whole and becomes an ordinary one.
//!
//! ```text
//! container --> overlay --> EROFS (tree of the TOC) --> FUSE file --> Payload --chunks--> SparseBlob --ranges--> registry
//!                                                                                          | whole
//!                                              ordinary layer <--RENAME_EXCHANGE-- verify, decompress, index
//! ```
//! What containers have mounted by then stays as it is and is served from the blob. A session of the kernel lives as long as
//! somebody reads, not as long as the daemon: its descriptor is kept outside ([`DescriptorKeeper`]), and the next daemon goes on
//! with it ([`ImageStore::resume_lazy`](crate::ImageStore)).

mod blob;
mod complete;
mod layer;
mod payload;
mod ranges;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use dockerd_registry::Descriptor;
use dockerd_sys::fuse::{FileSource, FuseServer, Opened, ReadReply};
use dockerd_types::{Digest, Reference};
use tokio::runtime::Handle;

pub use complete::Waiting;
use layer::LazyDocument;
pub(crate) use layer::{FetchState, PendingLayer};
use payload::Payload;

use crate::error::ImageError;
use crate::toc::Toc;
use crate::trash::{Trash, is_temporary, temporary_name};

/// How names of kept sessions begin.
const SESSION: &str = "lazy-session/";

/// Keeps descriptors beyond the death of this process.
pub trait DescriptorKeeper: Send + Sync + std::fmt::Debug {
    /// Keeps `descriptor` under `name`. Blocking.
    fn keep(&self, name: &str, descriptor: OwnedFd) -> io::Result<()>;
    /// Lets go of it. Does not wait.
    fn release(&self, name: &str);
    /// Nothing more is fetched of the layer of `blob`: it is here, or nobody wants it. Does not wait.
    fn layer_ended(&self, blob: &Digest);
}

/// All layers that are not here yet.
#[derive(Debug)]
pub(crate) struct Lazies {
    directory: PathBuf,
    trash: Trash,
    layers: Mutex<HashMap<Digest, Arc<PendingLayer>>>,
    server: OnceLock<FuseServer>,
    keeper: OnceLock<Arc<dyn DescriptorKeeper>>,
    runtime: Option<Handle>,
    next: AtomicU64,
    enabled: AtomicBool,
}

/// A layer that stays as long as this is there.
#[derive(Debug)]
pub(crate) struct Held {
    lazies: Arc<Lazies>,
    pub(crate) layer: Arc<PendingLayer>,
    name: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.layer.remove_session(&self.name);
        self.lazies.tidy(&self.layer);
    }
}

/// Answers what the kernel asks of one session.
struct Reader {
    lazies: Weak<Lazies>,
    name: String,
    layer: Arc<PendingLayer>,
    payload: Arc<Payload>,
    runtime: Handle,
}

impl FileSource for Reader {
    fn read(&self, offset: u64, _: usize, reply: ReadReply) {
        self.runtime.spawn(self.payload.clone().serve(offset, reply));
    }

    fn ended(&self) {
        self.layer.remove_session(&self.name);
        if let Some(lazies) = self.lazies.upgrade() {
            if let Some(keeper) = lazies.keeper.get() {
                keeper.release(&self.name);
            }
            lazies.tidy(&self.layer);
        }
    }
}

impl Lazies {
    /// Opens or makes the directory `directory`, with the layers a daemon before had not finished.
    pub(crate) fn open(directory: &Path, trash: Trash) -> Result<Arc<Self>, ImageError> {
        fs::create_dir_all(directory).map_err(ImageError::io("make the directory of lazy layers"))?;
        let mut layers = HashMap::new();
        let entries = fs::read_dir(directory).map_err(ImageError::io("list lazy layers"))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let temporary = path.file_name().is_none_or(|name| is_temporary(&name.to_string_lossy()));
            match if temporary { Err(None) } else { PendingLayer::open(&path).map_err(Some) } {
                Ok(layer) => _ = layers.insert(layer.blob_digest().clone(), Arc::new(layer)),
                Err(error) => {
                    if let Some(error) = error {
                        tracing::error!(path = %path.display(), %error, "a layer that was being fetched cannot be read");
                    }
                    trash.discard(&path)?;
                }
            }
        }
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            trash,
            layers: Mutex::new(layers),
            server: OnceLock::new(),
            keeper: OnceLock::new(),
            runtime: Handle::try_current().ok(),
            next: AtomicU64::new(0),
            enabled: AtomicBool::new(false),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<PendingLayer>>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer of that blob.
    pub(crate) fn get(&self, blob: &Digest) -> Option<Arc<PendingLayer>> {
        self.lock().get(blob).cloned()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<PendingLayer>> {
        self.lock().values().cloned().collect()
    }

    /// One that will be the layer `diff_id`.
    pub(crate) fn of_layer(&self, diff_id: &Digest) -> Option<Arc<PendingLayer>> {
        self.lock().values().find(|layer| layer.diff_id() == diff_id && !layer.chains().is_empty()).cloned()
    }

    /// The layer of that blob, kept until [`Held`] is dropped.
    pub(crate) fn hold(self: &Arc<Self>, blob: &Digest) -> Option<Held> {
        let layers = self.lock();
        layers.get(blob).map(|layer| self.held(layer.clone()))
    }

    /// Takes in a layer whose TOC is here; one that is there already stays. Errors: also when that one is said to be another
    /// layer. Blocking.
    pub(crate) fn add(
        self: &Arc<Self>,
        descriptor: &Descriptor,
        diff_id: &Digest,
        reference: &Reference,
        toc: &Toc,
    ) -> Result<Held, ImageError> {
        let mut layers = self.lock();
        if let Some(known) = layers.get(&descriptor.digest) {
            if known.diff_id() != diff_id || known.size() != descriptor.size {
                return Err(ImageError::LayersMismatch);
            }
            return Ok(self.held(known.clone()));
        }
        let document = LazyDocument {
            blob: descriptor.digest.clone(),
            size: descriptor.size,
            media_type: descriptor.media_type.clone(),
            diff_id: diff_id.clone(),
            kind: toc.kind,
            reference: reference.clone(),
        };
        let (temporary, path) = (self.directory.join(temporary_name()), self.directory.join(descriptor.digest.hex()));
        let made = PendingLayer::create(&temporary, document, toc).and_then(|_| {
            let renamed = fs::rename(&temporary, &path).and_then(|()| File::open(&self.directory)?.sync_all());
            renamed.map_err(ImageError::io("keep a layer that is being fetched"))
        });
        let layer = match made.and_then(|()| PendingLayer::open(&path)) {
            Ok(layer) => Arc::new(layer),
            Err(error) => {
                self.trash.discard(&temporary)?;
                self.trash.discard(&path)?;
                return Err(error);
            }
        };
        layers.insert(descriptor.digest.clone(), layer.clone());
        Ok(self.held(layer))
    }

    fn held(self: &Arc<Self>, layer: Arc<PendingLayer>) -> Held {
        let name = format!("pull-{}", self.next.fetch_add(1, Ordering::Relaxed));
        layer.add_session(&name);
        Held { lazies: self.clone(), layer, name }
    }

    /// Has pulls make such layers from now on. Starts the thread that serves them to the kernel.
    pub(crate) fn enable(&self) -> io::Result<()> {
        self.server()?;
        self.enabled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether pulls make such layers.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    fn server(&self) -> io::Result<&FuseServer> {
        if let Some(server) = self.server.get() {
            return Ok(server);
        }
        let started = FuseServer::start()?;
        Ok(self.server.get_or_init(|| started))
    }

    /// Waits until `layer` is an ordinary one. Blocking; not for async workers.
    pub(crate) fn wait(&self, layer: &Arc<PendingLayer>) -> Result<(), ImageError> {
        let incomplete = |why: String| ImageError::Incomplete(layer.diff_id().clone(), why);
        let runtime = self.runtime.as_ref().ok_or_else(|| incomplete("nobody fetches it".to_owned()))?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let waited = layer.clone();
        runtime.spawn(async move {
            // It waits below.
            let _ = sender.send(waited.whole().await);
        });
        let whole = receiver.recv().map_err(|error| incomplete(error.to_string()))?;
        whole.map_err(|error| incomplete(error.to_string()))
    }

    /// Who keeps sessions beyond this process from now on.
    pub(crate) fn set_keeper(&self, keeper: Arc<dyn DescriptorKeeper>) {
        // The first one stays.
        let _ = self.keeper.set(keeper);
    }

    fn reader(self: &Arc<Self>, name: String, layer: Arc<PendingLayer>) -> io::Result<Reader> {
        let runtime = self.runtime.clone().ok_or_else(|| io::Error::other("lazy layers need a tokio runtime"))?;
        let payload = layer.payload().map_err(io::Error::other)?;
        Ok(Reader { lazies: Arc::downgrade(self), name, layer, payload, runtime })
    }

    /// The payload of the layer of `blob` as a file that a file system can be mounted on. Blocking.
    pub(crate) fn device(self: &Arc<Self>, blob: &Digest) -> io::Result<File> {
        let layer = self.get(blob).ok_or(io::ErrorKind::NotFound)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{SESSION}{}/{}-{number}", blob.hex(), std::process::id());
        let reader = Arc::new(self.reader(name.clone(), layer.clone())?);
        let size = reader.payload.size();
        layer.add_session(&name);
        let opened = self.server().and_then(|server| server.open(size, reader));
        let kept = opened.and_then(|Opened { file, device }| {
            // The end of the file is the end of the session, of which the reader hears.
            self.keeper.get().map_or(Ok(()), |keeper| keeper.keep(&name, device)).map(|()| file)
        });
        if kept.is_err() {
            layer.remove_session(&name);
        }
        kept
    }

    /// Goes on with the sessions that a daemon before had, and lets go of those of other things. Then what nobody needs goes.
    pub(crate) fn adopt(self: &Arc<Self>, kept: Vec<(String, OwnedFd)>) {
        for (name, device) in kept {
            let Some(rest) = name.strip_prefix(SESSION) else { continue };
            let hex = rest.split('/').next().unwrap_or_default();
            let layer = Digest::parse(&format!("sha256:{hex}")).ok().and_then(|blob| self.get(&blob));
            let adopted = layer.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)).and_then(|layer| {
                let reader = self.reader(name.clone(), layer.clone())?;
                layer.add_session(&name);
                let size = reader.payload.size();
                let resumed = self.server().and_then(|server| server.resume(device, size, Arc::new(reader)));
                resumed.inspect_err(|_| layer.remove_session(&name))
            });
            if let Err(error) = adopted {
                tracing::error!(name, %error, "readers of a layer that was being fetched cannot be served any more");
                if let Some(keeper) = self.keeper.get() {
                    keeper.release(&name);
                }
            }
        }
        self.all().iter().for_each(|layer| self.tidy(layer));
    }

    /// The layer `chain` of a driver is made of `blob` and will be filled. False where the blob is not known.
    pub(crate) fn chain_added(&self, blob: &Digest, chain: &Digest) -> bool {
        self.get(blob).inspect(|layer| layer.add_chain(chain)).is_some()
    }

    /// It is an ordinary one now, or has gone.
    pub(crate) fn chain_gone(&self, chain: &Digest) {
        for layer in self.all() {
            if layer.remove_chain(chain) {
                self.tidy(&layer);
            }
        }
    }

    /// Takes `layer` away if nobody needs anything of it any more.
    pub(crate) fn tidy(&self, layer: &PendingLayer) {
        let mut layers = self.lock();
        if !layer.is_idle() || !layers.get(layer.blob_digest()).is_some_and(|known| std::ptr::eq(&**known, layer)) {
            return;
        }
        layer.stop();
        self.ended(layer);
        layers.remove(layer.blob_digest());
        if let Err(error) = self.trash.discard(&layer.directory) {
            tracing::warn!(%error, "a layer that was being fetched could not be removed");
        }
    }

    /// Nothing more is fetched of `layer`.
    pub(crate) fn ended(&self, layer: &PendingLayer) {
        if let Some(keeper) = self.keeper.get() {
            keeper.layer_ended(layer.blob_digest());
        }
    }

    /// Serves nobody any more, because this daemon ends in order; the next one goes on.
    pub(crate) fn leave(&self) {
        if let Some(server) = self.server.get() {
            server.leave();
        }
    }
}
