//! Background chores that wait for a pause: one thread gathers what is handed in until nothing more comes for a moment, and
//! does it all at once. While containers come and go, their leftovers do not get in the way of the next ones.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Chores begin when none came for so long,
const QUIET: Duration = Duration::from_millis(20);
/// or when there are so many,
const MOST: usize = 64;
/// and none waits longer than about this.
const LONGEST: Duration = Duration::from_secs(2);

/// Starts a thread named `name` that gives way to others and does what is sent to it. It ends when all senders are gone and
/// everything is done. Errors: of thread creation.
pub fn start<T: Send + 'static>(name: &str, mut work: impl FnMut(Vec<T>) + Send + 'static) -> io::Result<Sender<T>> {
    let (sender, queue) = mpsc::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        crate::process::give_way();
        while let Some(chores) = gather(&queue, QUIET, LONGEST) {
            work(chores);
        }
    })?;
    Ok(sender)
}

/// Those that came until a pause of `quiet`; `None` when no more will come.
fn gather<T>(queue: &Receiver<T>, quiet: Duration, longest: Duration) -> Option<Vec<T>> {
    let mut chores = vec![queue.recv().ok()?];
    let end = Instant::now() + longest;
    while chores.len() < MOST && Instant::now() < end {
        match queue.recv_timeout(quiet) {
            Ok(chore) => chores.push(chore),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(chores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_a_batch() {
        let (sender, queue) = mpsc::channel();
        (0..MOST + 3).for_each(|chore| sender.send(chore).expect("sent"));
        let count = |chores: Option<Vec<_>>| chores.map(|chores| chores.len());
        let (moment, long) = (Duration::from_millis(1), Duration::from_secs(3600));
        assert_eq!(count(gather(&queue, moment, long)), Some(MOST));
        assert_eq!(count(gather(&queue, moment, long)), Some(3));
        drop(sender);
        assert_eq!(count(gather(&queue, moment, moment)), None);
    }

    #[test]
    fn all_is_done_before_the_end() {
        let (done, told) = mpsc::channel();
        let chores = start("test", move |list: Vec<i32>| list.into_iter().for_each(|n| done.send(n).expect("told")));
        let chores = chores.expect("thread");
        (0..3).for_each(|n| chores.send(n).expect("sent"));
        drop(chores);
        assert_eq!(told.iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
