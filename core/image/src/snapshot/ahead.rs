//! Reading ahead: the first container of an image finds its files on disk one by one, each with a wait of its own, although they
//! lie side by side in a few tars. So these are brought into the page cache in one go, in a pause behind the start, as far as
//! there is plenty of memory. Nothing waits for it, and what is there already costs nothing.

use std::fs::File;
use std::num::NonZeroU64;
use std::sync::OnceLock;
use std::sync::mpsc::Sender;

use dockerd_sys::chores;
use rustix::fs::Advice;

/// Most of one image, in bytes.
const MOST: u64 = 512 << 20;
/// What part of the memory that is free for it may be filled.
const PART: u64 = 8;
/// Asked for at a time: the kernel passes over what is more than its disk's limit, and no disk has less than this.
const PIECE: NonZeroU64 = NonZeroU64::new(128 << 10).expect("not zero");

/// Whoever reads ahead; a thread that begins with the first wish.
#[derive(Debug, Default)]
pub(super) struct ReadAhead(OnceLock<Option<Sender<Vec<File>>>>);

impl ReadAhead {
    /// Wishes for the content of `files`, the most wanted first.
    pub(super) fn wish(&self, files: Vec<File>) {
        let begin = || {
            let reader =
                chores::start("read-ahead", |wishes: Vec<Vec<File>>| wishes.iter().for_each(|files| read(files)));
            reader.inspect_err(|error| tracing::warn!(%error, "images are not read ahead")).ok()
        };
        if let Some(reader) = self.0.get_or_init(begin) {
            // The thread lives as long as this.
            let _ = reader.send(files);
        }
    }
}

fn read(files: &[File]) {
    let mut left = available().map_or(0, |bytes| (bytes / PART).min(MOST));
    for file in files {
        let length = file.metadata().map_or(0, |meta| meta.len()).min(left);
        left -= length;
        let mut at = 0;
        while at < length {
            if let Err(error) = rustix::fs::fadvise(file, at, Some(PIECE), Advice::WillNeed) {
                tracing::debug!(%error, "an image is not read ahead");
                return;
            }
            at += PIECE.get();
        }
    }
}

/// Bytes of memory that can be had without anything being swapped out (proc(5), `MemAvailable`).
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_known() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
