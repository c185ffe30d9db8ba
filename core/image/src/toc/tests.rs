//! Layers written by the test kit and by others, read by their tables of contents, against the scan of their whole tars; and
//! tables that nobody should have written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use testkit::Blob;

use super::*;
use crate::erofs::{Scanned, scan};

mod hostile;
mod packed;
mod real;

/// Asks for a TOC as a pull does.
fn fetch(annotations: &BTreeMap<String, String>, blob: &[u8]) -> Result<Toc, TocError> {
    let mut locator = locate(annotations, blob.len() as u64).expect("annotated");
    for _ in 0..3 {
        let wanted = locator.wanted();
        match locator.feed(&blob[wanted.start as usize..wanted.end as usize])? {
            Next::More => {}
            Next::Done(toc) => return Ok(toc),
        }
    }
    panic!("always more is wanted");
}

fn parse(annotations: &BTreeMap<String, String>, blob: &[u8]) -> Result<LazyLayer, TocError> {
    let toc = fetch(annotations, blob)?;
    LazyLayer::parse(toc.kind, &toc.json, [0; 64])
}

fn lazily(blob: &Blob) -> Result<LazyLayer, TocError> {
    let toc = fetch(&blob.annotations, &blob.bytes)?;
    assert!(toc.json == blob.toc, "the TOC as it was written");
    LazyLayer::parse(toc.kind, &toc.json, [0; 64])
}

/// The whole payload, put together from chunks of the blob.
fn payload(layer: &LazyLayer, blob: &[u8]) -> Vec<u8> {
    let mut out = vec![0; layer.payload_size as usize];
    for chunk in layer.chunks(0..layer.payload_size) {
        let (at, from) = (chunk.payload(), chunk.blob());
        let content = chunk.inflate(&blob[from.start as usize..from.end as usize]).expect("inflated");
        out[at.start as usize..at.end as usize].copy_from_slice(&content);
    }
    out
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("written");
    file
}

fn scanned(tar: &[u8]) -> Scanned {
    scan(tar, [0; 64]).expect("scanned")
}
