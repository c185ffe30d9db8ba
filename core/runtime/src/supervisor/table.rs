//! The processes a supervisor watches, and the journal of exits nobody has acknowledged. One file per such exit in a
//! directory on tmpfs, so that an exit is known even after the death of daemon and supervisor together.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::driver::{ProcessExit, ProcessKey};

/// One process.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) pid: i32,
    /// `None` once it has ended.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) tty: bool,
    /// Daemon's ends of stdin, stdout, stderr.
    pub(super) streams: [Option<OwnedFd>; 3],
    /// What the daemon wants its successor to have.
    pub(super) kept: Vec<OwnedFd>,
    pub(super) exited: Option<ProcessExit>,
}

/// All processes.
#[derive(Debug)]
pub(super) struct Table {
    by_key: HashMap<ProcessKey, Watched>,
    by_pid: HashMap<i32, ProcessKey>,
    journal: PathBuf,
}

impl Table {
    pub(super) fn new(journal: PathBuf) -> Self {
        Self { by_key: HashMap::new(), by_pid: HashMap::new(), journal }
    }

    pub(super) fn insert(&mut self, key: ProcessKey, watched: Watched) {
        if watched.exited.is_none() {
            self.by_pid.insert(watched.pid, key.clone());
        }
        self.by_key.insert(key, watched);
    }

    pub(super) fn get_mut(&mut self, key: &ProcessKey) -> Option<&mut Watched> {
        self.by_key.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ProcessKey, &Watched)> {
        self.by_key.iter()
    }

    /// As [`Table::insert`], for a process that is nobody's child here: its number may become that of one which is.
    pub(super) fn insert_foreign(&mut self, key: ProcessKey, watched: Watched) {
        self.by_key.insert(key, watched);
    }

    /// Whether any process still runs.
    pub(super) fn is_busy(&self) -> bool {
        self.by_key.values().any(|watched| watched.exited.is_none())
    }

    /// The watched process of that id, if it is one.
    pub(super) fn key_of(&self, pid: i32) -> Option<&ProcessKey> {
        self.by_pid.get(&pid)
    }

    /// Puts `exit` on record; its stdin is given up, its output kept until the daemon has it.
    pub(super) fn record(&mut self, exit: &ProcessExit) {
        if let Some(watched) = self.by_key.get_mut(&exit.key) {
            if self.by_pid.get(&watched.pid) == Some(&exit.key) {
                self.by_pid.remove(&watched.pid);
            }
            watched.pidfd = None;
            watched.streams[0] = None;
            watched.exited = Some(exit.clone());
        }
        // Failure leaves the copy in memory, which is lost only if the supervisor is killed too.
        if let Ok(bytes) = postcard::to_stdvec(exit) {
            let _ = write_whole(&journal_file(&self.journal, &exit.key), &bytes);
        }
    }

    /// The numbers of all that run.
    pub(super) fn pids(&self) -> Vec<i32> {
        self.by_pid.keys().copied().collect()
    }

    /// Forgets a process whose exit the daemon has on record.
    pub(super) fn acknowledge(&mut self, key: &ProcessKey) {
        if self.by_key.get(key).is_some_and(|watched| watched.exited.is_some()) {
            self.by_key.remove(key);
        }
        let _ = fs::remove_file(journal_file(&self.journal, key));
    }
}

/// A record is there or not, never half; the directory is made again should somebody have emptied the exec root.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let half = path.with_extension("half");
    if fs::write(&half, bytes).is_err() {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::write(&half, bytes)?;
    }
    fs::rename(half, path)
}

fn journal_file(directory: &Path, key: &ProcessKey) -> PathBuf {
    match key {
        ProcessKey::Container(id) => directory.join(format!("{id}.exit")),
        ProcessKey::Exec(id, exec) => directory.join(format!("{id}-{exec}.exit")),
    }
}

/// Exits in the journal of an earlier supervisor. A record that cannot be read is set aside for whoever looks into it.
pub(crate) fn read_journal(directory: &Path) -> Vec<ProcessExit> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let exits =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "exit"));
    let read = |path: PathBuf| {
        let exit = postcard::from_bytes::<ProcessExit>(&fs::read(&path).ok()?);
        if let Err(error) = &exit {
            tracing::warn!(path = %path.display(), %error, "record of an exit cannot be read");
            let _ = fs::rename(&path, path.with_extension("unreadable"));
        }
        exit.ok()
    };
    exits.filter_map(read).collect()
}

/// Removes the journal's record of `key`.
pub(crate) fn forget_journal(directory: &Path, key: &ProcessKey) {
    let _ = fs::remove_file(journal_file(directory, key));
}

#[cfg(test)]
mod tests {
    use dockerd_types::{ContainerId, Timestamp};

    use super::*;
    use crate::driver::ExitCode;

    fn exit(letter: &str) -> ProcessExit {
        let id = ContainerId::parse(&letter.repeat(64)).expect("an id");
        let at = Timestamp::from_unix_nanos(5);
        ProcessExit { key: ProcessKey::Container(id), code: ExitCode::Exited(3), at, oom_killed: false }
    }

    fn watched(pid: i32) -> Watched {
        Watched { pid, pidfd: None, tty: false, streams: [None, None, None], kept: Vec::new(), exited: None }
    }

    #[test]
    fn an_exit_is_on_record_until_it_is_acknowledged() {
        let dir = tempfile::tempdir().expect("temporary directory");
        // The directory is made when it is missing.
        let journal = dir.path().join("journal");
        let mut table = Table::new(journal.clone());
        let exit = exit("a");
        table.insert(exit.key.clone(), watched(7));
        assert!(table.is_busy());
        table.record(&exit);
        assert!(!table.is_busy());
        assert_eq!(read_journal(&journal), std::slice::from_ref(&exit));
        table.acknowledge(&exit.key);
        assert_eq!(read_journal(&journal), []);
    }

    #[test]
    fn a_record_that_is_cut_is_set_aside() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut table = Table::new(dir.path().to_owned());
        for letter in ["a", "b"] {
            table.insert(exit(letter).key, watched(1));
            table.record(&exit(letter));
        }
        let broken = journal_file(dir.path(), &exit("a").key);
        fs::write(&broken, b"\x07").expect("cut");
        assert_eq!(read_journal(dir.path()), [exit("b")]);
        assert!(!broken.exists() && broken.with_extension("unreadable").exists());
    }
}
