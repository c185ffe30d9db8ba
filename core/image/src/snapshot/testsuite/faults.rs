//! What goes wrong: a daemon that is killed, a full disk, broken tars, torn files, many at once.

use super::*;

pub(super) fn privileged_what_a_killed_daemon_left_is_swept(name: &'static str) {
    let Some(mut bed) = Bed::new(name) else { return };
    let chain = bed.layer(&layer().file("a", "1").finish(), None);
    drop(bed.snapshot("c", Some(&chain)));
    bed.driver.stock(&chain).expect("made");
    let before: Vec<_> = bed.names().into_iter().filter(|name| !name.contains("/.tmp-")).collect();
    // No destructor runs in a daemon that is killed.
    std::mem::forget(bed.try_stage(&layer().file("b", "1").finish()).expect("staged"));
    for part in ["layers", "init", "snapshots"].map(|part| bed.path("driver").join(part)) {
        if !part.exists() {
            continue;
        }
        let place = part.join(crate::trash::temporary_name());
        fs::create_dir_all(place.join("upper/deep")).expect("made");
        fs::write(place.join("file"), "half").expect("written");
    }
    assert!(bed.names().len() > before.len() + 2);
    bed.reopen();
    assert_eq!(bed.names(), before);
    assert_eq!(Mounted(bed.driver.mount("c").expect("mounted")).read("a"), "1");
    bed.assert_removable();
}

pub(super) fn privileged_broken_tars_leave_nothing(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let good = layer().file("a", &"x".repeat(5000)).file("b", "1").finish();
    let linked = layer().link(EntryType::Link, "a", "nowhere").finish();
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    for (tar, why) in
        [(&good[..3000], "cut off"), (&flipped, "wrong sum"), (&linked, "link to nothing"), (b"x", "no tar")]
    {
        assert!(bed.try_stage(tar).is_err(), "{why}");
        assert_eq!(bed.names(), Vec::<String>::new(), "{why}");
    }
    bed.assert_removable();
}

pub(super) fn privileged_a_full_disk_is_an_error_and_leaves_nothing(name: &'static str) {
    let Some(bed) = Bed::small(name) else { return };
    let image = bed.layer(&layer().file("a", &"x".repeat(300_000)).finish(), None);
    let image = bed.layer(&layer().file("b", "1").finish(), Some(&image));
    let tar = layer().file("c", &"x".repeat(600_000)).finish();
    let before = bed.names();
    // As large as it gets.
    let digest = Digest::sha256(&Sha256::digest(&tar).into());
    let file = bed.path("content").join(digest.hex());
    fs::write(&file, &tar).expect("written");
    let mut filler = File::create(bed.path("filler")).expect("made");
    while std::io::Write::write(&mut filler, &[1; 4096]).is_ok() {}
    let failed = |error: ImageError| assert!(error.to_string().contains("No space left"), "{error}");
    failed(bed.driver.stage(&mut LayerTar { reader: &mut &tar[..], file: &file }).map(drop).expect_err("full"));
    failed(bed.driver.prepare("c", Some(&image)).map(drop).expect_err("full"));
    bed.driver.warm(&image);
    let names: Vec<_> = bed.names().into_iter().filter(|name| !name.starts_with("init/")).collect();
    assert_eq!(names, before);
    assert!(bed.driver.keys().is_empty() && !bed.driver.has_snapshot("c"));
    // There is room again.
    fs::remove_file(bed.path("filler")).expect("removed");
    drop(filler);
    let staged = bed.driver.stage(&mut LayerTar { reader: &mut &tar[..], file: &file }).expect("staged");
    bed.driver.commit(staged, &chain_id(Some(&image), &digest), Some(&image)).expect("committed");
    let snapshot = bed.snapshot("c", Some(&image));
    assert_eq!(snapshot.read("a").len(), 300_000);
    snapshot.write("new", "1");
    drop(snapshot);
    bed.assert_removable();
}

pub(super) fn privileged_torn_files_are_errors(name: &'static str) {
    let Some(mut bed) = Bed::new(name) else { return };
    let tars = [layer().file("a", &"x".repeat(10_000)).finish(), layer().file("b", "1").finish()];
    let top = bed.stack(&tars);
    let below = bed.driver.ancestry(&top)[1].clone();
    drop(bed.view(&top));
    bed.driver.warm(&top);
    let layers = bed.path("driver/layers");
    let torn: Vec<PathBuf> = [&below, &top]
        .into_iter()
        .flat_map(|chain| fs::read_dir(layers.join(chain.hex())).expect("listed").flatten())
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    for path in torn {
        let whole = fs::read(&path).expect("read");
        let circle = below.as_str().as_bytes();
        for bytes in [&whole[..whole.len() / 2], b"", b"\xff\xff", circle] {
            if matches!(path.file_name().and_then(OsStr::to_str), Some("tar"))
                && bytes.len() < 1000
                && !bytes.is_empty()
            {
                continue;
            }
            // Other names of the file have what is left as well.
            fs::write(&path, bytes).expect("written");
            bed.reopen();
            let driver = &bed.driver;
            let asked = (driver.layers().len(), driver.ancestry(&top).len() <= 4096, driver.has_layer(&top));
            assert_eq!(asked, (2, true, true), "{}", path.display());
            let _ = (driver.layer_size(&top), driver.layer_size(&below), driver.unsettled(), driver.describe(&top));
            // An error or not, but nothing half done.
            if let Ok(view) = driver.view(&top) {
                let _ = fs::read(Mounted(view).path("a"));
            }
            if driver.prepare("c", Some(&top)).is_err() {
                assert!(driver.keys().is_empty() && bed.names().iter().all(|name| !name.starts_with("snapshots/")));
            }
            let _ = (driver.mount("c").map(drop), driver.changes("c"), driver.usage("c"));
            driver.remove("c").expect("removed");
        }
        fs::write(&path, whole).expect("written");
    }
    bed.reopen();
    let text = bed.snapshot("c", Some(&top)).read("a");
    assert_eq!(text.len(), 10_000, "all is whole again");
    // Of a layer that is gone nothing can be made, whatever is still there.
    bed.driver.remove("c").expect("removed");
    fs::remove_dir_all(layers.join(below.hex())).expect("removed");
    bed.reopen();
    assert!(bed.driver.prepare("c", Some(&top)).and_then(|_| bed.driver.mount("c")).is_err());
    assert!(bed.driver.stock(&top).is_err());
    bed.assert_removable();
}

pub(super) fn privileged_many_at_once_get_one_layer(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let base = bed.layer(&layer().file("a", "1").finish(), None);
    let tars: Vec<_> = (0..3).map(|at| layer().file(&format!("f{at}"), &"x".repeat(3000)).finish()).collect();
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let (bed, tars, base) = (&bed, &tars, &base);
            scope.spawn(move || {
                for round in 0..6 {
                    let tar = &tars[(worker + round) % tars.len()];
                    let chain = bed.layer(tar, Some(base));
                    let key = format!("c{worker}-{round}");
                    // Somebody else may take the layer away at any moment; the one below stays.
                    if bed.driver.prepare(&key, Some(&chain)).is_ok() {
                        assert!(bed.driver.has_snapshot(&key));
                        let _ = bed.driver.changes(&key);
                    }
                    let _ = (bed.driver.stock(&chain), bed.driver.view(&chain).map(drop));
                    bed.driver.remove(&key).expect("removed");
                    bed.driver.remove_layer(&chain).expect("removed");
                    assert_eq!(bed.driver.ancestry(base).len(), 1);
                }
            });
        }
    });
    let chain = bed.layer(&tars[0], Some(&base));
    assert_eq!(bed.snapshot("c", Some(&chain)).read("f0").len(), 3000);
    bed.assert_removable();
}
