//! How much memory a daemon holds at most while it does something.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::process;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Every so many looks the daemon's processes are looked for anew: stock unpacks in children.
const SEARCH: u32 = 10;

/// Looks at a daemon's memory until it is told to end.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Result<u64>>,
}

impl Watch {
    /// Begins to look at the daemon with that process id.
    pub(crate) fn begin(daemon: i32) -> Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("peak".to_owned()).spawn(move || watch(daemon, &stopped))?;
        Ok(Self { stop, thread })
    }

    /// The most bytes that were resident at a time.
    pub(crate) fn end(self) -> Result<u64> {
        drop(self.stop);
        self.thread.join().ok().context("the watching thread panicked")?
    }
}

fn watch(daemon: i32, stopped: &Receiver<()>) -> Result<u64> {
    let mut most = 0;
    loop {
        let pids = process::pids(daemon)?;
        for _ in 0..SEARCH {
            most = most.max(pids.iter().copied().map(process::resident).sum());
            if !matches!(stopped.recv_timeout(PAUSE), Err(RecvTimeoutError::Timeout)) {
                return Ok(most);
            }
        }
    }
}
