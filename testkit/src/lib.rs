//! What tests and benchmarks of several crates make alike: layers that can be pulled lazily, as registries have them. Not part
//! of the product, and it uses none of its crates.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod entry;
pub mod estargz;
mod pieces;
pub mod zstd_chunked;

use std::collections::BTreeMap;

pub use estargz::Estargz;
pub use zstd_chunked::ZstdChunked;

/// A layer as a registry has it.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// For its descriptor in a manifest.
    pub annotations: BTreeMap<String, String>,
    /// Its media type (OCI image-spec "layer.md").
    pub media_type: &'static str,
    /// What it decompresses to, which its diffID is the digest of. Of eStargz not the tar it was made of: the table of
    /// contents is in it.
    pub tar: Vec<u8>,
    /// The table of contents, as JSON.
    pub toc: Vec<u8>,
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}
