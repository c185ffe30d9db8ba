//! `docker export`: the root file system as one tar, without volumes.

use std::os::fd::AsFd;
use std::path::Path;

use dockerd_image::pack::{self, Source};
use tokio::sync::mpsc;

use super::ContainerService;
use super::copy::{PIECES, open_directory, stream};
use super::tree::{Scope, with_tree};
use crate::error::EngineError;
use crate::image::transfer::ByteReceiver;

impl ContainerService {
    /// A container's root file system. The body ends with an error where it cannot be read.
    pub async fn export(&self, name: &str) -> Result<ByteReceiver, EngineError> {
        let container = self.core.containers.find(name)?;
        let (sender, body) = mpsc::channel(PIECES);
        container.publish_event(&*self.core.events, "export", &[]);
        let core = self.core.clone();
        tokio::spawn(async move {
            let failures = sender.clone();
            let packed = with_tree(&core, &container, Scope::Root, move |root| {
                let root = open_directory(root, Path::new("/"));
                let root = root.map_err(|error| EngineError::io("open the root file system", error))?;
                stream(&sender, |out| pack::pack(root.as_fd(), Source::Below, out));
                Ok(())
            });
            if let Err(error) = packed.await {
                let _ = failures.send(Err(std::io::Error::other(error.to_string()))).await;
            }
        });
        Ok(body)
    }
}
