//! `docker pull` and what else is asked of registries.

use std::sync::Arc;

use dockerd_image::{Platform, PullError, PullProgress, PullStep};
use dockerd_registry::{Access, Document, LoginOutcome, Manifest, RegistryError, Target};
use dockerd_types::{ErrorKind, Kinded, Reference};

pub use dockerd_registry::{Credentials, Platform as RemotePlatform, SearchResult};

use super::ImageService;
use crate::error::EngineError;

impl From<PullError> for EngineError {
    fn from(error: PullError) -> Self {
        Self::module(error)
    }
}

/// What a client wants pulled.
#[derive(Debug, Clone)]
pub struct PullOrder {
    /// The name; without tag and digest all tags of the repository are meant.
    pub reference: Reference,
    /// Which image of an index.
    pub platform: Option<Platform>,
    /// Who asks, for the registry.
    pub credentials: Option<Credentials>,
}

/// What a pull tells.
#[derive(Debug, Clone)]
pub enum PullNote {
    /// An image is being pulled: its repository's path, and the tag or the whole name by digest.
    Pulling {
        /// Path of the repository.
        path: String,
        /// Tag, or name with digest.
        id: String,
    },
    /// A step of it.
    Step(PullStep),
    /// The end: what was asked for, and whether anything is new.
    Done {
        /// The reference as people write it.
        name: String,
        /// Whether a name is new or names another image now.
        is_newer: bool,
    },
    /// The image is of another platform than was asked for.
    OtherPlatform {
        /// The reference as people write it.
        name: String,
        /// The image's.
        found: String,
        /// The one asked for.
        wanted: String,
    },
}

/// A name nothing can be pulled by.
#[derive(Debug, thiserror::Error)]
#[error("'scratch' is a reserved name")]
struct Reserved;

impl Kinded for Reserved {
    fn kind(&self) -> ErrorKind {
        ErrorKind::PermissionDenied
    }
}

/// Of which there is nothing to tell.
#[derive(Debug, thiserror::Error)]
#[error("no manifest found for full image ID")]
struct FullId;

impl Kinded for FullId {
    fn kind(&self) -> ErrorKind {
        ErrorKind::System
    }
}

/// Not there, by the registry's own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unknown(String);

impl Kinded for Unknown {
    fn kind(&self) -> ErrorKind {
        ErrorKind::NotFound
    }
}

/// What a registry has under a name.
#[derive(Debug, Clone)]
pub struct RemoteImage {
    /// The manifest.
    pub manifest: Manifest,
    /// Platforms there are images for.
    pub platforms: Vec<RemotePlatform>,
}

impl ImageService {
    /// Pulls; `tell` is called from several tasks. Stops, and leaves nothing behind, when it is dropped.
    pub async fn pull(
        &self,
        order: PullOrder,
        tell: impl Fn(PullNote) + Send + Sync + 'static,
    ) -> Result<(), EngineError> {
        let PullOrder { reference, platform, credentials } = order;
        if reference.familiar_name() == "scratch" {
            return Err(EngineError::module(Reserved));
        }
        let live = self.core.live();
        let secret = credentials.clone().filter(|_| live.lazy_pull);
        let (repository, slots) = self.registries.repository(&live, &reference, Access::Pull, credentials).await?;
        let names = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => vec![reference.with_digest(digest.clone())],
            (None, Some(_)) => vec![reference.clone()],
            (None, None) => {
                let tags = repository.tags().await?;
                tags.iter().filter_map(|tag| reference.with_tag(tag).ok()).collect()
            }
        };
        let tell = Arc::new(tell);
        let mut is_newer = false;
        for name in &names {
            let progress = progress(name, tell.clone());
            let pulled = self.store.pull(&repository, name, platform.as_ref(), &slots.downloads, &progress).await?;
            is_newer |= pulled.is_newer;
            if let Some(secret) = &secret {
                self.keep_credentials(&pulled.image, secret).await;
            }
            self.event("pull", &name.familiar(), &name.familiar_name());
        }
        tell(PullNote::Done { name: shown(&reference), is_newer });
        if let (Some(wanted), [name]) = (&platform, &names[..]) {
            let image = self.store.resolve(&name.to_string())?;
            if !wanted.takes(&image.config) {
                let found = super::platform(&image);
                tell(PullNote::OtherPlatform { name: name.familiar(), found, wanted: wanted.to_string() });
            }
        }
        Ok(())
    }

    /// What a registry has under `name` (`GET /distribution/{name}/json`).
    pub async fn remote(&self, name: &str, credentials: Option<Credentials>) -> Result<RemoteImage, EngineError> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(EngineError::module(FullId));
        }
        let reference = Reference::parse(name).map_err(dockerd_image::ImageError::from)?.with_default_tag();
        let live = self.core.live();
        let (repository, _) = self.registries.repository(&live, &reference, Access::Pull, credentials).await?;
        let target = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Target::Digest(digest),
            (None, tag) => Target::Tag(tag.unwrap_or("latest")),
        };
        let manifest = repository.manifest(target).await.map_err(|error| match error {
            // Here stock passes on what the registry said, and no more.
            RegistryError::ManifestUnknown { cause, .. } | RegistryError::NameUnknown { cause, .. } => {
                EngineError::module(Unknown(cause.to_string()))
            }
            other => other.into(),
        })?;
        let platforms = match manifest.parse()? {
            Document::Index(index) => index.manifests.into_iter().filter_map(|entry| entry.platform).collect(),
            Document::Image(image) => vec![dockerd_image::remote_platform(&repository, &image.config).await?],
        };
        Ok(RemoteImage { manifest, platforms })
    }

    /// Whether a registry takes `credentials` (`POST /auth`).
    pub async fn login(&self, server: &str, credentials: Credentials) -> Result<LoginOutcome, EngineError> {
        let (client, _) = self.registries.with(&self.core.live())?;
        Ok(client.login(server, &credentials).await?)
    }

    /// Searches the index that `term` names (`GET /images/search`); a `limit` of zero is the usual one.
    pub async fn search(
        &self,
        term: &str,
        limit: i64,
        credentials: Option<Credentials>,
    ) -> Result<Vec<SearchResult>, EngineError> {
        let (client, _) = self.registries.with(&self.core.live())?;
        Ok(client.search(term, limit, credentials).await?)
    }
}

/// A reference as the last line of a pull shows it.
fn shown(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest.clone()).familiar(),
        None => reference.familiar(),
    }
}

fn progress(name: &Reference, tell: Arc<dyn Fn(PullNote) + Send + Sync>) -> PullProgress {
    let id = match name.digest() {
        Some(_) => name.familiar(),
        None => name.tag().unwrap_or_default().to_owned(),
    };
    let path = name.path().to_owned();
    Arc::new(move |step| match step {
        PullStep::Manifest => tell(PullNote::Pulling { path: path.clone(), id: id.clone() }),
        step => tell(PullNote::Step(step)),
    })
}
