//! What is read, and when.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use dockerd_sys::fuse::{FuseServer, Opened};

use super::image;
use super::source::{Mode, Source, connection_of, connections, noise};

fn again(file: &File) -> File {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("opened again")
}

fn read(file: &File, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}

pub(crate) fn bytes_are_right() {
    let server = FuseServer::start().expect("started");
    let source = Source::new(noise(9_000_001), Mode::Answer);
    let opened = server.open(source.size(), source.clone()).expect("opened");
    assert_eq!(opened.file.metadata().expect("known").len(), source.size());
    assert!(File::options().write(true).open(format!("/proc/self/fd/{}", opened.file.as_raw_fd())).is_err());
    let places = noise(8 * 400);
    std::thread::scope(|scope| {
        for places in places.chunks(8 * 100) {
            let file = again(&opened.file);
            let source = &source;
            scope.spawn(move || {
                for place in places.chunks(8) {
                    let number = u64::from_le_bytes(place.try_into().expect("eight"));
                    let offset = number % source.size();
                    let length = ((number >> 40) % 300_000).min(source.size() - offset) as usize;
                    let got = read(&file, offset, length).expect("read");
                    assert!(got == source.part(offset, length), "{length} bytes from {offset}");
                }
            });
        }
    });
    let all = read(&opened.file, 0, source.bytes.len()).expect("read");
    assert!(all == source.bytes);
    assert_eq!(opened.file.read_at(&mut [0; 10], source.size()).expect("the end"), 0);
    assert_eq!(opened.file.read_at(&mut [0; 10], source.size() - 3).expect("the end"), 3);
}

pub(crate) fn answers_come_late_and_in_any_order() {
    const READERS: u64 = 300;
    const STEP: u64 = 1 << 20;
    let server = FuseServer::start().expect("started");
    let source = Source::new(noise((READERS * STEP) as usize / 16), Mode::Keep);
    let step = STEP / 16;
    let opened = server.open(source.size(), source.clone()).expect("opened");
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let file = again(&opened.file);
                let source = &source;
                scope.spawn(move || {
                    // Each alone: what is read ahead would come together.
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).expect("advice");
                    let offset = reader * step;
                    assert!(read(&file, offset, 4096).expect("read") == source.part(offset, 4096), "{reader}");
                })
            })
            .collect();
        // More than the kernel lets wait unless it is told to: none holds up the others.
        source.wait_for(READERS as usize);
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        for _ in 0..READERS {
            source.answer_last();
        }
    });
}

pub(crate) fn errors_do_not_last() {
    let server = FuseServer::start().expect("started");
    let source = Source::new(noise(1 << 20), Mode::Drop);
    let opened = server.open(source.size(), source.clone()).expect("opened");
    let mount = image::mounted(&opened.file);
    let inside = File::open(image::inside(&mount)).expect("opened");
    for file in [&opened.file, &inside] {
        source.set(Mode::Drop);
        let refused = read(file, 500_000, 10).expect_err("no bytes");
        assert_eq!(refused.raw_os_error(), Some(libc::EIO));
        source.set(Mode::Answer);
        assert!(read(file, 500_000, 10).expect("read") == source.part(500_000, 10));
        // The first has filled the pages for the second.
        assert!(rustix::fs::fadvise(&opened.file, 0, None, rustix::fs::Advice::DontNeed).is_ok());
    }
}

pub(crate) fn the_end_is_told_and_nothing_is_left() {
    let before = connections().len();
    let server = FuseServer::start().expect("started");
    let source = Source::new(noise(8192), Mode::Answer);
    let Opened { file, device } = server.open(source.size(), source.clone()).expect("opened");
    let (number, second) = (connection_of(&file), again(&file));
    assert!(connections().contains(&number));
    drop(file);
    assert!(!source.has_ended() && connections().contains(&number));
    let mount = image::mounted(&second);
    drop(second);
    assert!(read(&File::open(image::inside(&mount)).expect("opened"), 0, 10).is_ok(), "a mount keeps it");
    assert!(!source.has_ended() && server.sessions() == 1);
    drop(mount);
    source.wait_for_end();
    assert_eq!(server.sessions(), 0);
    drop((server, device));
    assert_eq!(Arc::strong_count(&source), 1);
    assert_eq!(connections().len(), before);
}

pub(crate) fn what_is_open_needs_no_server_to_open_and_close() {
    let server = FuseServer::start().expect("started");
    let source = Source::new(noise(8192), Mode::Answer);
    let Opened { file, device } = server.open(source.size(), source.clone()).expect("opened");
    assert_eq!(read(&file, 0, 4096).expect("read"), source.part(0, 4096));
    drop(server);
    let second = again(&file);
    assert_eq!(second.metadata().expect("known").len(), 8192);
    assert_eq!(read(&second, 100, 100).expect("from the page cache"), source.part(100, 100));
    // Neither image nor overlay ask anything.
    let mount = image::mounted(&file);
    assert_eq!(read(&File::open(image::inside(&mount)).expect("opened"), 0, 10).expect("read"), source.part(0, 10));
    drop((second, file, mount, device));
}

pub(crate) fn images_and_overlays_stand_on_files() {
    let server = FuseServer::start().expect("started");
    let source = Source::new(noise(4 << 20), Mode::Keep);
    let opened = server.open(source.size(), source.clone()).expect("opened");
    let dir = tempfile::tempdir().expect("a directory");
    let image = image::mounted(&opened.file);
    let overlay = image::overlaid(&image, &dir);
    let file = File::open(image::inside(&overlay)).expect("opened");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&file, 1_234_567, 5000).expect("read"));
        source.wait_for_about(1_234_567);
        assert!(!reader.is_finished());
        source.set(Mode::Answer);
        assert!(reader.join().expect("no panic") == source.part(1_234_567, 5000));
    });
    assert!(read(&file, 0, source.bytes.len()).expect("read") == source.bytes);
    // Copied up as a whole.
    let written = File::options().write(true).open(image::inside(&overlay)).expect("opened");
    written.write_all_at(b"new", 0).expect("written");
    let now = std::fs::read(image::inside(&overlay)).expect("read");
    assert!(now[..3] == *b"new" && now[3..] == source.bytes[3..]);
}

pub(crate) fn programs_run() {
    let mut bytes = std::fs::read("/usr/bin/busybox").expect("busybox is installed");
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let server = FuseServer::start().expect("started");
    let source = Source::new(bytes, Mode::Answer);
    let opened = server.open(source.size(), source.clone()).expect("opened");
    let dir = tempfile::tempdir().expect("a directory");
    let image = image::mounted(&opened.file);
    for mount in [&image, &image::overlaid(&image, &dir)] {
        let output = Command::new(image::inside(mount)).arg0("echo").arg("hello").output().expect("runs");
        assert_eq!(output.stdout, b"hello\n");
    }
}
