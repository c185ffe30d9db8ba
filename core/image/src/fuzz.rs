//! Fuzz targets of this crate's parsers: what must hold for every archive and document a client can send. They write into
//! temporary directories and want root, for owners and device nodes.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use dockerd_store::Layout;

use crate::config::{ImageConfig, RunConfig};
use crate::decompress;
use crate::erofs;
use crate::layer::{self, UnpackOptions};
use crate::store::ImageStore;
use crate::toc;

/// Whatever a tar holds, what is beside the root it is unpacked into stays as it is.
pub fn untar(data: &[u8]) {
    let base = tempfile::tempdir().expect("a temporary directory");
    let (root, beside) = (base.path().join("root"), base.path().join("beside"));
    fs::create_dir(&root).expect("the root is made");
    fs::write(&beside, "untouched").expect("a file is made");
    let (whiteouts, data) = data.split_first().map_or((false, data), |(first, rest)| (first & 1 == 1, rest));
    let directory = File::open(&root).expect("the root opens");
    let options = UnpackOptions { whiteouts, ..UnpackOptions::default() };
    if let Ok(reader) = decompress::plain(data)
        && let Ok(unpacked) = layer::unpack(reader, directory.as_fd(), options)
        && whiteouts
        && let Ok(scanned) = erofs::scan(data, [0; 64])
    {
        assert_eq!(scanned.unpacked, unpacked, "the index of a tar counts as the unpacker does");
    }
    assert_eq!(fs::read(&beside).expect("the file is there"), b"untouched");
    let names = |dir: &Path| fs::read_dir(dir).expect("the directory is listed").count();
    assert_eq!(names(base.path()), 2, "something appeared beside the root");
}

/// An archive of images adds all of what it names or nothing, and leaves nothing half done behind.
pub fn archive(data: &[u8]) {
    let base = tempfile::tempdir().expect("a temporary directory");
    let layout = Layout::new(base.path().join("data"), base.path().join("exec"));
    layout.create().expect("the layout is made");
    let store = ImageStore::open(&layout, None).expect("an empty store opens");
    let temporary = layout.tmp_dir();
    let loaded = store.load(data, None, &mut |_| {});
    let left: Vec<_> = fs::read_dir(&temporary).expect("the directory is listed").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    for image in loaded.into_iter().flatten() {
        for reference in &image.references {
            let found = store.resolve(&reference.to_string()).expect("a loaded image is found by its name");
            assert_eq!(found.id, image.image.id);
        }
    }
    let again = ImageStore::open(&layout, None).expect("what was loaded is read back");
    assert_eq!(again.index().images.len(), store.index().images.len());
}

/// A tar that can be scanned has an index, which can be read back and makes the same index again.
pub fn erofs_scan(data: &[u8]) {
    let Ok(scanned) = erofs::scan(data, [7; 64]) else { return };
    if let Ok(image) = erofs::write(&scanned.tree) {
        let tree = erofs::read(&image).expect("an index is read");
        assert_eq!((tree.len(), tree.size()), (scanned.tree.len(), scanned.unpacked.bytes));
        assert!(erofs::write(&tree).expect("an index is written again") == image, "the same bytes");
    }
}

/// Whatever bytes are read as an index, what is understood of them is an index again, and merges.
pub fn erofs_read(data: &[u8]) {
    let mut image = data.to_vec();
    erofs::reseal(&mut image);
    let Ok(tree) = erofs::read(&image) else { return };
    let Ok(image) = erofs::write(&tree) else { return };
    let again = erofs::read(&image).expect("an index is read");
    assert!(erofs::write(&again).expect("an index is written again") == image, "the same bytes");
    let mut merge = erofs::Merge::new();
    if merge.add(&tree).is_ok() && merge.add(&again).is_ok() {
        let merged = merge.finish();
        assert_eq!(merged.devices.len(), 2 * tree.devices.len());
    }
}

/// A table of contents that is taken makes a tree whose files lie in the payload and are covered by chunks of the blob, and whose
/// index is read back. The first byte says what the rest is read as.
pub fn toc(data: &[u8]) {
    toc::fuzz(data);
}

/// A record of a layer's tar: whatever names it has, only what is in the layer's directory is read.
pub fn tar_split(data: &[u8]) {
    use std::io::{Read, Write};
    let base = tempfile::tempdir().expect("a temporary directory");
    let root = base.path().join("root");
    fs::create_dir(&root).expect("the root is made");
    fs::write(base.path().join("beside"), "secret").expect("a file is made");
    fs::write(root.join("a"), "inside").expect("a file is made");
    std::os::unix::fs::symlink("../beside", root.join("link")).expect("a link is made");
    let mut record = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    record.write_all(data).expect("written to memory");
    let record = record.finish().expect("written to memory");
    let files = File::open(&root).expect("the root opens");
    let mut tar = Vec::new();
    let _ = crate::moving::Rebuilt::new(&record[..], files.into()).take(1 << 20).read_to_end(&mut tar);
    assert!(!tar.windows(6).any(|piece| piece == b"secret") || data.windows(6).any(|piece| piece == b"c2Vjcm"));
}

/// A configuration that can be read can be used and written again.
pub fn image_config(data: &[u8]) {
    let Ok(mut config) = serde_json::from_slice::<ImageConfig>(data) else { return };
    let container = config.container_config();
    let _ = config.created_at();
    config.config = Some(RunConfig::of(&container));
    let written = serde_json::to_vec(&config).expect("a configuration is written");
    let again: ImageConfig = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(again.container_config(), container);
}

#[cfg(test)]
mod tests {
    #[test]
    fn privileged_archives_and_mutations() {
        fuzz_mutate::run("untar", 1500, super::untar);
        fuzz_mutate::run("archive", 300, super::archive);
    }

    #[test]
    fn erofs_indexes_and_mutations() {
        fuzz_mutate::run("erofs_scan", 4000, super::erofs_scan);
        fuzz_mutate::run("erofs_read", 10_000, super::erofs_read);
    }

    #[test]
    fn tables_of_contents_and_mutations() {
        fuzz_mutate::run("toc", 10_000, super::toc);
    }

    #[test]
    fn records_and_mutations() {
        fuzz_mutate::run("tar_split", 2000, super::tar_split);
    }

    #[test]
    fn configurations_and_mutations() {
        fuzz_mutate::run("image_config", 10_000, super::image_config);
    }
}
