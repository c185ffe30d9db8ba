//! Images: a content store by verified digest, layers unpacked for a snapshot driver, and the use cases over archives.
//! Knows nothing of containers but the names of their writable layers, and nothing of networks or the API.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod archive;
pub mod changes;
mod commit;
pub mod config;
pub mod content;
mod decompress;
mod diff;
mod distribution;
mod document;
pub mod erofs;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod ingest;
mod intake;
pub mod layer;
mod lazy;
mod lease;
mod load;
pub mod moving;
pub mod pack;
mod publish;
mod pull;
mod push;
mod reconcile;
mod remove;
mod save;
pub mod snapshot;
mod store;
mod tars;
mod toc;
mod trash;
mod tree;
pub mod untar;

pub use archive::ImportOptions;
pub use commit::CommitOptions;
pub use config::ImageConfig;
pub use error::ImageError;
pub use lazy::{DescriptorKeeper, Waiting};
pub use load::{LoadProgress, Loaded, Platform};
pub use pull::{LayerStep, PullError, PullProgress, PullStep, Pulled, remote_platform};
pub use push::{PushError, PushProgress, PushStep, Pushed};
pub use remove::{Removal, RemoveOptions};
pub use save::Selection;
pub use store::{Image, ImageIndex, ImageStore, LayerRef};

#[cfg(test)]
mod tests;
