//! Writers and readers of a spool: who follows whom, what is in memory, what is in the file.

use super::*;

#[test]
fn readers_follow_the_writer_and_hear_of_its_end() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut writer, spool) = Spool::create(dir.path()).expect("made");
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let mut reader = spool.reader().expect("opened");
            std::thread::spawn(move || {
                let mut out = Vec::new();
                reader.read_to_end(&mut out).map(|_| out)
            })
        })
        .collect();
    for _ in 0..100 {
        writer.write(&[7; 999]).expect("written");
    }
    let digest = writer.finish().expect("finished");
    assert_eq!(digest, Digest::sha256(&Sha256::digest([7; 99_900]).into()));
    for reader in readers {
        assert_eq!(reader.join().expect("joined").expect("read"), [7; 99_900]);
    }
}

#[test]
fn a_later_writer_goes_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("kept");
    for (most, expected) in [(0, 0), (100, 100), (150, 150)] {
        let (mut writer, spool) = Spool::keep(&path).expect("opened");
        let mut reader = spool.reader().expect("opened");
        assert_eq!(writer.catch_up(most).expect("read"), expected);
        writer.write(&[7; 100]).expect("written");
        let length = usize::try_from(expected).expect("small") + 100;
        assert_eq!(writer.finish().expect("finished"), Digest::sha256(&Sha256::digest(vec![7; length]).into()));
        let mut out = Vec::new();
        reader.read_to_end(&mut out).expect("read");
        assert_eq!(out, vec![7; length]);
    }
    assert_eq!(std::fs::metadata(path).expect("kept").len(), 250);
}

#[test]
fn a_writer_that_goes_away_is_an_error() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (writer, spool) = Spool::create(dir.path()).expect("made");
    let mut reader = spool.reader().expect("opened");
    drop(writer);
    assert_eq!(reader.read_to_end(&mut Vec::new()).expect_err("broken").to_string(), "unexpected EOF");
    drop((reader, spool));
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
}

/// Both twins, to both places; the temporary directory is on a disk's file system, or takes plain calls.
fn ways() -> Vec<(Keep, Engine)> {
    let keeps = [Keep::InCache, Keep::OnDisk(LONG as u64), Keep::OnDisk(5_000_000), Keep::OnDisk(u64::MAX)];
    let engines = [Engine::Plain, Engine::Ring];
    keeps.into_iter().flat_map(|keep| engines.map(|engine| (keep, engine))).collect()
}

const LONG: usize = 20 * BLOCK + 12_345;

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let number = std::iter::from_fn(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((state >> 24) as u8)
    });
    number.take(length).collect()
}

fn directory() -> tempfile::TempDir {
    // On a disk where there is one: memory file systems do not write past the page cache.
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("temporary directory")
}

#[test]
fn what_is_handed_on_is_what_is_in_the_file() {
    let (dir, content) = (directory(), noise(LONG));
    for (keep, engine) in ways() {
        let (writer, spool) = Spool::create(dir.path()).expect("made");
        let mut writer = writer.handing(keep, engine);
        let mut reader = spool.reader().expect("opened");
        let near = std::thread::spawn(move || {
            let mut out = Vec::new();
            reader.read_to_end(&mut out).map(|_| out)
        });
        let mut lines = spool.reader().expect("opened");
        let buffered = std::thread::spawn(move || {
            let mut out = Vec::new();
            loop {
                let length = lines.fill_buf().map(|piece| {
                    let length = piece.len().min(10_007);
                    out.extend_from_slice(&piece[..length]);
                    length
                })?;
                if length == 0 {
                    return Ok::<_, io::Error>(out);
                }
                lines.consume(length);
            }
        });
        for piece in content.chunks(70_001) {
            writer.write(piece).expect("written");
        }
        assert_eq!(writer.finish().expect("finished"), Digest::sha256(&Sha256::digest(&content).into()));
        assert!(near.join().expect("joined").expect("read") == content, "{keep:?} {engine:?}");
        assert!(buffered.join().expect("joined").expect("read") == content, "{keep:?} {engine:?}");
        assert!(std::fs::read(spool.path()).expect("read") == content, "{keep:?} {engine:?}");
    }
}

#[test]
fn nobody_waits_for_a_reader_that_is_far_behind() {
    let (dir, content) = (directory(), noise(LONG));
    for (keep, engine) in ways() {
        let (writer, spool) = Spool::create(dir.path()).expect("made");
        let mut writer = writer.handing(keep, engine);
        let mut reader = spool.reader().expect("opened");
        for piece in content.chunks(100_000) {
            let mut piece = piece;
            while !piece.is_empty() {
                let room = writer.space().expect("room");
                let length = room.len().min(piece.len());
                room[..length].copy_from_slice(&piece[..length]);
                writer.advance(length).expect("taken");
                piece = &piece[length..];
            }
        }
        assert!(spool.shared.progress().recent.len() <= keep.blocks(), "memory is bounded");
        assert_eq!(writer.finish().expect("finished"), Digest::sha256(&Sha256::digest(&content).into()));
        let mut out = vec![0; 1_000_000];
        reader.read_exact(&mut out).expect("read");
        assert_eq!(reader.skip(2_000_000).expect("passed"), 2_000_000);
        reader.read_to_end(&mut out).expect("read");
        assert!(out[..1_000_000] == content[..1_000_000] && out[1_000_000..] == content[3_000_000..]);
        drop(reader);
        assert!(spool.shared.progress().recent.is_empty(), "nothing stays in memory");
        assert!(std::fs::read(spool.path()).expect("read") == content);
    }
}

#[test]
fn a_patient_writer_keeps_to_memory_and_does_not_wait_forever() {
    let (dir, content) = (directory(), noise(LONG));
    let (writer, spool) = Spool::create(dir.path()).expect("made");
    let mut writer = writer.handing(Keep::OnDisk(LONG as u64), Engine::Plain);
    writer.set_patient(true);
    let mut reader = spool.reader().expect("opened");
    let slow = std::thread::spawn(move || {
        let (mut out, mut piece) = (Vec::new(), vec![0; 1000]);
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return out,
                length => out.extend_from_slice(&piece[..length.expect("read")]),
            }
            assert!(reader.buffer.is_empty() && reader.near.is_some(), "never from the file");
        }
    });
    writer.write(&content).expect("written");
    writer.finish().expect("finished");
    assert!(slow.join().expect("joined") == content);

    // Its reader goes away, or its spool is ended by somebody else.
    for abort in [false, true] {
        let (writer, spool) = Spool::create(dir.path()).expect("made");
        let mut writer = writer.handing(Keep::InCache, Engine::Plain);
        writer.set_patient(true);
        let reader = spool.reader().expect("opened");
        let content = content.clone();
        let writing = std::thread::spawn(move || writer.write(&content).and_then(|()| writer.finish()));
        let mut progress = spool.shared.progress();
        while progress.written < (Keep::InCache.blocks() * BLOCK) as u64 {
            progress = spool.shared.grown.wait(progress).expect("not poisoned");
        }
        drop(progress);
        if abort {
            spool.abort("enough");
        } else {
            drop(reader);
        }
        writing.join().expect("joined").expect("written");
    }
}

#[test]
fn a_full_disk_is_told_to_the_writer_and_its_readers() {
    // Every write to it fails with ENOSPC.
    let Ok(full) = File::options().read(true).write(true).open("/dev/full") else { return };
    for engine in [Engine::Plain, Engine::Ring] {
        let place = tempfile::NamedTempFile::new().expect("a temporary file").into_temp_path();
        let (mut writer, spool) = Writer::new(full.try_clone().expect("cloned"), Place::Temporary(place));
        writer = writer.handing(Keep::InCache, engine);
        let mut reader = spool.reader().expect("opened");
        let failed = writer.write(&noise(4 * BLOCK)).and_then(|()| writer.finish().map(drop));
        assert_eq!(failed.expect_err("full").kind(), io::ErrorKind::StorageFull, "{engine:?}");
        assert!(reader.read_to_end(&mut Vec::new()).is_err(), "{engine:?}");
    }
}

#[test]
fn what_a_killed_writer_left_counts_to_its_first_hole() {
    let dir = directory();
    let path = dir.path().join("kept");
    let file = File::create(&path).expect("made");
    file.set_len(10 << 20).expect("long");
    file.write_all_at(&[7; 1 << 20], 0).expect("written");
    file.write_all_at(&[7; 1 << 20], 5 << 20).expect("written");
    let (mut writer, _spool) = Spool::keep(&path).expect("opened");
    let found = writer.catch_up(10 << 20).expect("read");
    assert!(found == 1 << 20 || found == 10 << 20, "where there are no holes, all of it");
    assert_eq!(file.metadata().expect("there").len(), found);
}
