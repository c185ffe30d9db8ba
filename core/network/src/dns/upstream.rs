//! The servers that are asked for what is not ours: where they are, whether they live, and what they said lately. Sets of
//! servers that are asked from the host are the same for all sandboxes, with one cache.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::cache::{Cache, Key};

/// Servers that are asked at most, as the stock daemon does.
pub(super) const MOST: usize = 3;
/// Bytes of a cache that all sandboxes share.
const SHARED_CACHE: usize = 1 << 20;
/// Bytes of one that a single sandbox has.
const OWN_CACHE: usize = 64 << 10;
/// How long a server that did not answer is left alone at first, and at most.
const PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// From where a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// From the host: it stands in the host's resolv.conf.
    Host,
    /// From the sandbox: it was given for this container (`--dns`).
    Sandbox,
}

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Its address; the port is 53.
    pub address: SocketAddr,
    /// From where it is asked.
    pub scope: Scope,
}

#[derive(Debug)]
enum Health {
    Alive { since: Instant },
    Down { probe_at: Instant, pause: Duration },
}

/// A server and what is known of it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) upstream: Upstream,
    health: Mutex<Health>,
}

/// What to do with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Ask it.
    Ask,
    /// Nobody waits for it.
    Leave,
    /// Nobody waits for it, but somebody is to find out whether it lives again.
    Probe,
}

impl Server {
    fn new(upstream: Upstream) -> Self {
        Self { upstream, health: Mutex::new(Health::Alive { since: Instant::now() }) }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do with it now. Says [`Turn::Probe`] once per pause.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        match &mut *self.health() {
            Health::Alive { .. } => Turn::Ask,
            Health::Down { probe_at, pause } if *probe_at <= now => {
                *pause = (*pause * 2).min(LONGEST_PAUSE);
                *probe_at = now + *pause;
                Turn::Probe
            }
            Health::Down { .. } => Turn::Leave,
        }
    }

    /// It answered.
    pub(super) fn answered(&self, now: Instant) {
        *self.health() = Health::Alive { since: now };
    }

    /// It has not answered what it was asked at `asked`, though others were answered or time is up. One that answered
    /// somebody meanwhile is only slow with this.
    pub(super) fn silent(&self, asked: Instant, now: Instant) {
        let mut health = self.health();
        match &*health {
            Health::Alive { since } if *since < asked => {
                *health = Health::Down { probe_at: now + PAUSE, pause: PAUSE };
            }
            _ => {}
        }
    }
}

/// What the first of those who ask the same is told; the others listen.
type Flight = watch::Receiver<Option<Arc<[u8]>>>;

/// Servers in the order in which they are asked.
#[derive(Debug)]
pub(super) struct UpstreamSet {
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) cache: Cache,
    flights: Mutex<HashMap<Key, Flight>>,
}

/// Whether somebody asks already.
#[derive(Debug)]
pub(super) enum Boarding {
    /// Nobody does; whoever gets this must ask, and tell.
    First(Lead),
    /// Somebody does.
    Waits(Flight),
}

/// The duty to tell the others. Dropping it untold tells them that nobody knows.
#[derive(Debug)]
pub(super) struct Lead {
    set: Arc<UpstreamSet>,
    key: Key,
    result: watch::Sender<Option<Arc<[u8]>>>,
}

impl Lead {
    /// Tells the response.
    pub(super) fn tell(self, response: &[u8]) {
        self.result.send_replace(Some(response.into()));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.set.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl UpstreamSet {
    fn new(upstreams: &[Upstream], cache: usize) -> Self {
        let servers = upstreams.iter().map(|upstream| Arc::new(Server::new(*upstream))).collect();
        Self { servers, cache: Cache::new(cache), flights: Mutex::default() }
    }

    /// Those who ask the same at the same time are one. This also ends loops, where a server asks us for what we ask it.
    pub(super) fn board(self: &Arc<Self>, key: &Key) -> Boarding {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key) {
            return Boarding::Waits(flight.clone());
        }
        let (result, flight) = watch::channel(None);
        flights.insert(key.clone(), flight);
        Boarding::First(Lead { set: self.clone(), key: key.clone(), result })
    }
}

/// The sets in use.
#[derive(Debug, Default)]
pub(super) struct Sets {
    shared: Mutex<HashMap<Vec<Upstream>, Weak<UpstreamSet>>>,
}

impl Sets {
    /// The set of these servers, of which only the first are taken. Ourselves are left out.
    pub(super) fn of(&self, upstreams: &[Upstream]) -> Arc<UpstreamSet> {
        let is_us = |u: &Upstream| u.scope == Scope::Sandbox && u.address.ip() == super::ADDRESS;
        let list: Vec<_> = upstreams.iter().filter(|u| !is_us(u)).take(MOST).copied().collect();
        if list.iter().any(|upstream| upstream.scope == Scope::Sandbox) {
            return Arc::new(UpstreamSet::new(&list, OWN_CACHE));
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = shared.get(&list).and_then(Weak::upgrade) {
            return set;
        }
        shared.retain(|_, set| set.strong_count() > 0);
        let set = Arc::new(UpstreamSet::new(&list, SHARED_CACHE));
        shared.insert(list, Arc::downgrade(&set));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(text: &str, scope: Scope) -> Upstream {
        Upstream { address: text.parse().expect("an address"), scope }
    }

    #[test]
    fn servers_that_are_down_are_left_alone_and_probed() {
        let server = Server::new(upstream("10.0.0.1:53", Scope::Host));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        server.answered(at(5));
        server.silent(at(4), at(6));
        assert_eq!(server.turn(at(6)), Turn::Ask, "it answered others meanwhile");
        server.silent(at(6), at(7));
        assert_eq!(server.turn(at(7)), Turn::Leave);
        assert_eq!(server.turn(at(10)), Turn::Probe);
        assert_eq!(server.turn(at(10)), Turn::Leave, "one probe is enough");
        assert_eq!(server.turn(at(15)), Turn::Leave, "the pause grows");
        assert_eq!(server.turn(at(16)), Turn::Probe);
        server.answered(at(17));
        assert_eq!(server.turn(at(17)), Turn::Ask);
    }

    #[test]
    fn sets_are_shared_and_hold_no_loop() {
        let sets = Sets::default();
        let (host, own) = (upstream("10.0.0.1:53", Scope::Host), upstream("10.0.0.1:53", Scope::Sandbox));
        let first = sets.of(&[host]);
        assert!(Arc::ptr_eq(&first, &sets.of(&[host])));
        assert!(!Arc::ptr_eq(&sets.of(&[own]), &sets.of(&[own])), "each sandbox may see another server there");
        assert!(sets.of(&[upstream("127.0.0.11:53", Scope::Sandbox)]).servers.is_empty());
        assert_eq!(sets.of(&[upstream("127.0.0.11:53", Scope::Host)]).servers.len(), 1, "that is somebody else's");
        assert_eq!(sets.of(&[host; 5]).servers.len(), MOST);
        drop(first);
    }
}
