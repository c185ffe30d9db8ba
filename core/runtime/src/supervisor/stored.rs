//! Descriptors that belong to no process and that the daemon wants its successor to have, by name. They are given up when the
//! supervisor ends; they do not keep it from that.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// Most names. Each costs a few descriptors; the limit of those is the hard one of the host.
pub(super) const NAMES: usize = 4096;
/// Longest name, in bytes.
pub(super) const NAME: usize = 255;
/// Longest note, in bytes.
pub(super) const NOTE: usize = 4096;
/// Most descriptors under one name.
pub(super) const DESCRIPTORS: usize = 16;

/// Why something is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum StoreError {
    #[error("a name to store descriptors under has 1 to {NAME} bytes")]
    Name,
    #[error("a note of stored descriptors has {NOTE} bytes at most")]
    Note,
    #[error("between 1 and {DESCRIPTORS} descriptors are stored under one name")]
    Descriptors,
    /// Not all came: the receiver had no room for more.
    #[error("of the descriptors to store, some were lost on the way")]
    Lost,
    #[error("there are {NAMES} names with stored descriptors, which is the most")]
    Full,
}

/// What is stored under a name.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) note: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Stored(BTreeMap<String, Entry>);

impl Stored {
    /// Stores `fds`, of which `count` were sent; what was under that name goes. After an error it is still there.
    pub(super) fn put(&mut self, name: String, note: Vec<u8>, count: u8, fds: Vec<OwnedFd>) -> Result<(), StoreError> {
        if name.is_empty() || name.len() > NAME {
            return Err(StoreError::Name);
        }
        if note.len() > NOTE {
            return Err(StoreError::Note);
        }
        if !(1..=DESCRIPTORS).contains(&usize::from(count)) {
            return Err(StoreError::Descriptors);
        }
        if fds.len() != usize::from(count) {
            return Err(StoreError::Lost);
        }
        if self.0.len() >= NAMES && !self.0.contains_key(&name) {
            return Err(StoreError::Full);
        }
        self.0.insert(name, Entry { note, fds });
        Ok(())
    }

    /// Gives up what is under that name.
    pub(super) fn release(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Everything, in the order of names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fds(count: usize) -> Vec<OwnedFd> {
        let one = std::fs::File::open("/dev/null").expect("opened");
        (0..count).map(|_| one.try_clone().expect("a copy").into()).collect()
    }

    fn put(stored: &mut Stored, name: &str, note: usize, count: u8, sent: usize) -> Result<(), StoreError> {
        stored.put(name.to_owned(), vec![0; note], count, fds(sent))
    }

    #[test]
    fn what_is_stored_is_there_until_it_is_released() {
        let mut stored = Stored::default();
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        stored.put("one".to_owned(), b"note".to_vec(), 1, vec![write]).expect("stored");
        put(&mut stored, "two", 0, 2, 2).expect("stored");
        let names: Vec<_> =
            stored.iter().map(|(name, entry)| (name.as_str(), entry.note.len(), entry.fds.len())).collect();
        assert_eq!(names, [("one", 4, 1), ("two", 0, 2)]);
        // In its place, and the descriptor is closed: the pipe ends.
        put(&mut stored, "one", NOTE, 16, 16).expect("stored");
        assert_eq!(rustix::io::read(&read, &mut [0; 1]), Ok(0));
        stored.release("one");
        stored.release("one");
        assert_eq!(stored.iter().count(), 1);
    }

    #[test]
    fn there_are_bounds() {
        let mut stored = Stored::default();
        put(&mut stored, "there", 1, 1, 1).expect("stored");
        let (long, longest) = ("n".repeat(NAME + 1), "n".repeat(NAME));
        let refused = [
            (put(&mut stored, "", 0, 1, 1), StoreError::Name),
            (put(&mut stored, &long, 0, 1, 1), StoreError::Name),
            (put(&mut stored, "there", NOTE + 1, 1, 1), StoreError::Note),
            (put(&mut stored, "there", 0, 0, 0), StoreError::Descriptors),
            (put(&mut stored, "there", 0, 17, 17), StoreError::Descriptors),
            (put(&mut stored, "there", 0, 3, 2), StoreError::Lost),
        ];
        for (result, error) in refused {
            assert_eq!(result, Err(error));
        }
        assert_eq!(stored.0["there"].note.len(), 1, "as it was");
        put(&mut stored, &longest, NOTE, 1, 1).expect("stored");
    }

    #[test]
    fn there_are_only_so_many() {
        let mut stored = Stored::default();
        // Without descriptors of their own, of which a test may have few.
        stored.0.extend((0..NAMES).map(|at| (at.to_string(), Entry { note: Vec::new(), fds: Vec::new() })));
        assert_eq!(put(&mut stored, "more", 0, 1, 1), Err(StoreError::Full));
        put(&mut stored, "7", 0, 1, 1).expect("in the place of another");
        stored.release("8");
        put(&mut stored, "more", 0, 1, 1).expect("there is room");
    }
}
