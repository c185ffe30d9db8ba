//! Objects: files of all layers, each content once, named by its fs-verity digest.
//!
//! ```text
//! composefs/objects/<xx>/<yyyy...>   content; xx is the digest's first byte
//! composefs/gone/...                 lists of objects of layers that were removed, until the objects are swept
//! composefs/boot                     boot id of the kernel under which objects were written last
//! composefs/verity                   there while every object is protected by fs-verity
//! ```
//! A layer has a list of its objects ([`list`](super::list)); an object is garbage when it is on no layer's list and no layer
//! that is being staged holds it. Nothing is counted, so nothing can be counted wrong: a sweep reads the lists. It looks only at
//! objects of layers that were removed, but at all of them when the daemon starts. One thread sweeps, and takes the
//! lock of the holds for each object it removes.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use composefs::fsverity::{FsVerityHashValue, Sha256HashValue};
use dockerd_sys::chores;
use dockerd_types::Digest;
use rustix::fs::RenameFlags;

use super::{intake, list, verity};
use crate::snapshot::boot_id;
use crate::snapshot::directory::{LayerDirectory, is_unsettled};
use crate::trash::{is_temporary, temporary_name};

/// Names an object.
pub(super) type ObjectId = Sha256HashValue;

/// The file in a layer's directory that lists its objects.
pub(super) const LIST: &str = "objects";
const BOOT: &str = "boot";
const PROTECTED: &str = "verity";

/// All objects of a data root.
#[derive(Debug)]
pub(super) struct Objects {
    shared: Arc<Shared>,
    chores: Sender<Chore>,
}

/// What the thread that sweeps shares with the others.
#[derive(Debug)]
struct Shared {
    /// The driver's directory.
    dir: PathBuf,
    /// Whether objects are protected.
    verity: bool,
    holds: Mutex<Holds>,
}

/// Objects that layers need which are not there yet.
#[derive(Debug, Default)]
struct Holds {
    /// By the staged layer's directory, which is under this name until the layer is committed or given up.
    staged: HashMap<PathBuf, HashSet<ObjectId>>,
    /// While this is so, what was held when it began stays held: the sweep may have read the lists before a layer came.
    sweeping: bool,
}

impl Holds {
    fn forget_ended(&mut self) {
        self.staged.retain(|directory, _| directory.exists());
    }

    fn has(&self, object: &ObjectId) -> bool {
        self.staged.values().any(|held| held.contains(object))
    }
}

#[derive(Debug)]
enum Chore {
    /// Look at all objects.
    SweepAll,
    /// Look at those of removed layers.
    SweepGone,
    /// Say that everything before is done.
    #[cfg(test)]
    Tell(Sender<()>),
}

impl Objects {
    /// Opens or makes them in the driver's directory `dir`; with `verity`, all are protected afterwards.
    pub(super) fn open(dir: &Path, verity: bool) -> io::Result<Self> {
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o710);
        make.create(dir.join("gone"))?;
        // In this order: where there is the last one, there are all.
        if !dir.join("objects/ff").exists() {
            (0..=u8::MAX).try_for_each(|byte| make.create(dir.join(format!("objects/{byte:02x}"))))?;
        }
        let shared = Arc::new(Shared { dir: dir.to_owned(), verity, holds: Mutex::default() });
        let worker = Arc::clone(&shared);
        let chores = chores::start("objects", move |batch| worker.work(&batch))?;
        if fs::read_to_string(dir.join(BOOT)).is_ok_and(|boot| boot == boot_id()) {
            // The thread lives as long as this.
            let _ = chores.send(Chore::SweepAll);
        } else {
            // Power may have gone. What layers find that are made anew must not be torn.
            shared.remove_torn()?;
            shared.sweep_all()?;
            fs::write(dir.join(BOOT), boot_id())?;
        }
        shared.protect_all()?;
        Ok(Self { shared, chores })
    }

    /// The directory to be a data-only layer.
    pub(super) fn directory(&self) -> PathBuf {
        self.shared.objects()
    }

    /// Begins to hold objects for the layer that is staged in `directory`, which is there.
    pub(super) fn begin(&self, directory: &Path) {
        let mut holds = self.shared.holds();
        if !holds.sweeping {
            holds.forget_ended();
        }
        holds.staged.insert(directory.to_owned(), HashSet::new());
    }

    /// Has the object `id` for the layer staged in `directory`: what is not there yet, `write` writes to the path it is given.
    pub(super) fn provide(
        &self,
        directory: &Path,
        id: &ObjectId,
        write: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let fresh = self.shared.holds().staged.entry(directory.to_owned()).or_default().insert(id.clone());
        let path = self.shared.objects().join(id.to_object_pathname());
        // What is not fresh another thread of the same layer has seen to. What is held is not swept any more.
        if !fresh || path.exists() {
            return Ok(());
        }
        let temporary = directory.join(temporary_name());
        write(&temporary)?;
        if self.shared.verity {
            verity::protect(&temporary, Some(id))?;
        }
        let here = rustix::fs::CWD;
        match rustix::fs::renameat_with(here, &temporary, here, &path, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => fs::remove_file(&temporary),
            renamed => Ok(renamed?),
        }
    }

    /// Notes the objects of layer `chain`, which is about to be removed.
    pub(super) fn forget(&self, chain: &Digest) -> io::Result<()> {
        let list = self.shared.layers().join(chain.hex()).join(LIST);
        match fs::hard_link(list, self.shared.gone().join(temporary_name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Has the objects of removed layers swept.
    pub(super) fn removed(&self) {
        // The thread lives as long as this.
        let _ = self.chores.send(Chore::SweepGone);
    }

    /// Waits until everything that was to be swept is.
    #[cfg(test)]
    pub(super) fn wait(&self) {
        let (done, told) = std::sync::mpsc::channel();
        self.chores.send(Chore::Tell(done)).expect("the thread lives");
        told.recv_timeout(std::time::Duration::from_secs(60)).expect("swept");
    }
}

impl Shared {
    fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    fn gone(&self) -> PathBuf {
        self.dir.join("gone")
    }

    fn layers(&self) -> PathBuf {
        self.dir.join(LayerDirectory::NAME)
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, batch: &[Chore]) {
        let all = batch.iter().any(|chore| matches!(chore, Chore::SweepAll));
        let some = batch.iter().any(|chore| matches!(chore, Chore::SweepGone));
        let swept = match (all, some) {
            (true, _) => self.sweep_all(),
            (false, true) => self.sweep_gone(),
            (false, false) => Ok(()),
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "objects could not be swept");
        }
        #[cfg(test)]
        for chore in batch {
            if let Chore::Tell(done) = chore {
                let _ = done.send(());
            }
        }
    }

    fn sweep_gone(&self) -> io::Result<()> {
        let lists = paths(&self.gone())?;
        self.sweep(|candidates| {
            for list in &lists {
                candidates.extend(list::read(list)?.into_iter().map(|record| record.id));
            }
            Ok(())
        })?;
        lists.iter().try_for_each(|list| remove(list))
    }

    fn sweep_all(&self) -> io::Result<()> {
        let lists = paths(&self.gone())?;
        self.sweep(|candidates| {
            self.for_each(|object, _| {
                candidates.insert(object);
                Ok(())
            })
        })?;
        lists.iter().try_for_each(|list| remove(list))
    }

    /// Removes those of the objects that `gather` adds which are garbage.
    fn sweep(&self, gather: impl FnOnce(&mut HashSet<ObjectId>) -> io::Result<()>) -> io::Result<()> {
        let mut holds = self.holds();
        holds.forget_ended();
        holds.sweeping = true;
        drop(holds);
        let mut candidates = HashSet::new();
        let swept = gather(&mut candidates).and_then(|()| self.spare_live(&mut candidates)).and_then(|()| {
            candidates.iter().try_for_each(|object| {
                let holds = self.holds();
                if holds.has(object) {
                    return Ok(());
                }
                remove(&self.objects().join(object.to_object_pathname()))
            })
        });
        self.holds().sweeping = false;
        swept
    }

    /// Takes the objects of all layers out of `candidates`.
    fn spare_live(&self, candidates: &mut HashSet<ObjectId>) -> io::Result<()> {
        for layer in self.named_layers()? {
            match list::read(&layer.join(LIST)) {
                Ok(records) => records.iter().for_each(|record| _ = candidates.remove(&record.id)),
                // It was removed just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Torn with its layer, which is made anew.
                Err(_) if may_be_torn(&layer) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes objects that did not reach the disk before the kernel went down: those of layers that did not settle are read.
    fn remove_torn(&self) -> io::Result<()> {
        for layer in self.named_layers()?.into_iter().filter(|layer| may_be_torn(layer)) {
            for record in list::read(&layer.join(LIST)).unwrap_or_default() {
                let path = self.objects().join(record.id.to_object_pathname());
                if path.exists() && !intake::is_whole(&path, &record) {
                    tracing::warn!(object = path.display().to_string(), "an object was lost with the power");
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }

    /// Directories of all layers that are not being staged.
    fn named_layers(&self) -> io::Result<Vec<PathBuf>> {
        let mut layers = paths(&self.layers())?;
        layers.retain(|path| path.file_name().is_some_and(|name| !is_temporary(&name.to_string_lossy())));
        Ok(layers)
    }

    /// Calls `what` with every object there is and its path.
    fn for_each(&self, mut what: impl FnMut(ObjectId, &Path) -> io::Result<()>) -> io::Result<()> {
        for directory in paths(&self.objects())? {
            for path in paths(&directory)? {
                // What has another name was not put here by this daemon.
                if let Ok(object) = ObjectId::from_object_pathname(path.as_os_str().as_encoded_bytes()) {
                    what(object, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Protects what was written without protection.
    fn protect_all(&self) -> io::Result<()> {
        let mark = self.dir.join(PROTECTED);
        if !self.verity {
            return remove(&mark);
        }
        if mark.exists() {
            return Ok(());
        }
        self.for_each(|object, path| {
            if let Err(error) = verity::protect(path, Some(&object)) {
                // Whoever reads it is refused, as it should be.
                tracing::error!(object = path.display().to_string(), %error, "an object cannot be protected");
            }
            Ok(())
        })?;
        fs::write(mark, b"")
    }
}

/// Removes a file; one that is not there is fine.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a layer did not settle before the kernel went down.
fn may_be_torn(layer: &Path) -> bool {
    is_unsettled(layer).is_some_and(|this_boot| !this_boot)
}

/// What is in a directory; nothing where there is none.
fn paths(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
