//! The supervisor's state across an upgrade in place. One program writes it and another reads it, so it is JSON, where a
//! member that one of them does not know is left out or passed over; what is here now may be added to, never changed.

use std::fs::File;
use std::io::{self, BufReader, Seek, Write};
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::driver::{ProcessExit, ProcessKey};

/// Everything; descriptors by their numbers, which live on over `execve`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) listener: i32,
    #[serde(default)]
    pub(super) daemon: Option<i32>,
    pub(super) processes: Vec<SavedProcess>,
    #[serde(default)]
    pub(super) stored: Vec<SavedStored>,
}

/// Descriptors under a name.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedStored {
    pub(super) name: String,
    #[serde(default)]
    pub(super) note: Vec<u8>,
    pub(super) fds: Vec<i32>,
}

/// One watched process.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedProcess {
    pub(super) key: ProcessKey,
    pub(super) pid: i32,
    #[serde(default)]
    pub(super) pidfd: Option<i32>,
    #[serde(default)]
    pub(super) tty: bool,
    #[serde(default)]
    pub(super) streams: [Option<i32>; 3],
    #[serde(default)]
    pub(super) kept: Vec<i32>,
    #[serde(default)]
    pub(super) is_foreign: bool,
    #[serde(default)]
    pub(super) exited: Option<ProcessExit>,
}

impl Saved {
    /// Into a memory file, which is to be kept over `execve` too.
    pub(super) fn into_file(self) -> io::Result<OwnedFd> {
        let mut file = File::from(rustix::fs::memfd_create("supervisor", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(&self).map_err(io::Error::other)?)?;
        file.rewind()?;
        Ok(file.into())
    }

    /// Out of that file.
    pub(super) fn from_file(file: OwnedFd) -> io::Result<Self> {
        serde_json::from_reader(BufReader::new(File::from(file))).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use dockerd_types::ContainerId;

    use super::*;

    #[test]
    fn comes_back_as_it_was() {
        let key = ProcessKey::Container(ContainerId::parse(&"a".repeat(64)).expect("an id"));
        let process = SavedProcess {
            key,
            pid: 7,
            pidfd: Some(9),
            tty: true,
            streams: [None, Some(4), None],
            kept: vec![11, 12],
            is_foreign: false,
            exited: None,
        };
        let stored = vec![SavedStored { name: "layer".to_owned(), note: vec![0, 255], fds: vec![13, 14] }];
        let saved = Saved { listener: 3, daemon: None, processes: vec![process], stored };
        let text = serde_json::to_string(&saved).expect("text");
        let again = Saved::from_file(saved.into_file().expect("written")).expect("read");
        assert_eq!(serde_json::to_string(&again).expect("text"), text);
    }

    #[test]
    fn other_versions_are_read() {
        let key = format!(r#"{{"Container":"{}"}}"#, "b".repeat(64));
        let text = format!(r#"{{"listener":3,"news":[1],"processes":[{{"key":{key},"pid":7,"more":{{}}}}]}}"#);
        let saved: Saved = serde_json::from_str(&text).expect("read");
        assert_eq!((saved.listener, saved.processes[0].pid, saved.processes[0].kept.len()), (3, 7, 0));
        assert_eq!(saved.stored, [], "of protocol 3");
    }
}
