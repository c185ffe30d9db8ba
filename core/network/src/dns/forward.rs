//! Asking others. Servers are asked in their order, the next one as soon as one fails or is slow; the first useful
//! response is taken. A server that did not answer is left alone for a while, so that nobody waits for it again; whether
//! it lives is found out aside.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use rustix::net::SocketType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::opener::{self, Opener};
use super::upstream::{Boarding, Scope, Server, Turn, UpstreamSet};
use super::wire::{self, Asked, PLAIN_LIMIT, Transport, Verdict};

/// The next server is asked when one has not answered for so long.
const SLOW: Duration = Duration::from_secs(1);
/// A server has so long to answer, the stock daemon's value; clients give up after five seconds.
const PATIENCE: Duration = Duration::from_secs(4);
/// A datagram that got no answer is sent again after this.
const RESEND: Duration = Duration::from_millis(1500);
/// Longest datagram.
const LONGEST: usize = 65_535;

/// A way to the servers: the set, and whence they are asked.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) set: Arc<UpstreamSet>,
    pub(super) opener: Opener,
    pub(super) netns: Arc<OwnedFd>,
    /// Without it, servers are asked from the sandbox only: it has no way out of its network.
    pub(super) from_host: bool,
}

/// A query to be passed on, and its message.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) asked: Box<Asked>,
    pub(super) message: Vec<u8>,
}

/// A response and what it says.
type Found = (Vec<u8>, Verdict);

/// The response of the route's servers to `query`, under its own number; `None` when there is none.
pub(super) async fn forward(route: &Route, query: &Arc<Passed>) -> Option<Vec<u8>> {
    let Passed { asked, message } = &**query;
    let key = asked.key(message);
    if let Some(key) = &key {
        let cached = || route.set.cache.get(key, asked, message, std::time::Instant::now());
        if let Some(response) = cached() {
            return Some(response);
        }
        match route.set.board(key) {
            Boarding::First(lead) => {
                let found = race(route, query).await;
                if let Some((response, verdict)) = &found {
                    route.set.cache.put(key, asked, response, *verdict, std::time::Instant::now());
                    lead.tell(response);
                }
                return found.map(|(response, _)| numbered(response, asked));
            }
            Boarding::Waits(mut flight) => {
                // An error: the first one found nothing, or was ended with its sandbox.
                let told = flight.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
                if let Some(response) = told {
                    // As it is told, or in our own spelling if it was kept.
                    return cached().or_else(|| Some(numbered(response.to_vec(), asked)));
                }
            }
        }
    }
    race(route, query).await.map(|(response, _)| numbered(response, asked))
}

fn numbered(mut response: Vec<u8>, asked: &Asked) -> Vec<u8> {
    wire::set_id(&mut response, asked.metadata.id);
    response
}

/// Servers that were asked and have not answered, with when that was.
#[derive(Debug, Default)]
struct Pending(Vec<(Arc<Server>, Instant)>);

impl Pending {
    fn remove(&mut self, server: &Arc<Server>) -> Option<Instant> {
        let at = self.0.iter().position(|(pending, _)| Arc::ptr_eq(pending, server))?;
        Some(self.0.swap_remove(at).1)
    }

    /// Those that were asked `patience` ago are taken for dead.
    fn give_up(self, patience: Duration) {
        let now = Instant::now();
        for (server, since) in self.0.into_iter().filter(|(_, since)| now.duration_since(*since) >= patience) {
            server.silent(since.into_std(), now.into_std());
        }
    }
}

async fn race(route: &Route, query: &Arc<Passed>) -> Option<Found> {
    let now = Instant::now();
    let usable = |server: &&Arc<Server>| route.from_host || server.upstream.scope == Scope::Sandbox;
    let (mut waiting, mut down) = (VecDeque::new(), Vec::new());
    for server in route.set.servers.iter().filter(usable) {
        match server.turn(now.into_std()) {
            Turn::Ask => waiting.push_back(server.clone()),
            Turn::Leave => down.push(server.clone()),
            Turn::Probe => {
                probe(route, query, server);
                down.push(server.clone());
            }
        }
    }
    let (mut running, mut pending) = (JoinSet::new(), Pending::default());
    let start = |server: Arc<Server>, pending: &mut Pending, running: &mut JoinSet<_>| {
        pending.0.push((server.clone(), Instant::now()));
        let exchange = exchange(route.clone(), query.clone(), server.clone());
        running.spawn(async move { (server, tokio::time::timeout(PATIENCE, exchange).await) });
    };
    if waiting.is_empty() {
        // With none left, there is nothing to lose: all at once.
        for server in down {
            start(server, &mut pending, &mut running);
        }
    } else if let Some(server) = waiting.pop_front() {
        start(server, &mut pending, &mut running);
    }
    let mut next_at = Instant::now() + SLOW;
    loop {
        let has_failed = tokio::select! {
            done = running.join_next() => match done {
                None => return None,
                Some(Err(_)) => true,
                Some(Ok((server, outcome))) => {
                    let since = pending.remove(&server).unwrap_or(now);
                    match outcome {
                        Ok(Ok(found)) => {
                            server.answered(std::time::Instant::now());
                            if !matches!(found.1.code, ResponseCode::ServFail | ResponseCode::Refused) {
                                pending.give_up(SLOW);
                                return Some(found);
                            }
                        }
                        Ok(Err(_)) | Err(_) => server.silent(since.into_std(), std::time::Instant::now()),
                    }
                    true
                }
            },
            () = tokio::time::sleep_until(next_at), if !waiting.is_empty() => true,
        };
        if has_failed && let Some(server) = waiting.pop_front() {
            start(server, &mut pending, &mut running);
            next_at = Instant::now() + SLOW;
        }
    }
}

/// Finds out whether a server that was down lives again.
fn probe(route: &Route, query: &Arc<Passed>, server: &Arc<Server>) {
    let (server, exchange) = (server.clone(), exchange(route.clone(), query.clone(), server.clone()));
    tokio::spawn(async move {
        if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, exchange).await {
            server.answered(std::time::Instant::now());
        }
    });
}

/// Asks one server. The client's own transport is used; what came truncated over UDP is asked again over TCP if the
/// client said that it takes more than everybody does.
fn exchange(
    route: Route,
    query: Arc<Passed>,
    server: Arc<Server>,
) -> Pin<Box<dyn Future<Output = io::Result<Found>> + Send>> {
    Box::pin(async move {
        let asked = &query.asked;
        if asked.transport == Transport::Tcp {
            return over_tcp(&route, &query, &server).await;
        }
        let found = over_udp(&route, &query, &server).await?;
        if !found.1.truncated || asked.limit() == PLAIN_LIMIT {
            return Ok(found);
        }
        match tokio::time::timeout(SLOW, over_tcp(&route, &query, &server)).await {
            Ok(Ok(whole)) if whole.0.len() <= usize::from(asked.limit()) => Ok(whole),
            // The client asks over TCP itself.
            _ => Ok(found),
        }
    })
}

/// The query under a number that only we and the server know.
fn renumbered(query: &Passed) -> (u16, Vec<u8>) {
    let id = u16::from_ne_bytes(crate::random::<2>());
    let mut message = query.message.clone();
    wire::set_id(&mut message, id);
    (id, message)
}

async fn socket(route: &Route, server: &Server, kind: SocketType) -> io::Result<OwnedFd> {
    let address = server.upstream.address;
    match server.upstream.scope {
        Scope::Host => opener::socket(address, kind),
        Scope::Sandbox => route.opener.socket(&route.netns, address, kind).await,
    }
}

async fn over_udp(route: &Route, query: &Passed, server: &Server) -> io::Result<Found> {
    let socket = socket(route, server, SocketType::DGRAM).await?;
    let socket = UdpSocket::from_std(socket.into())?;
    // The kernel lets only this server's datagrams in from now on, and tells when it is not there.
    socket.connect(server.upstream.address).await?;
    let (id, message) = renumbered(query);
    // What has not been written to costs nothing.
    let mut response = Vec::with_capacity(LONGEST);
    socket.send(&message).await?;
    loop {
        tokio::select! {
            received = socket.recv_buf(&mut response) => {
                received?;
                if let Some(verdict) = wire::check(&response, id, &query.asked.question) {
                    response.shrink_to_fit();
                    return Ok((response, verdict));
                }
                response.clear();
            }
            () = tokio::time::sleep(RESEND) => {
                socket.send(&message).await?;
            }
        }
    }
}

async fn over_tcp(route: &Route, query: &Passed, server: &Server) -> io::Result<Found> {
    let socket = socket(route, server, SocketType::STREAM).await?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let mut stream = connect(socket, server.upstream.address).await?;
    let (id, message) = renumbered(query);
    stream.write_all(&framed(&message)).await?;
    loop {
        let length = stream.read_u16().await?;
        let mut response = vec![0; usize::from(length)];
        stream.read_exact(&mut response).await?;
        if let Some(verdict) = wire::check(&response, id, &query.asked.question) {
            return Ok((response, verdict));
        }
    }
}

async fn connect(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A message as it goes over TCP, its length before it. Longer ones than that can say do not exist.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(message.len() + 2);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&message[..usize::from(length)]);
    out
}
