//! Layers that are used before they are here (`--lazy-pull`): what of them must outlive this daemon. Sessions in which the kernel
//! reads them, and the credentials their registry wants, are kept by the supervisor; on disk no secret is written.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_image::{DescriptorKeeper, ImageStore};
use dockerd_registry::{Access, Credentials};
use dockerd_sys::memory;
use dockerd_types::Digest;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::ImageService;
use crate::ports::KeptDescriptors;

/// How names of kept credentials begin; the digest of the layer's blob follows.
const SOURCE: &str = "lazy-source/";
/// Longest credentials.
const LONGEST: usize = 256 << 10;

/// Credentials as they are kept.
#[derive(Serialize, Deserialize)]
struct Secret {
    username: String,
    password: String,
    identity_token: String,
    registry_token: String,
}

/// Keeps descriptors at the supervisor, and gives them to the one that comes when that is lost.
#[derive(Debug)]
pub(crate) struct SessionKeeper {
    kept: Arc<dyn KeptDescriptors>,
    runtime: Handle,
    held: Mutex<HashMap<String, Arc<OwnedFd>>>,
}

impl SessionKeeper {
    fn held(&self) -> MutexGuard<'_, HashMap<String, Arc<OwnedFd>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store(&self, name: &str, descriptor: &OwnedFd) -> io::Result<()> {
        self.kept.store(name, &[], &[descriptor.as_fd()]).await
    }

    /// Gives everything to each supervisor that comes in the place of one that was lost.
    async fn keep_again(self: Arc<Self>) {
        let mut replacements = self.kept.replacements();
        while replacements.changed().await.is_ok() {
            let all: Vec<_> = self.held().iter().map(|(name, fd)| (name.clone(), fd.clone())).collect();
            for (name, descriptor) in all {
                if let Err(error) = self.store(&name, &descriptor).await {
                    tracing::error!(name, %error, "readers of an image would not survive the daemon");
                }
            }
        }
    }
}

/// The keeper the image store is given.
#[derive(Debug)]
struct Shared(Arc<SessionKeeper>);

impl DescriptorKeeper for Shared {
    fn keep(&self, name: &str, descriptor: OwnedFd) -> io::Result<()> {
        let (keeper, name, descriptor) = (self.0.clone(), name.to_owned(), Arc::new(descriptor));
        let (done, result) = std::sync::mpsc::channel();
        // Whoever mounts something may be on any thread.
        self.0.runtime.spawn(async move {
            let stored = keeper.store(&name, &descriptor).await;
            if stored.is_ok() {
                keeper.held().insert(name, descriptor);
            }
            // It waits below.
            let _ = done.send(stored);
        });
        result.recv().map_err(io::Error::other)?
    }

    fn release(&self, name: &str) {
        let (keeper, name) = (self.0.clone(), name.to_owned());
        self.0.runtime.spawn(async move {
            keeper.held().remove(&name);
            if let Err(error) = keeper.kept.release(&name).await {
                tracing::warn!(name, %error, "a kept descriptor was not released");
            }
        });
    }

    fn layer_ended(&self, blob: &Digest) {
        self.release(&format!("{SOURCE}{}", blob.hex()));
    }
}

/// Goes on with what a daemon before kept. Returns credentials by the blobs that they are for.
pub(crate) async fn adopt(
    store: &ImageStore,
    kept: Arc<dyn KeptDescriptors>,
) -> (Arc<SessionKeeper>, HashMap<String, Credentials>) {
    let stored = kept.stored().await.unwrap_or_else(|error| {
        tracing::error!(%error, "readers of images that are being fetched cannot be served any more");
        Vec::new()
    });
    let (mut sessions, mut credentials, mut held) = (Vec::new(), HashMap::new(), HashMap::new());
    for entry in stored {
        let Some(descriptor) = entry.descriptors.into_iter().next() else { continue };
        let Ok(copy) = descriptor.try_clone() else { continue };
        if let Some(blob) = entry.name.strip_prefix(SOURCE) {
            let read =
                memory::unsealed(&descriptor, LONGEST).and_then(|bytes| Ok(serde_json::from_slice::<Secret>(&bytes)?));
            match read {
                Ok(secret) => _ = credentials.insert(blob.to_owned(), Credentials::from(secret)),
                Err(error) => tracing::warn!(%error, "kept credentials cannot be read"),
            }
        } else {
            sessions.push((entry.name.clone(), descriptor));
        }
        held.insert(entry.name, Arc::new(copy));
    }
    let keeper = Arc::new(SessionKeeper { kept, runtime: Handle::current(), held: Mutex::new(held) });
    tokio::spawn(keeper.clone().keep_again());
    let (store, shared) = (store.clone(), Shared(keeper.clone()));
    if let Err(error) = super::blocking(move || store.adopt_sessions(Arc::new(shared), sessions)).await {
        tracing::error!(%error, "readers of images that are being fetched cannot be served any more");
    }
    (keeper, credentials)
}

impl From<Secret> for Credentials {
    fn from(secret: Secret) -> Self {
        let Secret { username, password, identity_token, registry_token } = secret;
        Self { username, password, identity_token, registry_token }
    }
}

impl ImageService {
    /// Goes on fetching layers that a daemon before had not finished.
    pub(crate) async fn resume(&self, mut credentials: HashMap<String, Credentials>) {
        let live = self.core.live();
        for waiting in self.store.waiting_layers() {
            let credentials = credentials.remove(waiting.blob.hex());
            let repository = self.registries.repository(&live, &waiting.reference, Access::Pull, credentials).await;
            match repository {
                Ok((repository, _)) => self.store.resume_lazy(&waiting.blob, &repository),
                Err(error) => tracing::error!(blob = %waiting.blob, %error, "a layer cannot be fetched"),
            }
        }
        // Nobody needs those for what is here or has gone.
        for blob in credentials.keys() {
            if let Ok(blob) = Digest::parse(&format!("sha256:{blob}")) {
                Shared(self.keeper.clone()).layer_ended(&blob);
            }
        }
    }

    /// Keeps `credentials` for the layers of `image` that are still to come.
    pub(crate) async fn keep_credentials(&self, image: &dockerd_image::Image, credentials: &Credentials) {
        let Credentials { username, password, identity_token, registry_token } = credentials.clone();
        let secret = Secret { username, password, identity_token, registry_token };
        for waiting in self.store.waiting_layers() {
            if !image.layers.iter().any(|layer| layer.diff_id == waiting.diff_id) {
                continue;
            }
            let made = serde_json::to_vec(&secret).map_err(io::Error::other);
            let made = made.and_then(|bytes| memory::sealed("registry-credentials", &bytes));
            let name = format!("{SOURCE}{}", waiting.blob.hex());
            let kept = match made {
                Ok(descriptor) => {
                    let (shared, descriptor) = (Shared(self.keeper.clone()), descriptor);
                    super::blocking(move || shared.keep(&name, descriptor)).await.map_err(io::Error::other).flatten()
                }
                Err(error) => Err(error),
            };
            if let Err(error) = kept {
                tracing::warn!(%error, "credentials will not survive the daemon");
            }
        }
    }
}
