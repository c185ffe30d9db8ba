//! Images: a content store by verified digest, layers unpacked for a snapshot driver, and the use cases over archives.
//! Knows nothing of containers but the names of their writable layers, and nothing of networks or the API.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod archive;
pub mod config;
pub mod content;
mod decompress;
mod document;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod layer;
mod load;
pub mod pack;
mod remove;
mod save;
pub mod snapshot;
mod store;

pub use archive::ImportOptions;
pub use config::ImageConfig;
pub use error::ImageError;
pub use load::{LoadProgress, Loaded};
pub use remove::{Removal, RemoveOptions};
pub use store::{Image, ImageIndex, ImageStore, LayerRef};
