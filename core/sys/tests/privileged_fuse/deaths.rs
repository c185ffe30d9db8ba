//! Readers and servers that are killed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use dockerd_sys::fuse::FuseServer;

use super::image;
use super::roles::{Actor, OWN, SIZE};
use super::source::{Mode, Source, connection_of, connections, noise};

pub(crate) fn readers_that_wait_can_be_killed() {
    let server = FuseServer::start().expect("started");
    let source = Source::new(noise(SIZE), Mode::Keep);
    let opened = server.open(source.size(), source.clone()).expect("opened");
    let dir = tempfile::tempdir().expect("a directory");
    let image = image::mounted(&opened.file);
    let overlay = image::overlaid(&image, &dir);
    let places = [
        opened.file.try_clone().expect("a copy"),
        File::open(image::inside(&image)).expect("opened"),
        File::open(image::inside(&overlay)).expect("opened"),
    ];
    let mut offset = 100;
    for file in &places {
        for how in ["read", "map"] {
            offset += 1 << 20;
            let role = format!("{how}@{offset}");
            let mut killed = Actor::start(&role, &[file]);
            source.wait_for_about(offset);
            // Who waits for the same page is not harmed by the other's death.
            let other = Actor::start(&role, &[file]);
            assert!(killed.kill(), "{how} of {file:?} cannot be killed");
            source.set(Mode::Answer);
            assert_eq!(other.hear().0, b"read");
            source.set(Mode::Keep);
        }
    }
}

/// A server in another process, the file and the device.
fn server(role: &str) -> (Actor, File, OwnedFd) {
    let actor = Actor::start(role, &[]);
    let (word, fds) = actor.hear();
    let [file, device] = <[OwnedFd; 2]>::try_from(fds).expect("file and device");
    assert_eq!(word, b"ready");
    (actor, File::from(file), device)
}

pub(crate) fn the_next_server_answers_what_waited() {
    let (mut first, file, device) = server("server");
    let number = connection_of(&file);
    let dir = tempfile::tempdir().expect("a directory");
    let (image, source) = (image::mounted(&file), Source::new(noise(SIZE), Mode::Keep));
    let overlay = image::overlaid(&image, &dir);
    let inside = File::open(image::inside(&overlay)).expect("opened");
    let check = |file: &File, offset: u64| {
        let mut buffer = [0; 5000];
        file.read_exact_at(&mut buffer, offset).expect("read");
        assert!(buffer == *source.part(offset, 5000), "{offset}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| check(&file, 1 << 20));
        assert!(first.hear().0.starts_with(b"asked"));
        scope.spawn(|| check(&inside, 2 << 20));
        assert!(first.hear().0.starts_with(b"asked"));
        assert!(first.kill());
        // Nobody serves now. Opening, closing and sizes need nobody.
        scope.spawn(|| check(&file, 3 << 20));
        let reader = Actor::start(&format!("map@{}", 4 << 20), &[&inside]);
        assert_eq!(file.metadata().expect("known").len(), SIZE as u64);
        drop(File::open(image::inside(&image)).expect("opened"));
        // A second server that dies with all of them, and a third.
        let second = FuseServer::start().expect("started");
        second.resume(device.try_clone().expect("a copy"), source.size(), source.clone()).expect("resumed");
        source.wait_for(4);
        let third = FuseServer::start().expect("started");
        drop(second);
        let last = Source::new(noise(SIZE), Mode::Answer);
        third.resume(device, source.size(), last.clone()).expect("resumed");
        assert_eq!(reader.hear().0, b"read");
        // All others are joined here.
        (third, last)
    });
    drop((file, inside, overlay, image));
    assert!(!connections().contains(&number));
}

pub(crate) fn a_server_that_leaves_answers_nothing() {
    let first = FuseServer::start().expect("started");
    let source = Source::new(noise(SIZE), Mode::Keep);
    let opened = first.open(source.size(), source.clone()).expect("opened");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 100];
            opened.file.read_exact_at(&mut buffer, 100).expect("read");
            assert!(buffer == *source.part(100, 100));
        });
        source.wait_for(1);
        first.leave();
        assert!(first.open(1, source.clone()).is_err());
        drop(first);
        source.forget();
        let second = FuseServer::start().expect("started");
        let last = Source::new(noise(SIZE), Mode::Answer);
        second.resume(opened.device.try_clone().expect("a copy"), source.size(), last).expect("resumed");
        second
    });
}

pub(crate) fn a_server_that_reads_its_own_file_can_be_killed() {
    let (mut first, file, device) = server("reads-itself");
    for _ in 0..2 {
        let word = String::from_utf8(first.hear().0).expect("text");
        let offset: u64 = word.strip_prefix("asked ").and_then(|offset| offset.parse().ok()).expect("an offset");
        assert!(offset.abs_diff(OWN) <= 1 << 20, "{word}");
    }
    assert!(first.kill(), "the device lives on, so nobody ends its requests");
    let server = FuseServer::start().expect("started");
    let source = Source::new(noise(SIZE), Mode::Answer);
    server.resume(device, source.size(), source.clone()).expect("resumed");
    let mut buffer = [0; 4096];
    file.read_exact_at(&mut buffer, OWN).expect("read");
    assert!(buffer == *source.part(OWN, 4096));
    drop(file);
    source.wait_for_end();
}

pub(crate) fn what_cannot_be_gone_on_with() {
    let server = FuseServer::start().expect("started");
    let source = Source::new(noise(4096), Mode::Answer);
    let other = tempfile::tempfile().expect("a file");
    let refused = server.resume(other.try_clone().expect("a copy").into(), 4096, source.clone());
    assert_eq!(refused.expect_err("no device").kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(other.metadata().expect("known").len(), 0, "nothing is written to it");
    // One whose file nobody has any more: told at once.
    let (mut first, file, device) = server_of_nobody();
    drop(file);
    assert!(first.kill());
    server.resume(device, SIZE as u64, source.clone()).expect("taken");
    source.wait_for_end();
    assert_eq!(server.sessions(), 0);
}

fn server_of_nobody() -> (Actor, File, OwnedFd) {
    self::server("server")
}
