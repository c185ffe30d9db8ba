//! An EROFS image of one file, `file`, whose bytes lie on a device, and what can be mounted over it (the kernel's
//! fs/erofs/erofs_fs.h).

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use dockerd_sys::mount::{self, OverlayLayers};

const BLOCK: usize = 4096;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`, `EROFS_FEATURE_INCOMPAT_DEVICE_TABLE`.
const INCOMPATIBLE: u32 = 0x4 | 0x8;

/// An image with a file of `size` bytes, a multiple of the block, from the device's beginning.
fn bytes(size: usize) -> Vec<u8> {
    assert_eq!(size % BLOCK, 0);
    let mut image = vec![0; 2 * BLOCK];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let le = |value: usize| (value as u32).to_le_bytes();
    // The superblock: magic, bits of the block's size, root's number 0, blocks, where inodes are, features, one device
    // whose slot is at 1152.
    put(1024, &0xE0F5_E1E2_u32.to_le_bytes());
    put(1036, &[12]);
    put(1040, &[2]);
    put(1060, &le(2));
    put(1064, &le(1));
    put(1104, &INCOMPATIBLE.to_le_bytes());
    put(1110, &[1]);
    put(1112, &[1152_u32.div_euclid(128) as u8]);
    // Its slot: name, blocks, where they would be in one address space.
    put(1152, b"device");
    put(1152 + 64, &le(size / BLOCK));
    put(1152 + 68, &le(2));
    let inode = |layout: u16, mode: u16, size: usize, place: u32, number: u32| {
        let mut out = [0; 32];
        out[..2].copy_from_slice(&(layout << 1).to_le_bytes());
        out[4..6].copy_from_slice(&mode.to_le_bytes());
        out[6] = 1;
        out[8..12].copy_from_slice(&le(size));
        out[16..20].copy_from_slice(&place.to_le_bytes());
        out[20..24].copy_from_slice(&number.to_le_bytes());
        out
    };
    // The root's inode and its entries behind it (FLAT_INLINE); names come after all three entries of 12 bytes.
    let names = [(&b"."[..], 0_u64, 2_u8), (b"..", 0, 2), (b"file", 4, 1)];
    let (mut entries, mut text) = (Vec::new(), Vec::<u8>::new());
    for (name, number, kind) in names {
        entries.extend(number.to_le_bytes());
        entries.extend(((36 + text.len()) as u16).to_le_bytes());
        entries.extend([kind, 0]);
        text.extend(name);
    }
    entries.extend(text);
    put(BLOCK, &inode(2, 0o040_755, entries.len(), u32::MAX, 1));
    put(BLOCK + 32, &entries);
    // The file's, four slots of 32 bytes on (CHUNK_BASED, with indexes): one chunk of device 1.
    let bits = size.div_ceil(BLOCK).next_power_of_two().trailing_zeros();
    put(BLOCK + 128, &inode(4, 0o100_755, size, 0x20 | bits, 2));
    put(BLOCK + 160 + 2, &[1]);
    image
}

/// An image over `device`, mounted.
pub(crate) fn mounted(device: &File) -> OwnedFd {
    let mut file = tempfile::tempfile().expect("a file");
    let size = device.metadata().expect("known").len();
    file.write_all(&bytes(size as usize)).expect("written");
    mount::erofs(file.as_fd(), &[device.as_fd()], 0).expect("mounted")
}

/// A writable overlay over `lower`.
pub(crate) fn overlaid(lower: &OwnedFd, dir: &tempfile::TempDir) -> OwnedFd {
    let make = |name: &str| {
        std::fs::create_dir(dir.path().join(name)).expect("directory");
        File::open(dir.path().join(name)).expect("opened")
    };
    let (upper, work) = (make("upper"), make("work"));
    let upper = Some((upper.as_fd(), work.as_fd()));
    let layers = OverlayLayers { lower: vec![lower.as_fd()], data: Vec::new(), upper, options: &[] };
    mount::overlay(&layers, 0).expect("overlay")
}

/// The file in a mount.
pub(crate) fn inside(mount: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}/file", std::process::id(), mount.as_raw_fd()).into()
}
