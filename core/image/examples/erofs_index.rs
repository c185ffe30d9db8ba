//! Makes the EROFS index of a tar, or the merged index of several (bottom first), and says how long each step took.
//!
//! `erofs_index INDEX TAR...`

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use dockerd_image::erofs::{Merge, read, scan, write};
use dockerd_image::untar::TarFile;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().ok_or("erofs_index INDEX TAR...")?;
    let mut indexes = Vec::new();
    for path in arguments {
        indexes.push(index(Path::new(&path))?);
    }
    let image = match &mut indexes[..] {
        [one] => std::mem::take(one),
        all => merge(all)?,
    };
    std::fs::write(target, image)?;
    Ok(())
}

fn index(path: &Path) -> Result<Vec<u8>, Failure> {
    let file = File::open(path)?;
    let start = Instant::now();
    let scanned = scan(TarFile::new(&file)?, [0; 64])?;
    let scan = start.elapsed();
    let image = write(&scanned.tree)?;
    let write = start.elapsed() - scan;
    let (entries, length) = (scanned.unpacked.entries, image.len());
    writeln!(
        std::io::stdout(),
        "{}: {entries} entries, scan {scan:?}, write {write:?}, index {length} bytes",
        path.display()
    )?;
    Ok(image)
}

fn merge(indexes: &[Vec<u8>]) -> Result<Vec<u8>, Failure> {
    let start = Instant::now();
    let trees = indexes.iter().map(|image| read(image)).collect::<Result<Vec<_>, _>>()?;
    let read = start.elapsed();
    let mut merge = Merge::new();
    trees.iter().try_for_each(|tree| merge.add(tree))?;
    let tree = merge.finish();
    let merged = start.elapsed() - read;
    let image = write(&tree)?;
    let written = start.elapsed() - read - merged;
    let (layers, inodes, length) = (trees.len(), tree.len(), image.len());
    writeln!(
        std::io::stdout(),
        "{layers} layers, {inodes} inodes: read {read:?}, merge {merged:?}, write {written:?}, index {length} bytes"
    )?;
    Ok(image)
}
