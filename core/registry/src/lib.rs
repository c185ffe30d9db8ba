//! The daemon's client of image registries: OCI distribution specification and Docker Registry API version 2.
//!
//! Who pulls or pushes takes a [`Repository`] from [`Registry::repository`]. Nothing here knows an image store; bytes go out
//! as they come, unhashed except for manifests, and files are only read in `certs.d`. Registries and the network between are
//! not trusted: everything that is read is bounded. Dropping a future or a [`Download`] stops what it does at once.
//!
//! How it behaves, and what its errors say, is the stock daemon's (moby 28.5) wherever a client could tell.
#![forbid(unsafe_code)]

mod api_error;
mod auth;
mod challenge;
mod client;
mod config;
mod connect;
mod download;
mod endpoint;
mod error;
mod fetch;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod link;
mod login;
pub mod manifest;
mod pace;
mod parts;
mod proxy;
mod range;
mod repository;
mod search;
mod session;
mod tls;
mod upload;
mod url;

use std::sync::Arc;

use arc_swap::ArcSwap;
use dockerd_types::Reference;

pub use crate::api_error::{ApiCode, ApiError, ApiErrors};
pub use crate::auth::Credentials;
pub use crate::config::{CERTS_DIR, Limits, MAX_DOWNLOAD_ATTEMPTS, Proxies, RegistryConfig};
pub use crate::download::{Download, DownloadEvent, DownloadRequest};
pub use crate::error::{RegistryError, TransportError};
pub use crate::fetch::{Address, FetchError, Fetched};
pub use crate::login::LoginOutcome;
pub use crate::manifest::{Descriptor, Document, ImageManifest, Index, Manifest, Platform};
pub use crate::range::BlobRange;
pub use crate::repository::{Access, ManifestHead, Repository, Target};
pub use crate::search::SearchResult;
pub use crate::upload::{BlobReader, BlobSource, Mounting, UploadEvent, UploadRequest};

use crate::config::Checked;
use crate::session::Session;

/// All registries, with the configuration of the moment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    config: Arc<ArcSwap<Checked>>,
}

impl Registry {
    /// # Errors
    ///
    /// When a value makes no sense, in the stock daemon's words.
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        let checked = Checked::new(config)?;
        Ok(Self { config: Arc::new(ArcSwap::from_pointee(checked)) })
    }

    /// Changes the configuration for what begins from now on.
    ///
    /// # Errors
    ///
    /// When a value makes no sense; then nothing changes.
    pub fn set_config(&self, config: RegistryConfig) -> Result<(), RegistryError> {
        self.config.store(Arc::new(Checked::new(config)?));
        Ok(())
    }

    /// The configuration of the moment, as written.
    pub fn config(&self) -> RegistryConfig {
        self.config.load().written.clone()
    }

    /// Whether `host`, with or without port, may be without TLS.
    pub async fn is_insecure(&self, host: &str) -> bool {
        endpoint::is_insecure(&self.config.load_full(), host).await
    }

    /// The repository of `reference`, whose tag and digest do not matter. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When `certs.d` cannot be used, or the name is reserved.
    pub async fn repository(
        &self,
        reference: &Reference,
        access: Access,
        credentials: Option<Credentials>,
    ) -> Result<Repository, RegistryError> {
        let config = self.config.load_full();
        let endpoints = endpoint::lookup(&config, reference.domain(), access == Access::Pull).await?;
        let credentials = credentials.unwrap_or_default();
        let session = |endpoint| Session::new(&config, endpoint, &credentials, false);
        Repository::new(reference, access, endpoints.into_iter().map(session).collect())
    }
}
