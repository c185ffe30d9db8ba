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

    /// Whether any process still runs.
    pub(super) fn is_busy(&self) -> bool {
        !self.by_pid.is_empty()
    }

    /// The watched process of that id, if it is one.
    pub(super) fn key_of(&self, pid: i32) -> Option<&ProcessKey> {
        self.by_pid.get(&pid)
    }

    /// Puts `exit` on record; its stdin is given up, its output kept until the daemon has it.
    pub(super) fn record(&mut self, pid: i32, exit: &ProcessExit) {
        self.by_pid.remove(&pid);
        if let Some(watched) = self.by_key.get_mut(&exit.key) {
            watched.pidfd = None;
            watched.streams[0] = None;
            watched.exited = Some(exit.clone());
        }
        // Failure leaves the copy in memory, which is lost only if the supervisor is killed too.
        if let Ok(bytes) = postcard::to_stdvec(exit) {
            let _ = fs::write(journal_file(&self.journal, &exit.key), bytes);
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

fn journal_file(directory: &Path, key: &ProcessKey) -> PathBuf {
    match key {
        ProcessKey::Container(id) => directory.join(format!("{id}.exit")),
        ProcessKey::Exec(id, exec) => directory.join(format!("{id}-{exec}.exit")),
    }
}

/// Exits in the journal of an earlier supervisor.
pub(crate) fn read_journal(directory: &Path) -> Vec<ProcessExit> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let exits =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "exit"));
    exits.filter_map(|path| postcard::from_bytes(&fs::read(path).ok()?).ok()).collect()
}

/// Removes the journal's record of `key`.
pub(crate) fn forget_journal(directory: &Path, key: &ProcessKey) {
    let _ = fs::remove_file(journal_file(directory, key));
}
