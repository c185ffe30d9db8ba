//! The driver on disk and in the kernel; needs root, and a temporary directory that images can be mounted from.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use composefs::erofs::reader::collect_objects;
use composefs::fsverity::{FsVerityHashValue, compute_verity};
use dockerd_sys::mount::{OverlayLayers, overlay};
use dockerd_types::Digest;
use proptest::prelude::*;

use super::objects::ObjectId;
use super::{Composefs, Means, Verity};
use crate::erofs::scan;
use crate::erofs::tests::archives::*;
use crate::erofs::tests::scanned::unpacked;
use crate::erofs::tests::seen::{
    View, assert_same, of_directory, of_overlay, without_directory_times, without_links, without_own_times,
};
use crate::error::ImageError;
use crate::snapshot::overlay::OverlayDriver;
use crate::snapshot::{ChangeKind, LayerTar, SnapshotDriver, Staged};
use crate::trash::Trash;

/// A driver with a directory of its own.
struct Root {
    driver: Option<OverlayDriver<Composefs>>,
    means: Means,
    dir: tempfile::TempDir,
}

impl Root {
    fn new(means: Means) -> Self {
        Self::new_in(&std::env::temp_dir(), means)
    }

    fn new_in(parent: &Path, means: Means) -> Self {
        let dir = tempfile::tempdir_in(parent).expect("a temporary directory");
        for part in ["trash", "tars"] {
            fs::create_dir(dir.path().join(part)).expect("made");
        }
        let mut root = Self { driver: None, means, dir };
        root.open();
        root
    }

    /// As a daemon that starts again.
    fn open(&mut self) {
        if self.driver.is_some() {
            // Nothing of the one before is at work any more.
            self.swept();
        }
        self.driver = None;
        let trash = Trash::new(&self.dir.path().join("trash")).expect("opened");
        let composefs = Composefs::open(&self.path(""), self.means).expect("opened");
        self.driver = Some(OverlayDriver::open(composefs, &self.path(""), &trash).expect("opened"));
    }

    fn driver(&self) -> &OverlayDriver<Composefs> {
        self.driver.as_ref().expect("open")
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join("composefs").join(part)
    }

    fn stage(&self, tar: &[u8]) -> Result<Staged, ImageError> {
        let file = self.dir.path().join("tars").join(crate::trash::temporary_name());
        fs::write(&file, tar).expect("written");
        let staged = self.driver().stage(&mut LayerTar { reader: &mut &tar[..], file: &file });
        fs::remove_file(file).expect("removed");
        staged
    }

    fn add(&self, tar: &[u8], chain: &Digest, parent: Option<&Digest>) {
        let staged = self.stage(tar).expect("staged");
        self.driver().commit(staged, chain, parent).expect("committed");
    }

    fn object(&self, content: &[u8]) -> PathBuf {
        self.path("objects").join(compute_verity::<ObjectId>(content).to_object_pathname())
    }

    fn objects(&self) -> Vec<String> {
        let mut out = Vec::new();
        for directory in fs::read_dir(self.path("objects")).expect("listed").flatten() {
            let files = fs::read_dir(directory.path()).expect("listed").flatten();
            out.extend(files.map(|file| file.file_name().to_string_lossy().into_owned()));
        }
        out
    }

    /// Waits until what was removed is swept.
    fn swept(&self) {
        self.driver().format().objects.wait();
    }
}

/// What this kernel does, and the way older ones do; nothing, and a line about it, where there is none.
fn means() -> Vec<Means> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    match Composefs::probe(dir.path(), Verity::Auto) {
        Ok(means @ Means { nested: true, .. }) => vec![means],
        Ok(means) => vec![means, Means { nested: true, ..means }],
        Err(why) => {
            eprintln!("not tested: {why}");
            Vec::new()
        }
    }
}

fn chain(number: u8) -> Digest {
    Digest::sha256(&[number; 32])
}

fn place(mount: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/.", mount.as_raw_fd()).into()
}

fn read(mount: &OwnedFd, path: &str) -> std::io::Result<Vec<u8>> {
    fs::read(place(mount).join(path))
}

/// Content of an object, its last byte one of its own.
fn large(byte: u8) -> String {
    "large ".repeat(1000) + &byte.to_string()
}

/// Layers on top of each other, the first at the bottom, against directories that the same tars are unpacked to.
fn compare_stack(root: &Root, tars: &[Vec<u8>], moves: bool) {
    for (at, tar) in tars.iter().enumerate() {
        let at = at as u8;
        root.add(tar, &chain(at), at.checked_sub(1).map(chain).as_ref());
    }
    let mount = root.driver().view(&chain(tars.len() as u8 - 1)).expect("mounted");
    let mut found = of_directory(&place(&mount));
    let empty = tempfile::tempdir().expect("a temporary directory");
    let dirs: Vec<_> = tars.iter().map(|tar| unpacked(tar).0).collect();
    let layers: Vec<_> = dirs.iter().rev().map(|dir| dir.path()).chain([empty.path()]).map(File::open).collect();
    let layers: Vec<File> = layers.into_iter().collect::<Result<_, _>>().expect("opened");
    let lower = layers.iter().map(AsFd::as_fd).collect();
    let merged = overlay(&OverlayLayers { lower, data: Vec::new(), upper: None, options: &[] }, 0).expect("mounted");
    let mut expected = of_overlay(&place(&merged));
    for view in [&mut expected, &mut found] {
        // overlayfs counts the names that are hidden too, and gives all merged directories one link.
        without_links(view);
        without_marks(view);
    }
    without_own_times(&mut expected, &mut found);
    if moves {
        without_directory_times(&mut expected, &mut found);
    }
    assert_same(&expected, &found);
}

/// Marks of overlayfs, which a merged image has none of; those of a lone layer's directories are seen.
fn without_marks(view: &mut View) {
    for seen in view.values_mut() {
        seen.xattrs.retain(|(name, _)| !name.starts_with(b"trusted.overlay."));
    }
}

#[test]
fn privileged_everything_a_tar_can_have() {
    let mut items: Vec<_> =
        (0..700).map(|at| item(FILE, &format!("d/{at:0width$}", width = 1 + at % 250), &large(at as u8))).collect();
    for length in [1, 300, 447, 448, 449, 512, 513, 1000, 1024] {
        items.push(item(SYMLINK, &format!("link{length}"), &"t".repeat(length)));
    }
    for (at, length) in
        [0, 1, 63, 64, 65, 511, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 3_000_000].into_iter().enumerate()
    {
        items.push(item(FILE, &format!("f{length}"), &"0123456789".repeat(length / 10 + 1)[..length]));
        items.push(item(HARDLINK, &format!("d/hard{length}"), &format!("f{length}")));
        let kind = [tar::EntryType::Char, tar::EntryType::Block, tar::EntryType::Fifo][at % 3];
        items.push(item(kind, &format!("!node{at}"), ""));
        let mut dir = item(DIR, &format!("dir{at}"), "");
        (dir.mode, dir.owner, dir.mtime) = (0o3755, (100_000 + at as u32, 7), (at as i64, 999_999_999));
        dir.xattrs = (0..at * 2).map(|number| (format!("trusted.k{number}"), vec![at as u8; number * 4])).collect();
        items.push(dir);
        let mut file = item(FILE, &format!("dir{at}/f"), &large(at as u8));
        file.xattrs = (0..at).map(|number| (format!("user.same{number}"), b"the same".to_vec())).collect();
        (file.owner, file.mtime) = ((at as u32, 70_000), (at as i64, 999_999_999));
        items.push(file);
    }
    // Names that the format has whiteouts of in its root.
    items.push(item(FILE, "00", "seen"));
    items.push(item(DIR, "ff", ""));
    for means in means() {
        compare_stack(&Root::new(means), &[archive(&items)], false);
    }
}

#[test]
fn privileged_sparse_files() {
    let source = tempfile::tempdir().expect("a temporary directory");
    let sparse = File::create(source.path().join("sparse")).expect("made");
    sparse.write_all_at(b"end", 3 << 20).expect("written");
    sparse.write_all_at(&[7; 9000], 1 << 20).expect("written");
    sparse.write_all_at(b"x", 100).expect("written");
    File::create(source.path().join("hole")).expect("made").set_len(1 << 20).expect("long");
    let odd = File::create(source.path().join("odd")).expect("made");
    odd.write_all_at(&[9; 5000], 300).expect("written");
    odd.write_all_at(&[8; 5001], 100_000).expect("written");
    for means in means() {
        for format in ["--format=gnu", "--format=pax"] {
            let tar = std::process::Command::new("tar")
                .args(["-C", &source.path().display().to_string(), "-S", format, "--mtime=@7", "-cf", "-", "."])
                .output()
                .expect("tar runs");
            let root = Root::new(means);
            compare_stack(&root, &[tar.stdout], false);
            let object = fs::metadata(root.object(&fs::read(source.path().join("sparse")).expect("read")));
            let blocks = object.expect("there").blocks();
            assert!(blocks < 200, "holes take no space: {blocks}");
        }
    }
}

#[test]
fn privileged_what_the_format_does_not_take() {
    for means in means() {
        let root = Root::new(means);
        for (item, says) in [
            (item(SYMLINK, "l", &"t".repeat(1025)), "symbolic links"),
            (
                {
                    let mut many = item(FILE, "f", "x");
                    many.xattrs = (0..101).map(|number| (format!("user.{number}"), vec![b'x'])).collect();
                    many
                },
                "extended attributes",
            ),
        ] {
            let error = root.stage(&archive(&[item])).expect_err("refused").to_string();
            assert!(error.contains(says), "{error}");
        }
        let endless = 1u64 << 37;
        let mut tar = tar::Builder::new(Vec::new());
        let (size, map) = (endless.to_string(), format!("{},0", endless));
        let records: [(&str, &[u8]); 3] =
            [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.name", b"hole"), ("GNU.sparse.map", map.as_bytes())];
        tar.append_pax_extensions(records).expect("appended");
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_data(&mut header, "x", &b""[..]).expect("appended");
        let error = root.stage(&tar.into_inner().expect("written")).expect_err("refused").to_string();
        assert!(error.contains("holes"), "{error}");
        root.swept();
        assert_eq!(root.objects(), Vec::<String>::new());
    }
}

#[test]
fn privileged_very_deep_directories() {
    let down = |count: usize| "d/".repeat(count);
    let mut items = vec![item(FILE, &(down(2000) + "f"), &large(1))];
    // A path cannot name more, but links can lead there.
    for (link, target) in [("a", down(500)), ("b", "a/".to_owned() + &down(500)), ("c", "b/".to_owned() + &down(500))] {
        items.push(item(SYMLINK, link, &target));
        items.push(item(FILE, &format!("{link}/{}f", down(2000)), &large(2)));
    }
    for means in means() {
        let root = Root::new(means);
        root.add(&archive(&items), &chain(0), None);
        root.driver().warm(&chain(0));
        let mount = root.driver().view(&chain(0)).expect("mounted");
        assert_eq!(read(&mount, &("c/".to_owned() + &down(2000) + "f")).expect("read"), large(2).as_bytes());
    }
}

#[test]
fn privileged_images_share_objects() {
    let (one, two) = (large(1), large(2));
    for means in means() {
        let root = Root::new(means);
        let tar = |name: &str, own: &str| {
            let mut dressed = item(FILE, "same", &one);
            // Who has it does not matter.
            dressed.owner = (name.len() as u32, 0);
            archive(&[dressed, item(FILE, name, own), item(FILE, "again", own)])
        };
        root.add(&tar("a", &two), &chain(0), None);
        root.add(&tar("bc", &one), &chain(1), None);
        assert_eq!(root.objects().len(), 2);
        let mode = fs::metadata(root.object(one.as_bytes())).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        let sharing = root.driver().sharing(&[vec![chain(0)], vec![chain(1)]]);
        let (first, second) = (one.len() as u64, two.len() as u64);
        // Six files, two of them on disk; the second image has nothing of its own.
        assert_eq!((sharing.saved, sharing.shared), (3 * first + second, vec![first, 3 * first]));
        let alone = root.driver().sharing(&[vec![chain(0)], vec![chain(0)]]);
        assert_eq!((alone.saved, alone.shared), (second, vec![0, 0]));

        root.driver().remove_layer(&chain(0)).expect("removed");
        root.swept();
        assert_eq!(root.objects().len(), 1);
        let mount = root.driver().view(&chain(1)).expect("mounted");
        assert_eq!(read(&mount, "same").expect("read"), one.as_bytes());
        drop(mount);
        root.driver().remove_layer(&chain(1)).expect("removed");
        root.swept();
        assert_eq!(root.objects(), Vec::<String>::new());
        assert_eq!(fs::read_dir(root.path("gone")).expect("listed").count(), 0);
    }
}

#[test]
fn privileged_a_sweep_spares_what_is_staged() {
    for means in means() {
        let root = Root::new(means);
        let tar = archive(&[item(FILE, "f", &large(1))]);
        root.add(&tar, &chain(0), None);
        // It finds the object there, and the layer it was of goes before it has a name itself.
        let staged = root.stage(&tar).expect("staged");
        root.driver().remove_layer(&chain(0)).expect("removed");
        root.swept();
        assert_eq!(root.objects().len(), 1);
        root.driver().commit(staged, &chain(1), None).expect("committed");
        let given_up = root.stage(&archive(&[item(FILE, "f", &large(2))])).expect("staged");
        assert_eq!(root.objects().len(), 2);
        drop(given_up);
        // What was given up goes with the next start.
        let mut root = root;
        root.open();
        root.swept();
        assert_eq!(root.objects().len(), 1);
        let mount = root.driver().view(&chain(1)).expect("mounted");
        assert_eq!(read(&mount, "f").expect("read"), large(1).as_bytes());
    }
}

#[test]
fn privileged_leftovers_of_a_killed_daemon() {
    for means in means() {
        let mut root = Root::new(means);
        let tar = archive(&[item(FILE, "f", &large(1)), item(FILE, "g", &large(2)), item(FILE, "h", &large(3))]);
        root.add(&tar, &chain(0), None);
        let orphan = root.object(b"orphan");
        fs::write(&orphan, "orphan").expect("written");
        let staging = root.path("layers/.tmp-1-1-1");
        fs::create_dir(&staging).expect("made");
        fs::write(staging.join(".tmp-1-1-2"), "half an object").expect("written");
        fs::write(root.path("gone/.tmp-1-1-3"), "half a lis").expect("written");
        root.open();
        root.swept();
        assert!(!orphan.exists() && !staging.exists());
        assert_eq!(fs::read_dir(root.path("gone")).expect("listed").count(), 0);
        assert_eq!(root.objects().len(), 3);

        // Power went before the layer was settled: torn objects go, the others stay.
        fs::write(root.path("boot"), "another").expect("written");
        fs::write(root.path("layers").join(chain(0).hex()).join("unsettled"), "another").expect("written");
        let [torn, zeros, whole] = [1, 2, 3].map(|byte| root.object(large(byte).as_bytes()));
        fs::write(&torn, "").expect("torn");
        fs::write(&zeros, vec![0; large(2).len()]).expect("torn");
        root.open();
        assert!(!torn.exists() && !zeros.exists() && whole.exists());
        root.driver().remove_layer(&chain(0)).expect("removed");
        root.add(&tar, &chain(0), None);
        let mount = root.driver().view(&chain(0)).expect("mounted");
        for (name, byte) in [("f", 1), ("g", 2), ("h", 3)] {
            assert_eq!(read(&mount, name).expect("read"), large(byte).as_bytes());
        }
        // A list that is torn keeps nothing, and stops no sweep.
        fs::write(root.path("boot"), "another").expect("written");
        let layer = root.path("layers").join(chain(0).hex());
        fs::write(layer.join("unsettled"), "another").expect("written");
        fs::write(layer.join("objects"), "torn").expect("written");
        drop(mount);
        root.open();
        assert_eq!(root.objects(), Vec::<String>::new());
    }
}

#[test]
fn privileged_containers_write_above_objects() {
    for means in means() {
        let root = Root::new(means);
        root.add(
            &archive(&[item(FILE, "etc/a", &large(1)), item(FILE, "b", &large(2)), item(FILE, "c", "small")]),
            &chain(0),
            None,
        );
        root.add(&archive(&[item(FILE, ".wh.c", ""), item(FILE, "d", &large(3))]), &chain(1), Some(&chain(0)));
        root.driver().warm(&chain(1));
        root.driver().prepare("key", Some(&chain(1))).expect("prepared");
        let mount = root.driver().mount("key").expect("mounted");
        let at = place(&mount);
        assert_eq!(read(&mount, "d").expect("read"), large(3).as_bytes());
        assert!(!at.join("c").exists());
        use std::io::Write;
        fs::OpenOptions::new().append(true).open(at.join("etc/a")).expect("opened").write_all(b"!").expect("written");
        fs::set_permissions(at.join("b"), PermissionsExt::from_mode(0o600)).expect("changed");
        fs::rename(at.join("d"), at.join("e")).expect("renamed");
        // A name of the format's own whiteouts.
        fs::write(at.join("00"), "new").expect("written");
        assert_eq!(read(&mount, "etc/a").expect("read"), [large(1).as_bytes(), b"!"].concat());
        let changes = root.driver().changes("key").expect("compared");
        let changes: Vec<_> = changes.iter().map(|change| (change.path.as_str(), change.kind)).collect();
        use ChangeKind::{Added, Deleted, Modified};
        let expected = [
            ("/00", Added),
            ("/b", Modified),
            ("/d", Deleted),
            ("/e", Added),
            ("/etc", Modified),
            ("/etc/a", Modified),
        ];
        assert_eq!(changes, expected);
        // What was changed is there by itself.
        let upper = super::super::open_dir(&root.path("snapshots/key/upper")).expect("opened");
        assert_eq!(read(&upper, "b").expect("read"), large(2).as_bytes());
        assert_eq!(read(&upper, "e").expect("read"), large(3).as_bytes());
        // The image is as it was.
        let view = root.driver().view(&chain(1)).expect("mounted");
        assert_eq!(read(&view, "etc/a").expect("read"), large(1).as_bytes());
    }
}

#[test]
fn privileged_an_image_is_of_the_format() {
    for means in means() {
        let root = Root::new(means);
        root.add(&archive(&[item(FILE, "a", &large(1)), item(FILE, "b", &large(2))]), &chain(0), None);
        root.add(&archive(&[item(FILE, ".wh.a", ""), item(FILE, "c", &large(3))]), &chain(1), Some(&chain(0)));
        root.driver().warm(&chain(1));
        let image = fs::read(root.path("layers").join(chain(1).hex()).join("image")).expect("there");
        let found = collect_objects::<ObjectId>(&image).expect("read by the crate");
        let expected = [2, 3].map(|byte| compute_verity(large(byte).as_bytes()));
        assert_eq!(found, expected.into_iter().collect());
        assert_eq!(root.driver().layer_size(&chain(0)), Some(2 * large(1).len() as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn privileged_any_layers(layers in prop::collection::vec(items(true), 1..5), nested in any::<bool>()) {
        let tars: Vec<_> = layers.iter().map(|items| archive(items)).filter(|tar| scan(&tar[..], [0; 64]).is_ok()).collect();
        let means = means().into_iter().find(|means| means.nested == nested);
        if let (Some(means), false) = (means, tars.is_empty()) {
            compare_stack(&Root::new(means), &tars, layers.iter().any(|items| moves(items)));
        }
    }
}

/// An ext4 file system that has fs-verity, mounted; `None` where it cannot be had.
struct Ext4(PathBuf, #[expect(dead_code, reason = "is there as long as the mount")] tempfile::TempDir);

impl Ext4 {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let image = dir.path().join("image");
        File::create(&image).expect("made").set_len(64 << 20).expect("long");
        let run = |program: &str, arguments: &[&str]| {
            let ran = std::process::Command::new(program).args(arguments).output();
            ran.is_ok_and(|output| output.status.success())
        };
        let point = dir.path().join("point");
        fs::create_dir(&point).expect("made");
        let (image, at) = (image.display().to_string(), point.display().to_string());
        let made = run("mkfs.ext4", &["-q", "-O", "verity", &image]) && run("mount", &["-o", "loop", &image, &at]);
        made.then_some(Self(point, dir))
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let ended = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(ended.is_ok_and(|status| status.success()), "unmounted");
    }
}

#[test]
fn privileged_a_tampered_object() {
    let tamper = |root: &Root| {
        let tar = archive(&[item(FILE, "f", &large(1)), item(FILE, "g", &large(2))]);
        root.add(&tar, &chain(0), None);
        let object = root.object(large(1).as_bytes());
        let written = fs::OpenOptions::new().write(true).open(&object);
        // Whatever else can be done to it, another file can be put in its place.
        fs::remove_file(&object).expect("removed");
        fs::write(&object, large(9)).expect("written");
        (written, root.driver().view(&chain(0)).expect("mounted"))
    };
    let protected = Ext4::mount();
    let means_there = protected.as_ref().map(|ext4| Composefs::probe(&ext4.0, Verity::Require));
    match (&protected, means_there) {
        (Some(ext4), Some(Ok(means))) => {
            assert!(means.verity);
            let root = Root::new_in(&ext4.0, means);
            let (written, mount) = tamper(&root);
            assert_eq!(written.expect_err("protected").kind(), std::io::ErrorKind::PermissionDenied);
            let error = read(&mount, "f").expect_err("refused");
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
            assert_eq!(read(&mount, "g").expect("read"), large(2).as_bytes());
        }
        (_, refused) => eprintln!("not tested, because there is no file system with fs-verity: {refused:?}"),
    }
    for means in means().into_iter().filter(|means| !means.verity) {
        // Nobody notices; that is what it means to be without.
        let root = Root::new(means);
        let (written, mount) = tamper(&root);
        assert!(written.is_ok());
        assert_eq!(read(&mount, "f").expect("read"), large(9).as_bytes());
    }
}

/// What a mount makes of an object that the kernel does not protect, which is as much of it as a kernel without fs-verity shows.
#[test]
fn privileged_mounts_that_insist_refuse_an_unprotected_object() {
    for means in means() {
        let mut root = Root::new(Means { verity: false, ..means });
        root.driver.as_mut().expect("open").format_mut().means.verity = true;
        // The image of it would have to be protected too: it is made before.
        root.add(&archive(&[item(FILE, "f", &large(1)), item(FILE, "small", "x")]), &chain(0), None);
        let image = super::image::compose(root.driver().directory(), &[chain(0)]).expect("composed");
        fs::write(root.path("layers").join(chain(0).hex()).join("image"), image).expect("written");
        root.driver().prepare("key", Some(&chain(0))).expect("prepared");
        for mount in [root.driver().view(&chain(0)), root.driver().mount("key")] {
            let mount = mount.expect("mounted");
            let error = read(&mount, "f").expect_err("refused");
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
            assert_eq!(read(&mount, "small").expect("has no object"), b"x");
        }
    }
}

#[test]
fn options() {
    use crate::snapshot::StorageOptions;
    let none: [&str; 0] = [];
    assert_eq!(StorageOptions::parse(&none).expect("fine"), StorageOptions { verity: None });
    for (name, verity) in [("auto", Verity::Auto), ("require", Verity::Require), ("off", Verity::Off)] {
        let options = StorageOptions::parse(&[format!("composefs.verity={name}")]).expect("fine");
        assert_eq!(options, StorageOptions { verity: Some(verity) });
    }
    for refused in ["composefs.verity", "composefs.verity=on", "overlay2.size=1G", "x"] {
        let error = StorageOptions::parse(&[refused]).expect_err("refused").to_string();
        assert!(error.contains(refused), "{error}");
    }
}
