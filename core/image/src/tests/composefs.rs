//! The store with the composefs driver: images in, out, on to another driver and back.

use super::*;

/// Leaves out where the kernel has no way for it, and says so.
fn open(root: &Root) -> Option<ImageStore> {
    match ImageStore::open(&root.layout, Some("composefs")) {
        Err(ImageError::InvalidArgument(why)) => {
            eprintln!("not tested: {why}");
            None
        }
        store => Some(store.expect("opened")),
    }
}

/// What a snapshot of the image shows in the file of that name.
fn look(store: &ImageStore, image: &Image, file: &str) -> Vec<u8> {
    store.prepare("looking", image.chain()).expect("prepared");
    let tree = store.snapshots_of("looking").mount("looking").expect("mounted");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let opened = rustix::fs::openat(&tree, file, flags, rustix::fs::Mode::empty()).expect("opened");
    let mut bytes = Vec::new();
    std::fs::File::from(opened).read_to_end(&mut bytes).expect("read");
    drop(tree);
    store.remove_snapshot("looking").expect("removed");
    bytes
}

#[test]
fn privileged_composefs_images_go_in_and_out() {
    let (root, store) = Root::new();
    drop(store);
    let Some(store) = open(&root) else { return };
    let layers = [layer("a"), layer("b")];
    let plain = docker_archive(&[(&["one:1"], &layers)]);
    for archive in [plain, oci_layout(&layers, Some("gzip"), |_| {})] {
        let image = load(&store, &archive).expect("loaded").remove(0).image;
        assert_eq!(image.size(), 2 * ((2 << 20) + 1));
        let layers = root.names("composefs/layers");
        assert_eq!(layers.iter().filter(|name| !name.starts_with('.')).count(), 2);
        assert_eq!(look(&store, &image, "shared"), b"x");
        assert_eq!(look(&store, &image, "b").len(), 2 << 20);
        let sharing = store.snapshots().sharing(&[image.layers.iter().map(|layer| layer.chain_id.clone()).collect()]);
        assert_eq!((sharing.saved, sharing.shared), (0, vec![0]));
        settled(&store);
        assert!(
            root.names(&format!("composefs/layers/{}", image.chain().expect("a layer").hex()))
                .contains(&"image".to_owned())
        );
        for name in image.references.iter().map(Reference::familiar) {
            remove(&store, &name, false).expect("removed");
        }
        assert_eq!(root.names("composefs/layers"), Vec::<String>::new());
        assert_eq!(root.names("image/content/sha256"), Vec::<String>::new());
    }
}

#[test]
fn privileged_composefs_is_one_of_several_drivers() {
    let (root, store) = Root::new();
    let image = load(&store, &docker_archive(&[(&["x:1"], &[layer("a")])])).expect("loaded").remove(0).image;
    store.prepare("old", image.chain()).expect("prepared");
    drop(store);
    let Some(store) = open(&root) else { return };
    assert_eq!(look(&store, &image, "shared"), b"x");
    assert_eq!(store.snapshots_of("old").name(), "overlay2");
    store.prepare("new", image.chain()).expect("prepared");
    drop(store);
    let store = root.open();
    assert_eq!(store.snapshots_of("new").name(), "composefs");
    store.snapshots_of("new").mount("new").expect("mounted");
    assert_eq!(look(&store, &image, "shared"), b"x");

    let options = |verity| crate::snapshot::StorageOptions { verity: Some(verity) };
    let refused = ImageStore::open_with(&root.layout, Some("overlay2"), options(crate::snapshot::Verity::Off));
    let text = refused.expect_err("not its option").to_string();
    assert!(text.contains("composefs.verity") && text.contains("overlay2"), "{text}");
}
