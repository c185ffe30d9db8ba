//! What every driver must do, run by each of them; needs root. `suite!` at the end names the drivers: a new one is added there.
//! [`model`] has random stacks of layers, [`faults`] what goes wrong on the way.

mod faults;
mod layers;
mod model;
mod snapshots;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dockerd_types::Digest;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::{Change, ChangeKind, LayerTar, SnapshotDriver, Staged, drivers};
use crate::erofs::tests::seen::{self, View};
use crate::error::ImageError;
use crate::store::chain_id;
use crate::trash::Trash;

/// A driver on a directory of the test's own.
struct Bed {
    name: &'static str,
    place: Place,
    trash: Trash,
    driver: Arc<dyn SnapshotDriver>,
}

/// Where it is.
enum Place {
    Directory(tempfile::TempDir),
    /// A file system of a few megabytes.
    Small(SmallFileSystem),
}

/// A tmpfs, unmounted when dropped.
struct SmallFileSystem(tempfile::TempDir);

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Directory(dir) | Self::Small(SmallFileSystem(dir)) => dir.path(),
        }
    }
}

impl SmallFileSystem {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let tree = dockerd_sys::mount::file_system("tmpfs", &["size=4m".to_owned()], 0).expect("made");
        dockerd_sys::mount::attach_at(tree, dir.path()).expect("mounted");
        Self(dir)
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Nothing may hold it: no mount of a snapshot, no file of a layer.
        let path = std::ffi::CString::new(self.0.path().as_os_str().as_bytes()).expect("a path");
        let begun = Instant::now();
        while let Err(error) = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::NOFOLLOW) {
            let busy = error == rustix::io::Errno::BUSY && begun.elapsed() < Duration::from_secs(30);
            assert!(busy || std::thread::panicking(), "something was left on the file system: {error}");
            if !busy {
                break;
            }
            std::thread::yield_now();
        }
    }
}

impl Bed {
    /// `None` where this kernel cannot have that driver.
    fn new(name: &'static str) -> Option<Self> {
        Self::at(name, Place::Directory(tempfile::tempdir().expect("temporary directory")))
    }

    fn small(name: &'static str) -> Option<Self> {
        Self::at(name, Place::Small(SmallFileSystem::new()))
    }

    fn at(name: &'static str, place: Place) -> Option<Self> {
        for part in ["trash", "content", "probe"] {
            fs::create_dir(place.path().join(part)).expect("made");
        }
        drivers::probe_named(name, &place.path().join("probe")).ok()?;
        let trash = Trash::new(&place.path().join("trash")).expect("a thread");
        let driver = drivers::open_named(name, &place.path().join("driver"), &trash).expect("opened");
        Some(Self { name, place, trash, driver })
    }

    /// As the next daemon does.
    fn reopen(&mut self) {
        self.driver = drivers::open_named(self.name, &self.path("driver"), &self.trash).expect("opened");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn try_stage(&self, tar: &[u8]) -> Result<(Staged, Digest), ImageError> {
        let digest = Digest::sha256(&Sha256::digest(tar).into());
        let file = self.path("content").join(digest.hex());
        // Another thread may be reading an equal one, which stays as it is: the first one counts.
        let temporary = self.path("content").join(crate::trash::temporary_name());
        fs::write(&temporary, tar).expect("written");
        let _ = fs::hard_link(&temporary, &file);
        fs::remove_file(temporary).expect("removed");
        let staged = self.driver.stage(&mut LayerTar { reader: &mut &tar[..], file: &file })?;
        Ok((staged, digest))
    }

    /// Makes a layer above `parent`.
    fn layer(&self, tar: &[u8], parent: Option<&Digest>) -> Digest {
        let (staged, digest) = self.try_stage(tar).expect("staged");
        let chain = chain_id(parent, &digest);
        self.driver.commit(staged, &chain, parent).expect("committed");
        chain
    }

    fn stack(&self, tars: &[Vec<u8>]) -> Digest {
        let mut below: Option<Digest> = None;
        for tar in tars {
            below = Some(self.layer(tar, below.as_ref()));
        }
        below.expect("a layer")
    }

    /// A writable snapshot, mounted.
    fn snapshot(&self, key: &str, chain: Option<&Digest>) -> Mounted {
        let mounted = self.driver.prepare(key, chain).expect("prepared");
        Mounted(mounted.unwrap_or_else(|| self.driver.mount(key).expect("mounted")))
    }

    fn view(&self, chain: &Digest) -> Mounted {
        Mounted(self.driver.view(chain).expect("mounted"))
    }

    /// Makes a layer of what the snapshot `key` changed.
    fn commit(&self, key: &str, parent: Option<&Digest>) -> Digest {
        self.layer(&self.changed(key), parent)
    }

    fn changed(&self, key: &str) -> Vec<u8> {
        let mut tar = Vec::new();
        self.driver.write_layer(key, &mut tar).expect("written");
        tar
    }

    fn changes(&self, key: &str) -> Vec<(String, ChangeKind)> {
        let changes = self.driver.changes(key).expect("compared");
        changes.into_iter().map(|Change { path, kind }| (path, kind)).collect()
    }

    /// Names in the directories of the driver.
    fn names(&self) -> Vec<String> {
        let mut out = Vec::new();
        // What layers share and how it is swept is the driver's own affair.
        let own = |name: &OsStr| name == "objects" || name == "gone";
        let parts = fs::read_dir(self.path("driver")).expect("listed").flatten();
        for part in parts.filter(|part| part.path().is_dir() && !own(&part.file_name())) {
            for entry in fs::read_dir(part.path()).expect("listed").flatten() {
                out.push(format!("{}/{}", part.file_name().display(), entry.file_name().display()));
            }
        }
        out.sort();
        out
    }

    /// Takes everything away, and waits until nothing of it is left.
    fn assert_removable(&self) {
        for key in self.driver.keys() {
            self.driver.remove(&key).expect("removed");
        }
        let mut layers = self.driver.layers();
        // Topmost first.
        layers.sort_by_key(|chain| std::cmp::Reverse(self.driver.ancestry(chain).len()));
        for chain in layers {
            self.driver.remove_layer(&chain).expect("removed");
            self.driver.remove_layer(&chain).expect("it may be gone");
        }
        // What stands for images without a layer is shared by all of them.
        let names: Vec<_> = self.names().into_iter().filter(|name| name != "init/scratch").collect();
        assert_eq!(names, Vec::<String>::new(), "{}", self.name);
        let begun = Instant::now();
        while fs::read_dir(self.path("trash")).expect("listed").count() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "the trash is not emptied");
            std::thread::yield_now();
        }
    }
}

/// A detached mount, in which paths lead through its descriptor.
struct Mounted(OwnedFd);

impl Mounted {
    fn path(&self, name: &str) -> PathBuf {
        Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string()).join(name)
    }

    /// Everything that can be seen.
    fn seen(&self) -> View {
        let mut view = seen::of_directory(&self.path(""));
        // Of directories every file system says what it likes.
        seen::without_links(&mut view);
        view
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect(name);
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect(name)
    }

    fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }
}

/// The tar of a layer, entry by entry.
#[derive(Default)]
struct LayerBuilder(Option<tar::Builder<Vec<u8>>>);

impl LayerBuilder {
    fn add(
        mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        let tar = self.0.get_or_insert_with(|| tar::Builder::new(Vec::new()));
        if link.is_empty() {
            tar.append_data(&mut header, Path::new(OsStr::new(name)), content).expect("appended");
        } else {
            tar.append_link(&mut header, name, link).expect("appended");
        }
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        self.add(EntryType::Regular, name, "", text.as_bytes(), |_| {})
    }

    fn directory(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, "", b"", |_| {})
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.add(kind, name, target, b"", |_| {})
    }

    /// Attributes of the next entry.
    fn attributes(mut self, attributes: &[(&str, &[u8])]) -> Self {
        let tar = self.0.get_or_insert_with(|| tar::Builder::new(Vec::new()));
        let keys: Vec<String> = attributes.iter().map(|(name, _)| format!("SCHILY.xattr.{name}")).collect();
        let values = attributes.iter().map(|(_, value)| *value);
        tar.append_pax_extensions(keys.iter().map(String::as_str).zip(values)).expect("appended");
        self
    }

    fn finish(self) -> Vec<u8> {
        self.0.unwrap_or_else(|| tar::Builder::new(Vec::new())).into_inner().expect("written")
    }
}

fn layer() -> LayerBuilder {
    LayerBuilder::default()
}

macro_rules! suite {
    ($($driver:ident)*) => {
        $(mod $driver {
            suite!(@tests $driver:
                layers::privileged_layers_have_names_parents_and_sizes
                layers::privileged_layers_show_what_their_tars_say
                layers::privileged_marks_hide_what_is_below
                layers::privileged_views_are_read_only
                snapshots::privileged_snapshots_are_written_compared_and_committed
                snapshots::privileged_replaced_things_are_committed_as_they_are
                snapshots::privileged_containers_find_their_mount_points
                snapshots::privileged_snapshots_made_ahead_are_like_others
                snapshots::privileged_writable_layers_of_other_overlays_are_taken_over
                snapshots::privileged_deep_trees_cost_no_stack
                faults::privileged_what_a_killed_daemon_left_is_swept
                faults::privileged_broken_tars_leave_nothing
                faults::privileged_a_full_disk_is_an_error_and_leaves_nothing
                faults::privileged_torn_files_are_errors
                faults::privileged_many_at_once_get_one_layer
                model::privileged_random_stacks_are_as_the_model_has_them
                model::privileged_random_changes_are_as_the_model_has_them
            );
        })*
    };
    (@tests $driver:ident: $($part:ident::$test:ident)*) => {
        $(#[test]
        fn $test() {
            super::$part::$test(stringify!($driver));
        })*
    };
}

suite!(erofs composefs overlay2 vfs);
