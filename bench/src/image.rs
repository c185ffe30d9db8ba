//! Images the measures need, made in memory, the same bytes for every daemon: a small one of busybox alone, and one whose
//! layer has many small files.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Programs the measures run.
const APPLETS: [&str; 3] = ["sh", "sleep", "true"];
/// Files per directory of the image with many files.
const PER_DIRECTORY: usize = 100;

/// The root of the small image, as a tar.
pub fn busybox_root() -> Result<Vec<u8>> {
    let found = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let program = fs::read(found.context("busybox-static is not installed")?)?;
    let mut tar = Builder::new(Vec::new());
    for dir in ["bin/", "etc/", "tmp/", "root/"] {
        tar.append_data(&mut header(EntryType::Directory, 0o755, 0), dir, std::io::empty())?;
    }
    tar.append_data(&mut header(EntryType::Regular, 0o755, program.len()), "bin/busybox", program.as_slice())?;
    for applet in APPLETS {
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox")?;
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\n";
    tar.append_data(&mut header(EntryType::Regular, 0o644, passwd.len()), "etc/passwd", passwd.as_slice())?;
    Ok(tar.into_inner()?)
}

/// An image archive as `docker save` writes it, whose one layer, compressed, has `files` files of one to eight kilobytes.
pub fn many_files(name: &str, files: usize) -> Result<Vec<u8>> {
    let layer = many_files_layer(files)?;
    let mut compressed = GzEncoder::new(Vec::new(), Compression::new(6));
    compressed.write_all(&layer)?;
    let compressed = compressed.finish()?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Cmd": ["true"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(&layer)))] },
        "history": [{ "created": "2024-01-01T00:00:00Z", "created_by": "bench" }],
    });
    let config = serde_json::to_vec(&config)?;
    let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer/layer.tar"] }]);
    let manifest = serde_json::to_vec(&manifest)?;
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in
        [(config_name.as_str(), &config), ("layer/layer.tar", &compressed), ("manifest.json", &manifest)]
    {
        tar.append_data(&mut header(EntryType::Regular, 0o644, bytes.len()), path, bytes.as_slice())?;
    }
    Ok(tar.into_inner()?)
}

/// The layer of [`many_files`], as a tar.
pub fn many_files_layer(files: usize) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for file in 0..files {
        let dir = format!("data/d{:04}/", file / PER_DIRECTORY);
        if file % PER_DIRECTORY == 0 {
            tar.append_data(&mut header(EntryType::Directory, 0o755, 0), &dir, std::io::empty())?;
        }
        let content = text(&mut seed);
        tar.append_data(&mut header(EntryType::Regular, 0o644, content.len()), format!("{dir}f{file}"), &content[..])?;
    }
    Ok(tar.into_inner()?)
}

/// Lines of words that compress about as source code does.
fn text(seed: &mut u64) -> Vec<u8> {
    let mut next = || {
        // xorshift64: reproducible and good enough for filling files.
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    };
    let lines = 20 + next() % 160;
    let mut out = String::new();
    for _ in 0..lines {
        let value = next();
        out.push_str(&format!("let field_{:x} = table.find({});\n", value % 4096, value >> 44));
    }
    out.into_bytes()
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_names_what_it_holds() {
        let archive = many_files("bench:files", 250).unwrap();
        let names: Vec<String> = tar::Archive::new(archive.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names.len(), 3);
        assert!(names[0].ends_with(".json") && names[0].len() == 64 + 5, "{names:?}");
        let layer = many_files_layer(250).unwrap();
        assert_eq!(tar::Archive::new(layer.as_slice()).entries().unwrap().count(), 250 + 3);
        assert_eq!(layer, many_files_layer(250).unwrap(), "the same bytes each time");
    }
}
