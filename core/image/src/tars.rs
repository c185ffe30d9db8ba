//! The plain tar of a layer, from wherever it is kept: as content of its own, or inside a compressed form that came from a
//! registry. At least one of them is there for every layer of an image; drivers that read the tar itself have it plain.

use std::fs::File;
use std::io::{self, Read};

use dockerd_types::Digest;

use crate::decompress;
use crate::distribution::LayerBlob;
use crate::error::ImageError;
use crate::store::ImageStore;

impl ImageStore {
    /// Whether the layer's tar can be had.
    pub(crate) fn has_tar(&self, diff_id: &Digest) -> bool {
        self.content().has(diff_id) || self.kept_blob(diff_id).is_some()
    }

    /// The compressed form of the layer that is kept here.
    pub(crate) fn kept_blob(&self, diff_id: &Digest) -> Option<LayerBlob> {
        let mut blobs = self.distribution().blobs(diff_id);
        blobs.retain(|blob| blob.digest != *diff_id && self.content().has(&blob.digest));
        blobs.pop()
    }

    /// Reads the tar, not checked again.
    pub(crate) fn open_tar(&self, diff_id: &Digest) -> Result<Box<dyn Read + Send>, ImageError> {
        if let Some(blob) = self.kept_blob(diff_id).filter(|_| !self.content().has(diff_id)) {
            return decompress::plain(self.content().get(&blob.digest)?);
        }
        Ok(Box::new(self.content().get(diff_id)?))
    }

    /// Bytes of the tar.
    pub(crate) fn tar_size(&self, diff_id: &Digest) -> Result<u64, ImageError> {
        let measure = |file: File| file.metadata().map(|meta| meta.len()).map_err(ImageError::io("measure layer"));
        if self.content().has(diff_id) {
            return measure(self.content().get(diff_id)?);
        }
        if let Some(size) = self.distribution().tar_size(diff_id) {
            return Ok(size);
        }
        io::copy(&mut self.open_tar(diff_id)?, &mut io::sink()).map_err(ImageError::io("measure layer"))
    }
}
