//! Layers as tars: a tree as package managers of JavaScript make it, and a tree of few large files.

use std::io::{self, Write};

use anyhow::Result;
use tar::{Builder, EntryType, Header};

use super::random::Filler;

/// Half of the files of packages are smaller, in bytes; the mean is three times that.
const MEDIAN: f64 = 2000.0;
const SIGMA: f64 = 1.5;
/// The largest file of a package.
const MOST: usize = 2 << 20;
/// Files of a package, on average.
const PER_PACKAGE: usize = 20;
/// The same of files in a layer of few large ones.
const BULK_MEDIAN: f64 = 16e3;
const BULK_SIGMA: f64 = 2.0;
const BULK_MOST: usize = 16 << 20;
/// Of so many files in a layer of large ones one is text.
const ONE_TEXT_IN: usize = 2;

/// Writes a tar of about `files` files, 6 kB on average, in directories of packages below `/app/node_modules`.
pub fn packages(out: &mut dyn Write, files: usize) -> Result<()> {
    let mut tar = Builder::new(out);
    programs(&mut tar)?;
    ["app/", "app/node_modules/"].into_iter().try_for_each(|path| directory(&mut tar, path))?;
    let (mut filler, mut done, mut content) = (Filler::new(files as u64), 0, Vec::new());
    for package in 0.. {
        if done >= files {
            break;
        }
        let root = match package % 7 {
            0 => format!("app/node_modules/@scope{}/package-{package}/", package % 23),
            3 => format!("app/node_modules/package-{}/node_modules/nested-{package}/", package - 1),
            _ => format!("app/node_modules/package-{package}/"),
        };
        for part in ["", "lib/", "dist/", "dist/esm/"] {
            directory(&mut tar, &format!("{root}{part}"))?;
        }
        let own = filler.random().below(2 * PER_PACKAGE - 2) + 2;
        for file in 0..own.min(files - done) {
            let path = match file {
                0 => format!("{root}package.json"),
                1 => format!("{root}README.md"),
                _ => {
                    let place = ["", "lib/", "lib/", "dist/", "dist/esm/"][filler.random().below(5)];
                    let suffix = ["js", "js", "js", "d.ts", "js.map", "mjs"][filler.random().below(6)];
                    format!("{root}{place}module-{file}.{suffix}")
                }
            };
            let size = filler.random().size(MEDIAN, SIGMA, MOST);
            content.clear();
            filler.text(&mut content, size);
            append(&mut tar, &path, &content, 0o644)?;
        }
        done += own.min(files - done);
    }
    Ok(tar.into_inner()?.flush()?)
}

/// Writes a tar of about `bytes` bytes in files of 120 kB on average below `/data`, half of them text and the others as
/// programs; `seed` tells one layer from another. With `programs` it can be run.
pub fn bulk(out: &mut dyn Write, bytes: usize, seed: u64, with_programs: bool) -> Result<()> {
    let mut tar = Builder::new(out);
    if with_programs {
        programs(&mut tar)?;
    }
    directory(&mut tar, "data/")?;
    let root = format!("data/layer-{seed}/");
    directory(&mut tar, &root)?;
    let (mut filler, mut done, mut content) = (Filler::new(seed), 0, Vec::new());
    for file in 0.. {
        if done >= bytes {
            break;
        }
        if file % 100 == 0 {
            directory(&mut tar, &format!("{root}{:03}/", file / 100))?;
        }
        let size = filler.random().size(BULK_MEDIAN, BULK_SIGMA, BULK_MOST).min(bytes - done).max(1);
        content.clear();
        if filler.random().below(ONE_TEXT_IN) == 0 {
            filler.text(&mut content, size);
        } else {
            filler.binary(&mut content, size);
        }
        append(&mut tar, &format!("{root}{:03}/file-{file}", file / 100), &content, 0o644)?;
        done += size;
    }
    Ok(tar.into_inner()?.flush()?)
}

/// The small root of busybox, so that something can be run.
fn programs(tar: &mut Builder<&mut dyn Write>) -> Result<()> {
    let root = crate::image::busybox_root()?;
    for entry in tar::Archive::new(root.as_slice()).entries()? {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        let path = entry.path()?.into_owned();
        match entry.link_name()? {
            Some(target) => tar.append_link(&mut header, path, target)?,
            None => tar.append_data(&mut header, path, &mut entry)?,
        }
    }
    Ok(())
}

fn directory(tar: &mut Builder<&mut dyn Write>, path: &str) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Directory, 0o755, 0), path, io::empty())
}

fn append(tar: &mut Builder<&mut dyn Write>, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Regular, mode, content.len()), path, content)
}

/// A header of root's with a fixed time.
pub(super) fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(tar: &[u8], below: &str) -> Vec<u64> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.header().entry_type() == EntryType::Regular);
        files.filter(|entry| entry.path().unwrap().starts_with(below)).map(|entry| entry.size()).collect()
    }

    #[test]
    fn a_tree_of_packages_has_as_many_files_as_asked_for() {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        packages(&mut first, 500).unwrap();
        packages(&mut second, 500).unwrap();
        assert_eq!(first, second, "the same bytes each time");
        assert_eq!(sizes(&first, "app").len(), 500);
        assert_eq!(sizes(&first, "bin").len(), 1, "there is something to run");
    }

    #[test]
    fn bulk_has_as_many_bytes_as_asked_for() {
        let mut out = Vec::new();
        bulk(&mut out, 3 << 20, 1, false).unwrap();
        assert_eq!(sizes(&out, "data").iter().sum::<u64>(), 3 << 20);
        assert!(sizes(&out, "bin").is_empty());
    }
}
