//! `docker rmi`: untag or delete by Docker's rules, and give back layers and content nobody needs. What is deleted goes to
//! the trash, so the answer does not wait for it; what a running load or a container needs stays.

use std::collections::HashSet;

use dockerd_types::{Digest, Reference};

use crate::error::ImageError;
use crate::store::{Image, ImageStore};

/// How to remove.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Remove names of an image with several, and an image stopped containers use.
    pub force: bool,
    /// Leave parents without a name alone.
    pub no_prune: bool,
}

/// One thing that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A name, in its familiar form, of an image.
    Untagged(String, Digest),
    /// A name by digest that went with the last tag of its repository.
    WithTag(String, Digest),
    /// An image.
    Deleted(Digest),
    /// A layer, by its chainID.
    Layer(Digest),
}

/// Why an image cannot go, in Docker's order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Conflict {
    Children,
    Running(String),
    References,
    Stopped(String),
}

/// Which conflicts count.
#[derive(Debug, Clone, Copy)]
struct Checks {
    references: bool,
    stopped: bool,
}

impl Conflict {
    fn is_use(&self) -> bool {
        matches!(self, Self::Running(_) | Self::Stopped(_))
    }

    fn error(&self, image: &Digest) -> ImageError {
        let short = |id: &str| id.get(..12).unwrap_or(id).to_owned();
        let (force, why) = match self {
            Self::Children => ("cannot be forced", "image has dependent child images".to_owned()),
            Self::Running(owner) => {
                ("cannot be forced", format!("image is being used by running container {}", short(owner)))
            }
            Self::References => ("must be forced", "image is referenced in multiple repositories".to_owned()),
            Self::Stopped(owner) => {
                ("must be forced", format!("image is being used by stopped container {}", short(owner)))
            }
        };
        ImageError::Conflict(format!("unable to delete {} ({force}) - {why}", image.short()))
    }
}

impl ImageStore {
    /// Removes what `text` names. `running` tells whether a container that holds the image runs.
    pub fn remove(
        &self,
        text: &str,
        options: RemoveOptions,
        running: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Removal>, ImageError> {
        let _changes = self.lock();
        let image = self.resolve(text)?;
        let mut out = Vec::new();
        let single = is_single(&image.references);
        let mut quiet = false;
        if is_id_of(text, &image) {
            if single {
                // Without force a stopped container's use counts; the one name does not.
                let checks = Checks { references: false, stopped: !options.force };
                if let Some(conflict) = self.conflict(&image, checks, running) {
                    return Err(conflict.error(&image.id));
                }
                self.untag(&image, &image.references, &mut out)?;
            }
        } else {
            if !options.force
                && single
                && let Some(owner) = self.holders(&image.id).first()
            {
                let owner = owner.get(..12).unwrap_or(owner);
                return Err(ImageError::Conflict(format!(
                    "unable to remove repository reference {text:?} (must force) - container {owner} is using its \
                     referenced image {}",
                    image.id.short()
                )));
            }
            let reference = Reference::parse(text)?.with_default_tag();
            self.untag(&image, &named_by(&reference, &image.references), &mut out)?;
            if self.index().images.get(&image.id).is_some_and(|image| !image.references.is_empty()) {
                return Ok(out);
            }
            quiet = true;
        }
        self.delete(&image.id, options.force, !options.no_prune, quiet, running, &mut out)?;
        Ok(out)
    }

    fn conflict(&self, image: &Image, checks: Checks, running: &dyn Fn(&str) -> bool) -> Option<Conflict> {
        let index = self.index();
        if index.images.values().any(|other| other.parent.as_ref() == Some(&image.id)) {
            return Some(Conflict::Children);
        }
        let holders = self.holders(&image.id);
        if let Some(owner) = holders.iter().find(|owner| running(owner)) {
            return Some(Conflict::Running(owner.clone()));
        }
        let named = index.images.get(&image.id).is_some_and(|image| !image.references.is_empty());
        if checks.references && named {
            return Some(Conflict::References);
        }
        holders.first().filter(|_| checks.stopped).map(|owner| Conflict::Stopped(owner.clone()))
    }

    fn untag(&self, image: &Image, names: &[Reference], out: &mut Vec<Removal>) -> Result<(), ImageError> {
        if names.is_empty() {
            return Ok(());
        }
        let index = self.index();
        let mut references = index.references.clone();
        references.retain(|name, _| !names.contains(name));
        self.write_references(&references)?;
        self.publish(index.images.clone(), references);
        let is_tag = |name: &Reference| name.digest().is_none();
        let led_by_tag = names.first().is_some_and(is_tag);
        out.extend(names.iter().map(|name| {
            let removal = if led_by_tag && !is_tag(name) { Removal::WithTag } else { Removal::Untagged };
            removal(name.familiar(), image.id.clone())
        }));
        Ok(())
    }

    /// Deletes the image unless something is in the way, then, with `prune`, its parents that nobody names or uses. With
    /// `quiet` an image that is in use just stays.
    fn delete(
        &self,
        id: &Digest,
        force: bool,
        prune: bool,
        quiet: bool,
        running: &dyn Fn(&str) -> bool,
        out: &mut Vec<Removal>,
    ) -> Result<(), ImageError> {
        let (mut next, mut force, mut quiet) = (Some(id.clone()), force, quiet);
        while let Some(id) = next {
            let Some(image) = self.index().images.get(&id).cloned() else { return Ok(()) };
            let checks = Checks { references: !force, stopped: !force };
            if let Some(conflict) = self.conflict(&image, checks, running) {
                let dangling = image.references.is_empty() && conflict != Conflict::Children;
                return if quiet && (!dangling || conflict.is_use()) { Ok(()) } else { Err(conflict.error(&id)) };
            }
            self.untag(&image, &image.references, out)?;
            self.forget(&image, out)?;
            next = image.parent.clone().filter(|_| prune);
            (force, quiet) = (false, true);
        }
        Ok(())
    }

    /// Takes the image out of the index, and away what only it had, topmost first.
    fn forget(&self, image: &Image, out: &mut Vec<Removal>) -> Result<(), ImageError> {
        let index = self.index();
        let mut images = index.images.clone();
        images.remove(&image.id);
        match std::fs::remove_file(self.document_path(&image.id)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(ImageError::Io { action: "remove image document".to_owned(), source });
            }
            _ => {}
        }
        self.publish(images, index.references.clone());
        out.push(Removal::Deleted(image.id.clone()));
        let in_use = self.layers_in_use();
        for layer in image.layers.iter().rev() {
            if !in_use.contains(&layer.chain_id) && !self.leases().covers(&layer.chain_id) {
                self.snapshots().remove_layer(&layer.chain_id)?;
                out.push(Removal::Layer(layer.chain_id.clone()));
            }
        }
        let kept = self.content_in_use();
        for digest in self.content_of(image).filter(|digest| !kept.contains(digest)) {
            self.drop_content(&digest);
        }
        Ok(())
    }

    /// Content that is there for `image`: its configuration, its manifests, its layers' tars and their compressed forms.
    fn content_of<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = Digest> + 'a {
        let layers = image.layers.iter().map(|layer| &layer.diff_id);
        let compressed = |diff_id| self.distribution().blobs(diff_id).into_iter().map(|blob| blob.digest);
        // Compressed forms first: who they belong to is forgotten with the layer.
        let blobs = layers.clone().flat_map(compressed);
        let manifests = image.manifests.iter().map(|manifest| manifest.digest.clone());
        blobs.chain(manifests).chain(layers.cloned()).chain([image.id.clone()])
    }

    /// Content some image needs.
    pub(crate) fn content_in_use(&self) -> HashSet<Digest> {
        let index = self.index();
        index.images.values().flat_map(|image| self.content_of(image).collect::<Vec<_>>()).collect()
    }

    /// Removes a blob unless a lease covers it, and with a layer's what is known of it in registries.
    fn drop_content(&self, digest: &Digest) {
        if self.leases().covers(digest) {
            return;
        }
        self.distribution().forget(digest);
        if self.content().has(digest) {
            self.content().remove(digest);
        }
    }

    /// Removes those layers and blobs among `candidates` that nobody needs.
    pub(crate) fn collect(&self, candidates: HashSet<Digest>) {
        if candidates.is_empty() {
            return;
        }
        let _changes = self.lock();
        let (chains, content) = (self.layers_in_use(), self.content_in_use());
        for digest in candidates.iter().filter(|digest| !self.leases().covers(digest)) {
            if !chains.contains(digest)
                && self.snapshots().has_layer(digest)
                && let Err(error) = self.snapshots().remove_layer(digest)
            {
                tracing::warn!(layer = %digest, %error, "layer could not be removed");
            }
            if !content.contains(digest) {
                self.drop_content(digest);
            }
        }
    }

    /// Takes a snapshot away, and layers it was the last to need.
    pub fn remove_snapshot(&self, key: &str) -> Result<(), ImageError> {
        let driver = self.snapshots_of(key);
        let chain = driver.snapshot_chain(key);
        driver.remove(key)?;
        let Some(chain) = chain else { return Ok(()) };
        let known = self.index().images.values().any(|image| image.layers.iter().any(|l| l.chain_id == chain));
        if driver.name() != self.snapshots().name() {
            self.sweep_former(driver);
        } else if !known {
            self.collect(driver.ancestry(&chain).into_iter().collect());
        }
        Ok(())
    }
}

/// Whether all names are of one repository, with one tag at most, so that removing them is what is meant by removing the
/// image.
fn is_single(references: &[Reference]) -> bool {
    let Some(first) = references.first() else { return false };
    let repository = first.familiar_name();
    references.iter().all(|reference| reference.familiar_name() == repository)
        && references.iter().filter(|reference| reference.digest().is_none()).count() <= 1
}

/// The names among `references` that go with `name`: it, and with the last tag of a repository its digests.
fn named_by(name: &Reference, references: &[Reference]) -> Vec<Reference> {
    if let Some(digest) = name.digest() {
        return vec![name.with_digest(digest.clone())];
    }
    let mut out = vec![name.clone()];
    let siblings = || references.iter().filter(|other| *other != name && other.familiar_name() == name.familiar_name());
    if siblings().all(|other| other.digest().is_some()) {
        out.extend(siblings().cloned());
    }
    out
}

/// Whether `text` is a beginning of the image's id, which goes before a name that looks like one.
fn is_id_of(text: &str, image: &Image) -> bool {
    image.id.as_str().starts_with(text) || image.id.hex().starts_with(text)
}
