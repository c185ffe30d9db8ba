//! Links that should be gone. The kernel takes a container's link down with its network namespace, many at a time and
//! cheaper than we could; only where the namespace is kept alive by somebody else does the link stay, and is removed here.
//! Bridges of removed networks are, too: that takes the kernel tens of milliseconds, half of them with all other changes of
//! links locked out (`br_multicast_dev_del` waits for an RCU barrier), so nobody waits for it.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use dockerd_sys::netlink::{Batch, Family, Socket};

use crate::error::NetworkError;
use crate::link;
use crate::sandbox::LINK_ALIAS;

/// How long the kernel gets, and those who are busy with networks.
const GRACE: Duration = Duration::from_secs(1);

/// What the thread is told.
#[derive(Debug)]
enum Note {
    /// This link should be gone soon.
    Watch(u32),
    /// All are due now; answered when they are gone.
    Finish(SyncSender<()>),
}

/// Looks after links on a thread of its own, which ends with this value.
#[derive(Debug)]
pub(crate) struct Sweeper(Sender<Note>);

impl Sweeper {
    /// For the calling thread's network namespace.
    pub(crate) fn start() -> Result<Self, NetworkError> {
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        let (sender, receiver) = mpsc::channel::<Note>();
        let run = move || {
            dockerd_sys::process::give_way();
            let mut due: VecDeque<(Instant, u32)> = VecDeque::new();
            loop {
                let rest = due.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
                let received = match rest {
                    None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    Some(rest) => receiver.recv_timeout(rest),
                };
                match received {
                    Ok(Note::Watch(index)) => due.push_back((Instant::now() + GRACE, index)),
                    Ok(Note::Finish(done)) => {
                        sweep(&socket, &mut due, None);
                        // Hung up on if nobody waits any more.
                        let _ = done.send(());
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => sweep(&socket, &mut due, Some(Instant::now())),
                }
            }
        };
        std::thread::Builder::new()
            .name("link-sweeper".to_owned())
            .spawn(run)
            .map_err(NetworkError::io("start the link sweeper"))?;
        Ok(Self(sender))
    }

    /// This link should be gone soon.
    pub(crate) fn watch(&self, index: u32) {
        // The thread lives as long as we do.
        let _ = self.0.send(Note::Watch(index));
    }

    /// Waits until all of them are gone. Blocking.
    pub(crate) fn finish(&self) {
        let (sender, done) = mpsc::sync_channel(1);
        if self.0.send(Note::Finish(sender)).is_ok() {
            let _ = done.recv();
        }
    }
}

/// One question for all that are due `now`, or for all there are.
fn sweep(socket: &Socket, due: &mut VecDeque<(Instant, u32)>, now: Option<Instant>) {
    let mut overdue = Vec::new();
    while let Some((_, index)) = due.pop_front_if(|(at, _)| now.is_none_or(|now| *at <= now)) {
        overdue.push(index);
    }
    if overdue.is_empty() {
        return;
    }
    let links = match link::all(socket) {
        Ok(links) => links,
        Err(error) => return tracing::warn!(%error, "the host's links could not be listed"),
    };
    // Numbers are not used again soon, and what is not ours is not touched in any case.
    let left: Vec<u32> = links.iter().filter(|l| l.alias == LINK_ALIAS).map(|l| l.index).collect();
    delete(socket, overdue.into_iter().filter(|index| left.contains(index)));
}

fn delete(socket: &Socket, indexes: impl Iterator<Item = u32>) {
    let mut batch = Batch::new();
    for index in indexes {
        link::delete(&mut batch, index);
    }
    // It may have gone this moment.
    if let Err(error) = socket.transact(&batch) {
        tracing::debug!(%error, "a leftover link could not be removed");
    }
}

/// Links of a bridge that a daemon of ours made.
pub(crate) fn ours(socket: &Socket, bridge: u32) -> Result<Vec<u32>, NetworkError> {
    let links = link::all(socket).map_err(NetworkError::kernel("list the host's links"))?;
    let ours = |l: &&link::Link| l.master == Some(bridge) && l.alias == LINK_ALIAS;
    Ok(links.iter().filter(ours).map(|l| l.index).collect())
}

/// Removes what a daemon that was killed left behind.
pub(crate) fn remove(indexes: impl Iterator<Item = u32>) -> Result<(), NetworkError> {
    let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
    delete(&socket, indexes);
    Ok(())
}
