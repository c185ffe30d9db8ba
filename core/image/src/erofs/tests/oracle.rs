//! erofs-utils as the judge of the format: its checker takes our indexes, and the kernel shows the same from an index that its
//! `mkfs.erofs --tar=i` makes of the same tar. Skipped, with a line about it, where the programs are not installed.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Output};

use dockerd_sys::mount::{ErofsError, erofs};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::archives::*;
use super::scanned::scanned;
use super::seen::{assert_same, of_directory};
use crate::erofs::{Merge, Tree, scan, write};

/// Runs one of erofs-utils' programs; `None` where it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("not tested: {program} is not installed");
            None
        }
        output => Some(output.expect("it runs")),
    }
}

fn file(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("written");
    path.to_str().expect("a name").to_owned()
}

/// Checks every inode, every directory and every byte. `false` where there is no checker.
fn check(tree: &Tree, tars: &[&[u8]]) -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let image = file(dir.path(), "image", &write(tree).expect("written"));
    let devices =
        tars.iter().enumerate().map(|(at, tar)| format!("--device={}", file(dir.path(), &at.to_string(), tar)));
    let devices: Vec<_> = devices.collect();
    let mut arguments: Vec<&str> = vec!["--extract", "--xattrs"];
    arguments.extend(devices.iter().map(String::as_str));
    arguments.push(&image);
    let Some(output) = run("fsck.erofs", &arguments) else { return false };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    true
}

fn everything() -> Vec<Item> {
    let mut items: Vec<_> =
        (0..300).map(|at| item(FILE, &format!("{at:0width$}", width = 1 + at % 250), "x")).collect();
    items.push(item(DIR, "d", ""));
    for length in [1, 448, 513, 4000] {
        // Linux gives all links this mode; mkfs takes the header's.
        items.push(Item { mode: 0o777, ..item(SYMLINK, &format!("d/link{length}"), &"t".repeat(length)) });
    }
    for (at, length) in [0, 1, 512, 513, 4096, 70_000].into_iter().enumerate() {
        let mut file = item(FILE, &format!("f{length}"), &"0123456789".repeat(length / 10 + 1)[..length]);
        file.xattrs = (0..at * 2).map(|number| (format!("user.k{number}"), b"the same".to_vec())).collect();
        (file.owner, file.mtime) = ((at as u32 * 50_000, 5), (1_000_000 + at as i64, at as u32));
        items.push(file);
        items.push(item(HARDLINK, &format!("d/hard{length}"), &format!("f{length}")));
        items.push(item(
            [tar::EntryType::Char, tar::EntryType::Block, tar::EntryType::Fifo][at % 3],
            &format!("n{at}"),
            "",
        ));
    }
    items
}

#[test]
fn fsck_takes_our_indexes() {
    let tar = archive(&everything());
    if !check(&scanned(&tar).tree, &[&tar]) {
        return;
    }
    let mut runner = TestRunner::default();
    for _ in 0..40 {
        let layers = prop::collection::vec(items(true), 1..4).new_tree(&mut runner).expect("layers").current();
        let tars: Vec<_> = layers.iter().map(|items| archive(items)).collect();
        let mut merge = Merge::new();
        let mut used: Vec<&[u8]> = Vec::new();
        for tar in &tars {
            let Ok(scanned) = scan(&tar[..], [0; 64]) else { continue };
            check(&scanned.tree, &[tar]);
            merge.add(&scanned.tree).expect("merged");
            used.push(tar);
        }
        check(&merge.finish(), &used);
    }
}

#[test]
fn privileged_mkfs_makes_the_same_of_a_tar() {
    let tar = archive(&everything());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (theirs, source) = (dir.path().join("theirs").display().to_string(), file(dir.path(), "tar", &tar));
    let arguments = ["--tar=i", "-b512", "-Enoinline_data", "--quiet", &theirs, &source];
    let Some(output) = run("mkfs.erofs", &arguments) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ours = file(dir.path(), "ours", &write(&scanned(&tar).tree).expect("written"));
    let device = File::open(&source).expect("opened");
    let look = |image: &str| {
        let image = File::open(image).expect("opened");
        let mount = match erofs(image.as_fd(), &[device.as_fd()], 0) {
            Err(error @ (ErofsError::Missing | ErofsError::NeedsBlockDevice)) => {
                eprintln!("not tested: {error}");
                return None;
            }
            mount => mount.expect("mounted"),
        };
        let mut view = of_directory(format!("/proc/self/fd/{}/.", mount.as_raw_fd()).as_ref());
        // The root is nobody's entry.
        view.remove(&b""[..]).map(|_| view)
    };
    let (Some(theirs), Some(ours)) = (look(&theirs), look(&ours)) else { return };
    assert_same(&theirs, &ours);
}
