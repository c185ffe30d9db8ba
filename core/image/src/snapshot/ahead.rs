//! Reading ahead: the first container of an image finds its files on disk one by one, each with a wait of its own, although they
//! lie side by side in a few tars. So these are brought into the page cache in one go, in a pause behind the start, as far as
//! there is plenty of memory. Nothing waits for it, and what is there already costs nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dockerd_sys::chores;
use dockerd_types::Digest;
use rustix::fs::Advice;

/// Most of one image, in bytes.
const MOST: u64 = 512 << 20;
/// What part of the memory that is free for it may be filled.
const PART: u64 = 8;
/// Asked for at a time: the kernel passes over what is more than its disk's limit, and no disk has less than this.
const PIECE: NonZeroU64 = NonZeroU64::new(128 << 10).expect("not zero");

/// How soon after the last time the same files are looked at again: they may have left the page cache.
const AGAIN: Duration = Duration::from_secs(1);
/// Layers whose last time is remembered.
const MOST_REMEMBERED: usize = 256;

/// Finds the files that are wished for, on the thread that reads.
type Wish = Box<dyn FnOnce() -> io::Result<Vec<File>> + Send>;

/// Whoever reads ahead; a thread that begins with the first wish.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    reader: OnceLock<Option<Sender<Wish>>>,
    wished: Mutex<HashMap<Digest, Instant>>,
}

impl ReadAhead {
    /// Wishes for the content of the `files` of layer `chain`, the most wanted first, unless that was just done. They are
    /// looked for on the thread that reads.
    pub(super) fn wish(&self, chain: &Digest, files: impl FnOnce() -> io::Result<Vec<File>> + Send + 'static) {
        {
            let mut wished = self.wished.lock().unwrap_or_else(PoisonError::into_inner);
            if wished.get(chain).is_some_and(|last| last.elapsed() < AGAIN) {
                return;
            }
            if wished.len() >= MOST_REMEMBERED {
                wished.clear();
            }
            wished.insert(chain.clone(), Instant::now());
        }
        let begin = || {
            let reader = chores::start("read-ahead", |wishes: Vec<Wish>| {
                for files in wishes {
                    // An image may go before its turn comes.
                    match files() {
                        Ok(files) => read(&files),
                        Err(error) => tracing::debug!(%error, "an image is not read ahead"),
                    }
                }
            });
            reader.inspect_err(|error| tracing::warn!(%error, "images are not read ahead")).ok()
        };
        if let Some(reader) = self.reader.get_or_init(begin) {
            // The thread lives as long as this.
            let _ = reader.send(Box::new(files));
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
