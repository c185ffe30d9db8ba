//! Times the unpacking of one plain tar into a new directory, without the rest of a load: `unpack TAR DIRECTORY`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use dockerd_image::layer::{UnpackOptions, unpack};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(tar), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: unpack TAR DIRECTORY".into());
    };
    std::fs::create_dir(&directory)?;
    let root = File::open(&directory)?;
    let begun = Instant::now();
    let options = UnpackOptions { whiteouts: true, ..UnpackOptions::default() };
    let unpacked = unpack(File::open(&tar)?, root.as_fd(), options)?;
    let (seconds, mut out) = (begun.elapsed().as_secs_f64(), std::io::stdout());
    Ok(writeln!(out, "{} entries, {} bytes in {seconds:.3} s", unpacked.entries, unpacked.bytes)?)
}
