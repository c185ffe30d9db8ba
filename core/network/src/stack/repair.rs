//! What others took away of ours is put there again: two threads that wait for it, one told of the packet filter's rules, one
//! of bridges.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dockerd_sys::netlink::{Family, Socket};

use super::{NetworkStack, lock};
use crate::bridge::mend;
use crate::error::NetworkError;
use crate::firewall::Guard;

/// Two programs that fight each other shall not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(200);

impl NetworkStack {
    /// From now on what others take away of rules of the packet filter and of bridges is set again. In the calling thread's
    /// network namespace.
    pub fn guard(self: &Arc<Self>) -> Result<(), NetworkError> {
        if let Some(guard) = self.firewall.guard()? {
            start_rules(guard, Arc::downgrade(self))?;
        }
        let links = Socket::subscribe_links().map_err(NetworkError::io("listen for changes of links"))?;
        let links = self.links.get_or_init(|| Arc::new(links)).clone();
        {
            let _changing = lock(&self.changing);
            self.watch_bridges();
        }
        start_links(links, Arc::downgrade(self))
    }

    /// Has the guard of bridges told of those there are now. Under the turn of those who make networks.
    pub(super) fn watch_bridges(&self) {
        let Some(links) = self.links.get() else { return };
        let bridges: Vec<u32> = self.networks().iter().filter_map(|n| Some(n.upkeep()?.link.index)).collect();
        if let Err(error) = links.tell_only_of(&bridges) {
            tracing::warn!(%error, "a damaged bridge may stay so until the daemon's next start");
        }
    }

    /// Does something that wants bridges to be there; again, if another program had taken one away and that was not yet
    /// noticed.
    pub(super) fn on_bridges<T>(&self, work: impl Fn() -> Result<T, NetworkError>) -> Result<T, NetworkError> {
        work().or_else(|error| if self.mend_bridges() { work() } else { Err(error) })
    }

    /// Puts bridges right; whether that was needed, or failed.
    fn mend_bridges(&self) -> bool {
        let _changing = lock(&self.changing);
        let wanted: Vec<_> = self.networks().iter().filter_map(|network| network.upkeep()).collect();
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"));
        let mended = socket.and_then(|socket| mend::mend(&socket, &wanted, self.config.firewall));
        mended.inspect_err(|error| tracing::error!(%error, "bridges cannot be looked at")).unwrap_or(true)
    }

    /// Sets the rules anew if there are to be any.
    fn reinstall(&self) {
        let _changing = lock(&self.changing);
        if !self.installed.load(Ordering::Relaxed) {
            return;
        }
        let damaged = self.firewall.is_damaged();
        match damaged.and_then(|damaged| if damaged { self.install().map(|()| true) } else { Ok(false) }) {
            Ok(true) => tracing::warn!("another program changed rules of the packet filter; they are set again"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "rules of the packet filter are missing"),
        }
    }
}

/// Starts the thread that looks after the packet filter's rules; it ends with the stack, or when nothing can be heard any more.
fn start_rules(mut guard: Guard, stack: Weak<NetworkStack>) -> Result<(), NetworkError> {
    let run = move || {
        loop {
            let needed = guard.is_needed();
            let Some(stack) = stack.upgrade() else { return };
            match needed {
                Ok(false) => {}
                Ok(true) => {
                    stack.reinstall();
                    drop(stack);
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    tracing::error!(%error, "rules of the packet filter are not watched any more");
                    return;
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("rule-guard".to_owned()).spawn(run);
    thread.map(drop).map_err(NetworkError::io("start the guard of the packet filter's rules"))
}

/// Starts the thread that looks after bridges, told by `links` of their changes; it ends as the other one does.
fn start_links(links: Arc<Socket>, stack: Weak<NetworkStack>) -> Result<(), NetworkError> {
    let run = move || {
        loop {
            let mut harmed = false;
            let heard = match links.hear(|change| harmed |= mend::is_harmful(change)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                // More was told than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    harmed = true;
                    Ok(())
                }
                other => other,
            };
            let Some(stack) = stack.upgrade() else { return };
            if let Err(error) = heard {
                tracing::error!(%error, "bridges are not watched any more");
                return;
            }
            if harmed && stack.mend_bridges() {
                drop(stack);
                std::thread::sleep(PAUSE);
            }
        }
    };
    let thread = std::thread::Builder::new().name("link-guard".to_owned()).spawn(run);
    thread.map(drop).map_err(NetworkError::io("start the guard of bridges"))
}
