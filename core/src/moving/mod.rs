//! Moving in: images, volumes and stopped containers of a stock daemon's data root are taken over into ours, before a
//! daemon runs on it. The old root is only read; what it says is checked as what a client says is. Every thing is taken
//! over as a whole or not at all, one after the other, so that a run that was interrupted goes on where it ended; what is
//! there already stays as it is.

mod containers;
mod document;
mod networks;
mod volumes;

use std::path::{Path, PathBuf};

use dockerd_image::moving::{MovingError, OldRoot, StockImage, StockImages};
use dockerd_image::{ImageError, ImageStore};
use dockerd_store::{Layout, LockError, RootLock};
use dockerd_types::Digest;
use dockerd_types::container::CreateContainer;

use crate::config::EngineConfig;

/// Reads a container's description in the API's JSON.
pub type Describe<'a> = &'a dyn Fn(&[u8]) -> Result<CreateContainer, String>;

/// What to take over.
#[derive(Debug, Clone)]
pub struct MoveOptions {
    /// The stock daemon's data root, `/var/lib/docker`.
    pub from: PathBuf,
    /// Containerd's root, where the daemon did not start its own (`/var/lib/containerd`).
    pub containerd: Option<PathBuf>,
    /// Look only.
    pub dry_run: bool,
}

/// Why nothing can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The old root cannot be read.
    #[error("cannot open {}: {source}", .path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No stock daemon ever ran there.
    #[error("{} is not the data root of a Docker daemon", .0.display())]
    NotDocker(PathBuf),
    /// One root is the other, or in it.
    #[error(
        "{} and {} must not contain each other: move the old root away first, or choose another --data-root",
        .from.display(), .to.display()
    )]
    SameRoot {
        /// The old one.
        from: PathBuf,
        /// Ours.
        to: PathBuf,
    },
    /// The old root is in use, or its databases cannot be read.
    #[error(transparent)]
    Old(#[from] MovingError),
    /// Our root is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Our image store cannot be opened.
    #[error(transparent)]
    Store(#[from] ImageError),
    /// Our root cannot be made.
    #[error("cannot make {}: {source}", .path.display())]
    Make {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What became of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is here now.
    Taken,
    /// It would be taken over.
    WouldBe,
    /// It was here already.
    Present,
    /// It is not taken over; why.
    Refused(String),
    /// It is taken over, with something to know.
    Note(String),
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `image`, `volume`, `container` or `network`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: ", self.kind, self.name)?;
        match &self.outcome {
            Outcome::Taken => f.write_str("taken over"),
            Outcome::WouldBe => f.write_str("would be taken over"),
            Outcome::Present => f.write_str("already there"),
            Outcome::Refused(why) => write!(f, "not taken over: {why}"),
            Outcome::Note(note) => write!(f, "note: {note}"),
        }
    }
}

/// How many things were taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Are here now, or would be.
    pub taken: usize,
    /// Were here already.
    pub present: usize,
    /// Are not taken over.
    pub refused: usize,
}

/// Where the report goes, counted.
struct Report<'a> {
    out: &'a mut dyn FnMut(Line),
    summary: Summary,
}

impl Report<'_> {
    fn line(&mut self, kind: &'static str, name: &str, outcome: Outcome) {
        match &outcome {
            Outcome::Taken | Outcome::WouldBe => self.summary.taken += 1,
            Outcome::Present => self.summary.present += 1,
            Outcome::Refused(_) => self.summary.refused += 1,
            Outcome::Note(_) => {}
        }
        (self.out)(Line { kind, name: name.to_owned(), outcome });
    }

    /// Of a thing that may have failed.
    fn result(&mut self, kind: &'static str, name: &str, result: Result<Outcome, String>) {
        self.line(kind, name, result.unwrap_or_else(Outcome::Refused));
    }
}

/// Our side.
struct Target<'a> {
    config: &'a EngineConfig,
    layout: Layout,
    /// `None` in a dry run.
    store: Option<ImageStore>,
    _lock: Option<RootLock>,
}

/// Takes over what it can, telling `report` of every thing. Blocking; nobody else may use either root.
pub fn import(
    config: &EngineConfig,
    options: &MoveOptions,
    describe: Describe<'_>,
    report: &mut dyn FnMut(Line),
) -> Result<Summary, MoveError> {
    let MoveOptions { from, containerd, dry_run } = options;
    let open = |source| MoveError::Open { path: from.clone(), source };
    check_apart(from, &config.data_root)?;
    let old = OldRoot::open(from).map_err(open)?;
    if !["image", "containers", "containerd", "volumes"].iter().any(|name| old.has(name)) {
        return Err(MoveError::NotDocker(from.clone()));
    }
    // Their locks are held to the end, so that the old daemon does not start meanwhile.
    let images = StockImages::open(&old, containerd.as_deref())?;
    let volumes = volumes::Volumes::open(&old)?;
    let networks = networks::Networks::open(&old)?;
    let target = Target::open(config, *dry_run)?;
    let mut report = Report { out: report, summary: Summary::default() };
    import_images(&images, &target, &mut report);
    volumes.import(&target, &mut report);
    networks.report(&mut report);
    containers::import(&old, &images, &target, describe, &mut report);
    Ok(report.summary)
}

impl<'a> Target<'a> {
    fn open(config: &'a EngineConfig, dry_run: bool) -> Result<Self, MoveError> {
        let layout = Layout::new(&config.data_root, &config.exec_root);
        if dry_run {
            return Ok(Self { config, layout, store: None, _lock: None });
        }
        let path = layout.data_root().to_owned();
        layout.create_data().map_err(|source| MoveError::Make { path, source })?;
        let lock = RootLock::take(&layout.lock_file())?;
        let store = ImageStore::open(&layout, config.storage_driver.as_deref())?;
        Ok(Self { config, layout, store: Some(store), _lock: Some(lock) })
    }
}

/// Neither root may be the other or lie in it: their directories have the same names.
fn check_apart(from: &Path, to: &Path) -> Result<(), MoveError> {
    let real = |path: &Path| std::fs::canonicalize(path);
    let old = real(from).map_err(|source| MoveError::Open { path: from.to_owned(), source })?;
    // What of ours is not there yet cannot be a link.
    let there = to.ancestors().find_map(|path| Some((path, real(path).ok()?)));
    let (there, new) = there.unwrap_or_else(|| (to, to.to_owned()));
    let new = to.strip_prefix(there).map_or_else(|_| new.clone(), |rest| new.join(rest));
    if old.starts_with(&new) || new.starts_with(&old) {
        return Err(MoveError::SameRoot { from: from.to_owned(), to: to.to_owned() });
    }
    Ok(())
}

fn import_images(images: &StockImages<'_>, target: &Target<'_>, report: &mut Report<'_>) {
    if images.is_empty() {
        let note = "no store of images is here; where the daemon used a containerd that it had not started, usually in \
                    /var/lib/containerd, name its root with --containerd-root";
        report.line("image", "list", Outcome::Note(note.to_owned()));
    }
    let (list, errors) = images.list();
    for error in errors {
        report.line("image", "list", Outcome::Refused(error.to_string()));
    }
    for image in &list {
        let name = image_name(image);
        let result = match &target.store {
            None => images.check(image).map(|_| (Outcome::WouldBe, Vec::new())),
            Some(store) => images
                .take(image, store)
                .map(|moved| (if moved.is_new { Outcome::Taken } else { Outcome::Present }, moved.taken)),
        };
        let (outcome, taken) = match result {
            Ok((outcome, taken)) => (Ok(outcome), taken),
            Err(error) => (Err(error.to_string()), Vec::new()),
        };
        report.result("image", &name, outcome);
        for reference in taken {
            let why = format!("the name is another image's here; the image is known as {}", short(&image.id));
            report.line("image", &reference.familiar(), Outcome::Refused(why));
        }
    }
}

/// How a report calls it.
fn image_name(image: &StockImage) -> String {
    let names: Vec<String> = image.names.iter().map(dockerd_types::Reference::familiar).collect();
    if names.is_empty() { short(&image.id) } else { format!("{} ({})", names.join(", "), short(&image.id)) }
}

fn short(id: &Digest) -> String {
    id.short().to_owned()
}

#[cfg(test)]
mod tests;
