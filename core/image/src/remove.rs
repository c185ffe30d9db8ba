//! `docker rmi`: untag or delete by Docker's rules, and give back layers and content nobody needs.

use std::collections::HashSet;

use dockerd_types::{Digest, Reference};

use crate::error::ImageError;
use crate::store::{Image, ImageStore};

/// How to remove.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Remove names of an image with several, and an image stopped containers use.
    pub force: bool,
}

/// One thing that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A name, in its familiar form.
    Untagged(String),
    /// An image or a layer.
    Deleted(Digest),
}

impl ImageStore {
    /// Removes what `text` names. `running` tells whether a container that holds the image runs.
    pub fn remove(
        &self,
        text: &str,
        options: RemoveOptions,
        running: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Removal>, ImageError> {
        let image = self.resolve(text)?;
        let _changes = self.lock();
        let by_id = is_id_of(text, &image);
        let named = if by_id { None } else { Reference::parse(text).ok().map(Reference::with_default_tag) };
        let names: Vec<Reference> = match &named {
            Some(reference) => image.references.iter().filter(|known| *known == reference).cloned().collect(),
            None => image.references.clone(),
        };
        let last = names.len() == image.references.len();
        if by_id && !options.force && repositories(&image) > 1 {
            return Err(conflict(&image, "be forced", "image is referenced in multiple repositories"));
        }
        if last {
            self.check_unused(&image, text, options, running)?;
        }
        let mut out: Vec<Removal> = names.iter().map(|name| Removal::Untagged(name.familiar())).collect();
        let in_use = !self.holders(&image.id).is_empty();
        let delete = last && !in_use;
        let index = self.index();
        let mut references = index.references.clone();
        references.retain(|name, _| !names.contains(name));
        self.write_references(&references)?;
        let mut images = index.images.clone();
        if delete {
            images.remove(&image.id);
            if let Err(source) = std::fs::remove_file(self.document_path(&image.id)) {
                return Err(ImageError::Io { action: "remove image document".to_owned(), source });
            }
        }
        self.publish(images, references);
        if delete {
            self.give_back(&image, &mut out)?;
        }
        Ok(out)
    }

    fn check_unused(
        &self,
        image: &Image,
        text: &str,
        options: RemoveOptions,
        running: &dyn Fn(&str) -> bool,
    ) -> Result<(), ImageError> {
        let holders = self.holders(&image.id);
        let by_name = !is_id_of(text, image);
        let what = if by_name {
            format!("unable to remove repository reference {text:?}")
        } else {
            format!("unable to delete {}", image.id.short())
        };
        if let Some(owner) = holders.iter().find(|owner| running(owner)) {
            let owner = owner.get(..12).unwrap_or(owner);
            if by_name && options.force {
                return Ok(());
            }
            let must = if by_name { "must force" } else { "cannot be forced" };
            let text = if by_name {
                format!("{what} ({must}) - container {owner} is using its referenced image {}", image.id.short())
            } else {
                format!("{what} ({must}) - image is being used by running container {owner}")
            };
            return Err(ImageError::Conflict(text));
        }
        if let (Some(owner), false) = (holders.first(), options.force) {
            let owner = owner.get(..12).unwrap_or(owner);
            let using = if by_name {
                format!("container {owner} is using its referenced image {}", image.id.short())
            } else {
                format!("image is being used by stopped container {owner}")
            };
            return Err(ImageError::Conflict(format!(
                "{what} (must {}) - {using}",
                if by_name { "force" } else { "be forced" }
            )));
        }
        Ok(())
    }

    /// Removes the layers and the content only `image` had, topmost first.
    fn give_back(&self, image: &Image, out: &mut Vec<Removal>) -> Result<(), ImageError> {
        out.push(Removal::Deleted(image.id.clone()));
        let index = self.index();
        let others = || index.images.values().flat_map(|image| &image.layers);
        let chains: HashSet<&Digest> = others().map(|layer| &layer.chain_id).collect();
        let diffs: HashSet<&Digest> = others().map(|layer| &layer.diff_id).collect();
        for layer in image.layers.iter().rev().filter(|layer| !chains.contains(&layer.chain_id)) {
            self.snapshots().remove_layer(&layer.chain_id)?;
            out.push(Removal::Deleted(layer.chain_id.clone()));
        }
        for layer in image.layers.iter().filter(|layer| !diffs.contains(&layer.diff_id)) {
            self.content().remove(&layer.diff_id);
        }
        self.content().remove(&image.id);
        Ok(())
    }
}

fn is_id_of(text: &str, image: &Image) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let named = Reference::parse(text).is_ok_and(|r| image.references.contains(&r.with_default_tag()));
    !named && image.id.hex().starts_with(hex)
}

fn repositories(image: &Image) -> usize {
    image.references.iter().map(Reference::familiar_name).collect::<HashSet<_>>().len()
}

fn conflict(image: &Image, must: &str, why: &str) -> ImageError {
    ImageError::Conflict(format!("unable to delete {} (must {must}) - {why}", image.id.short()))
}
