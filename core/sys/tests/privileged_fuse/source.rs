//! A source of bytes that answers when it is told to.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use dockerd_sys::fuse::{FileSource, ReadReply};

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is answered.
    Answer,
    /// It is kept until [`Source::answer_next`].
    Keep,
    /// Its answer is dropped.
    Drop,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    kept: VecDeque<(u64, ReadReply)>,
    ended: u32,
}

/// Bytes, and what is done with requests for them.
pub(crate) struct Source {
    pub(crate) bytes: Vec<u8>,
    state: Mutex<State>,
    changed: Condvar,
    tell: Box<dyn Fn(u64) + Send + Sync>,
}

/// Numbers that look like chance, the same ones each time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

impl Source {
    pub(crate) fn new(bytes: Vec<u8>, mode: Mode) -> Arc<Self> {
        Self::telling(bytes, mode, |_| {})
    }

    /// With something to do when a request comes from that offset.
    pub(crate) fn telling(bytes: Vec<u8>, mode: Mode, tell: impl Fn(u64) + Send + Sync + 'static) -> Arc<Self> {
        let state = Mutex::new(State { mode, kept: VecDeque::new(), ended: 0 });
        Arc::new(Self { bytes, state, changed: Condvar::new(), tell: Box::new(tell) })
    }

    pub(crate) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn part(&self, offset: u64, length: usize) -> &[u8] {
        &self.bytes[offset as usize..offset as usize + length]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("whole")
    }

    fn until(&self, what: &str, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let wait = self.changed.wait_timeout_while(self.lock(), LIMIT, |state| !condition(state));
        let (state, timeout) = wait.expect("whole");
        assert!(!timeout.timed_out(), "{what}: {state:?}");
        state
    }

    /// Waits until so many requests wait.
    pub(crate) fn wait_for(&self, count: usize) {
        drop(self.until("requests", |state| state.kept.len() >= count));
    }

    /// Waits until a request for `offset` or what lies before it waits: the kernel reads around what it needs, from the front, and
    /// may ask for the rest when it has that.
    pub(crate) fn wait_for_about(&self, offset: u64) {
        /// More than it reads around; cases are twice as far from each other.
        const AROUND: u64 = 512 << 10;
        let leads_to = |(from, _): &(u64, ReadReply)| (*from..*from + AROUND).contains(&offset);
        drop(self.until("a request", |state| state.kept.iter().any(leads_to)));
    }

    /// Answers the youngest request that waits.
    pub(crate) fn answer_last(&self) {
        let (offset, reply) = self.lock().kept.pop_back().expect("one waits");
        let part = self.part(offset, reply.length());
        reply.bytes(part);
    }

    /// Drops all requests that wait.
    pub(crate) fn forget(&self) {
        let kept = std::mem::take(&mut self.lock().kept);
        assert!(!kept.is_empty());
    }

    /// Goes on so; what waits is answered.
    pub(crate) fn set(&self, mode: Mode) {
        let kept = {
            let mut state = self.lock();
            state.mode = mode;
            std::mem::take(&mut state.kept)
        };
        for (offset, reply) in kept {
            let (first, second) = self.part(offset, reply.length()).split_at(reply.length() / 3);
            reply.data(&[std::io::IoSlice::new(first), std::io::IoSlice::new(second)]);
        }
    }

    /// Waits until the kernel has let go.
    pub(crate) fn wait_for_end(&self) {
        assert_eq!(self.until("the end", |state| state.ended > 0).ended, 1);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.lock().ended > 0
    }
}

impl FileSource for Source {
    fn read(&self, offset: u64, length: usize, reply: ReadReply) {
        assert_eq!(length, reply.length());
        let mode = self.lock().mode;
        match mode {
            Mode::Answer => reply.bytes(self.part(offset, length)),
            Mode::Keep => {
                self.lock().kept.push_back((offset, reply));
                self.changed.notify_all();
            }
            Mode::Drop => drop(reply),
        }
        (self.tell)(offset);
    }

    fn ended(&self) {
        self.lock().ended += 1;
        self.changed.notify_all();
    }
}

/// Sessions as the kernel counts them.
pub(crate) fn connections() -> Vec<u64> {
    use std::os::fd::AsRawFd;
    let mount = dockerd_sys::mount::file_system("fusectl", &[], 0).expect("fusectl");
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", mount.as_raw_fd())).expect("listed");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The session's name there.
pub(crate) fn connection_of(file: &File) -> u64 {
    let device = file.metadata().expect("known").dev();
    u64::from(rustix::fs::minor(device))
}
