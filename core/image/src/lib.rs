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
mod document;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod intake;
pub mod layer;
mod lease;
mod load;
pub mod moving;
pub mod pack;
mod publish;
mod reconcile;
mod remove;
mod save;
pub mod snapshot;
mod store;
mod trash;
mod tree;
pub mod untar;

pub use archive::ImportOptions;
pub use commit::CommitOptions;
pub use config::ImageConfig;
pub use error::ImageError;
pub use load::{LoadProgress, Loaded, Platform};
pub use remove::{Removal, RemoveOptions};
pub use save::Selection;
pub use store::{Image, ImageIndex, ImageStore, LayerRef};

#[cfg(test)]
mod tests;
