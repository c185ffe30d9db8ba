//! `docker system df`: what images, containers and volumes take on disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use dockerd_image::snapshot::Sharing;
use dockerd_types::{Digest, Filters};

use crate::container::ListOptions;
use crate::container::list::ContainerSummary;
use crate::error::EngineError;
use crate::image::list::ImageSummary;
use crate::open::Services;
use crate::volumes::Volume;

/// Which kinds are asked for.
#[derive(Debug, Clone, Copy)]
pub struct DiskUsageOptions {
    /// Images.
    pub images: bool,
    /// Containers.
    pub containers: bool,
    /// Volumes.
    pub volumes: bool,
}

/// What there is; kinds not asked for are `None`.
#[derive(Debug, Default)]
pub struct DiskUsage {
    /// Bytes that all layers of images take, each counted once, and files that layers share counted once as well.
    pub layers: u64,
    /// Images, and how many bytes each shares with others.
    pub images: Option<Vec<(ImageSummary, u64)>>,
    /// Containers with their sizes.
    pub containers: Option<Vec<ContainerSummary>>,
    /// Volumes.
    pub volumes: Option<Vec<VolumeUsage>>,
}

/// One volume.
#[derive(Debug)]
pub struct VolumeUsage {
    /// The volume.
    pub volume: Arc<Volume>,
    /// Containers that use it.
    pub users: usize,
    /// Bytes in it.
    pub size: u64,
}

impl Services {
    /// Adds up what is asked for.
    pub async fn disk_usage(&self, options: DiskUsageOptions) -> Result<DiskUsage, EngineError> {
        let mut usage = DiskUsage::default();
        if options.images {
            let images = self.images.list(&Filters::default(), crate::image::list::ListOptions::default())?;
            let all = layers(&images);
            let sharing = self.sharing(&images).await?;
            let files: u64 = all.values().map(|(size, _)| size).sum();
            usage.layers = files.saturating_sub(sharing.saved);
            let is_shared = |chain: &Digest| all.get(chain).is_some_and(|(_, users)| *users > 1);
            let with_share = |(summary, in_files): (ImageSummary, u64)| {
                let shared = summary.image.layers.iter().filter(|layer| is_shared(&layer.chain_id));
                let bytes: u64 = shared.map(|layer| layer.size).sum();
                (summary, bytes + in_files)
            };
            let in_files = sharing.shared.into_iter().chain(std::iter::repeat(0));
            usage.images = Some(images.into_iter().zip(in_files).map(with_share).collect());
        }
        if options.containers {
            let options = ListOptions { all: true, size: true, ..ListOptions::default() };
            usage.containers = Some(self.containers.list(options).await?);
        }
        if options.volumes {
            let volumes = self.volumes.clone();
            usage.volumes = Some(crate::image::blocking(move || volumes.usage()).await?);
        }
        Ok(usage)
    }

    /// What `images` share beyond whole layers.
    async fn sharing(&self, images: &[ImageSummary]) -> Result<Sharing, EngineError> {
        let chains = |summary: &ImageSummary| summary.image.layers.iter().map(|layer| layer.chain_id.clone()).collect();
        let images: Vec<Vec<Digest>> = images.iter().map(chains).collect();
        let driver = self.images.store.snapshots().clone();
        crate::image::blocking(move || driver.sharing(&images)).await
    }
}

/// Every layer once: its size and how many images have it.
fn layers(images: &[ImageSummary]) -> HashMap<Digest, (u64, usize)> {
    let mut out: HashMap<Digest, (u64, usize)> = HashMap::new();
    for image in images {
        let mut seen = BTreeSet::new();
        for layer in image.image.layers.iter().filter(|layer| seen.insert(layer.chain_id.to_string())) {
            out.entry(layer.chain_id.clone()).or_insert((layer.size, 0)).1 += 1;
        }
    }
    out
}
