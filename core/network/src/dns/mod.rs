//! The resolver at 127.0.0.11 that containers on user-defined networks ask: it knows the names of their networks and
//! passes on what is not theirs.
//!
//! ```text
//! Resolvers::open(netns, settings)
//!   opener.rs   sockets in the sandbox's namespace, rules.rs leads port 53 there
//!   serve.rs    queries in, many at a time, on the daemon's runtime
//!   respond.rs  our own names: a NameView (view.rs, names.rs); wire.rs reads and writes messages
//!   forward.rs  everything else: upstream.rs (servers, their health), cache.rs
//! resolv_conf.rs   the container's /etc/resolv.conf that leads its programs here
//! ```
//!
//! Nothing here survives the daemon. While it is away, queries over UDP get no answer - the packet filter's rules still
//! lead them to a port nobody has - and the clients' resolvers send them again, usually after five seconds; connections
//! are refused. The next daemon opens resolvers for running containers again, which replaces the rules at once.

mod cache;
mod forward;
mod names;
mod opener;
pub mod resolv_conf;
mod respond;
mod rules;
mod serve;
mod upstream;
mod view;
mod wire;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::error::NetworkError;
use opener::Opener;
use respond::{Knowledge, Outcome};
use serve::{Active, Parts, Sandbox};
use upstream::Sets;

pub use names::{JoinedNetwork, NetworkNames, Registration, SandboxNames};
pub use upstream::{Scope, Upstream};
pub use view::{Answer, Family, NameView, ServiceTarget};

/// Where containers find their resolver.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// And at which port.
pub const PORT: u16 = 53;

/// Queries of all sandboxes that may be under way to others: each has a descriptor.
const MOST_FORWARDED: usize = 8192;

/// What a sandbox's resolver is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The names it knows.
    pub view: Arc<dyn NameView>,
    /// Who is asked for others, in this order; more than three are not asked.
    pub upstreams: Vec<Upstream>,
    /// Whether the sandbox has a way out of its networks. Without one ("internal"), nobody is asked from the host; who
    /// is reached from the sandbox itself still is.
    pub external: bool,
    /// Whether the container's options set `ndots`: names without a dot are not passed on then, so that the client tries
    /// its search list.
    pub ndots_set: bool,
}

/// The resolvers of all sandboxes: what they have in common.
#[derive(Debug)]
pub struct Resolvers {
    opener: Opener,
    runtime: Handle,
    sets: Arc<Sets>,
    forwarded: Arc<Semaphore>,
}

impl Resolvers {
    /// Starts without any. The calling thread and those of `runtime` must be in the host's network namespace; the
    /// runtime needs its drivers of I/O and time.
    pub fn start(runtime: Handle) -> Result<Self, NetworkError> {
        let opener = Opener::start().map_err(NetworkError::io("start the resolvers"))?;
        Ok(Self { opener, runtime, sets: Arc::default(), forwarded: Arc::new(Semaphore::new(MOST_FORWARDED)) })
    }

    /// Opens the resolver of the sandbox `netns`, whose loopback interface must be up; instead of one of a daemon that
    /// is gone, if there was one. The namespace lives for as long as the handle. Blocking.
    pub fn open(&self, netns: OwnedFd, settings: Settings) -> Result<ResolverHandle, NetworkError> {
        let failed = || NetworkError::io("open the sandbox's resolver");
        let netns = Arc::new(netns);
        let listening = self.opener.listen(&netns).map_err(failed())?;
        let _within = self.runtime.enter();
        let sandbox = Sandbox::start(Parts {
            netns,
            opener: self.opener.clone(),
            active: activate(&self.sets, settings),
            runtime: self.runtime.clone(),
            udp: listening.udp,
            tcp: listening.tcp,
            all_forwarded: self.forwarded.clone(),
        });
        Ok(ResolverHandle { sandbox: sandbox.map_err(failed())?, sets: self.sets.clone(), direct: listening.direct })
    }
}

fn activate(sets: &Sets, settings: Settings) -> Active {
    let Settings { view, upstreams, external, ndots_set } = settings;
    Active { view, set: sets.of(&upstreams), external, keep_single_labels: ndots_set }
}

/// What the datagram `message` is answered with from the names in `view` alone, written into the empty `out`; `false`
/// where it gets no answer from there. For measuring: resolvers do the same with what they receive.
pub fn answer(view: &dyn NameView, message: &[u8], out: &mut Vec<u8>) -> bool {
    let from = Knowledge { view, keep_single_labels: false, turn: 0 };
    matches!(respond::respond(message, wire::Transport::Udp, from, out), Outcome::Response)
}

/// The resolver of one sandbox. Dropping it closes its sockets; the rules that lead to them stay, for the namespace
/// usually ends with it.
#[derive(Debug)]
pub struct ResolverHandle {
    sandbox: Arc<Sandbox>,
    sets: Arc<Sets>,
    direct: bool,
}

impl ResolverHandle {
    /// Changes what it does; queries that are under way go their old way.
    pub fn set(&self, settings: Settings) {
        self.sandbox.active.store(Arc::new(activate(&self.sets, settings)));
    }

    /// Closes it and takes its rules out of the namespace, which goes on without: the container left its last
    /// user-defined network.
    pub async fn retire(self) -> Result<(), NetworkError> {
        let mut tasks = self.sandbox.close();
        while tasks.join_next().await.is_some() {}
        if self.direct {
            return Ok(());
        }
        let (opener, netns) = (self.sandbox.opener.clone(), self.sandbox.netns.clone());
        let removed = tokio::task::spawn_blocking(move || opener.remove_rules(&netns)).await;
        removed.map_err(std::io::Error::other).flatten().map_err(NetworkError::io("remove the resolver's rules"))
    }
}

impl Drop for ResolverHandle {
    fn drop(&mut self) {
        drop(self.sandbox.close());
    }
}
