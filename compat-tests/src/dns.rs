//! Names as a container's programs ask for them: a client that speaks to 127.0.0.11 from within a container's network
//! namespace, and a server of a zone of its own to be asked by resolvers.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::network::Network;

/// Where containers ask.
pub const RESOLVER: &str = "127.0.0.11:53";
/// The zone of [`Upstream`].
pub const ZONE: &str = "upstream.test.";
/// How long a client waits; longer than any resolver looks for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The response's code: 0 is success.
    pub code: u16,
    /// Addresses and names of its answers, in their order.
    pub answers: Vec<String>,
}

impl Told {
    /// Success with these answers, whatever their order.
    pub fn are(&self, wanted: &[&str]) -> Result<()> {
        let mut answers = self.answers.clone();
        let mut wanted: Vec<&str> = wanted.to_vec();
        answers.sort();
        wanted.sort_unstable();
        ensure!(self.code == 0 && answers == wanted, "told {self:?}, wanted {wanted:?}");
        Ok(())
    }

    /// Neither success nor an answer.
    pub fn is_unknown(&self) -> Result<()> {
        ensure!(self.code != 0 && self.answers.is_empty(), "told {self:?}, wanted an error");
        Ok(())
    }
}

/// A query's message.
fn message(id: u16, name: &str, kind: RecordType) -> Result<Vec<u8>> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    Ok(message.to_vec()?)
}

fn told(bytes: &[u8]) -> Result<Told> {
    let message = Message::from_vec(bytes)?;
    let answers = message.answers.iter().map(|record| match &record.data {
        RData::A(address) => address.to_string(),
        RData::AAAA(address) => address.to_string(),
        RData::PTR(name) => name.to_string(),
        other => format!("{other:?}"),
    });
    Ok(Told { code: message.metadata.response_code.into(), answers: answers.collect() })
}

/// The type called `kind`: `A`, `AAAA`, `PTR`.
fn record_type(kind: &str) -> Result<RecordType> {
    kind.parse().ok().with_context(|| format!("no type {kind}"))
}

/// Asks over UDP from within `network`.
pub fn ask(network: &Network, name: &str, kind: &str) -> Result<Told> {
    let socket = network.datagrams("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(RESOLVER)?;
    socket.send(&message(7, name, record_type(kind)?)?)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).with_context(|| format!("no answer to {kind} {name}"))?;
    told(&buffer[..length])
}

/// Asks over TCP from within `network`.
pub fn ask_by_stream(network: &Network, name: &str, kind: &str) -> Result<Told> {
    let mut stream = network.connect(RESOLVER)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let query = message(8, name, record_type(kind)?)?;
    stream.write_all(&[&u16::try_from(query.len())?.to_be_bytes(), query.as_slice()].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut buffer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut buffer)?;
    told(&buffer)
}

/// The name under which an address's own name is asked for.
pub fn reverse(address: &str) -> Result<String> {
    Ok(Name::from(address.parse::<IpAddr>()?).to_ascii())
}

/// The names somebody asked for, without the dot at the end.
type Asked = Mutex<HashSet<String>>;

fn lock(asked: &Asked) -> MutexGuard<'_, HashSet<String>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server whose zone [`ZONE`] has one address for every name, but [`MANY_ADDRESSES`] for one; those fit into no datagram
/// of a client that does not say it takes long ones. It knows no others.
#[derive(Debug)]
pub struct Upstream {
    stopped: Arc<AtomicBool>,
    asked: Arc<Asked>,
    threads: Vec<JoinHandle<()>>,
}

/// A name in its zone with many addresses.
pub const MANY: &str = "many.upstream.test.";
/// How many.
pub const MANY_ADDRESSES: u8 = 100;
/// What it says of every other name in its zone.
pub const UPSTREAM_ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

impl Upstream {
    /// Serves at port 53 of `address` within `network`.
    pub fn start(network: &Network, address: IpAddr) -> Result<Self> {
        let at = SocketAddr::new(address, 53).to_string();
        let (udp, tcp) = (network.datagrams(&at)?, network.listen(&at)?);
        let (stopped, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Asked::default()));
        let tick = Some(Duration::from_millis(50));
        udp.set_read_timeout(tick)?;
        tcp.set_nonblocking(true)?;
        let (stop, count) = (stopped.clone(), asked.clone());
        let datagrams = std::thread::spawn(move || serve_udp(&udp, &stop, &count));
        let (stop, count) = (stopped.clone(), asked.clone());
        let streams = std::thread::spawn(move || serve_tcp(&tcp, &stop, &count));
        Ok(Self { stopped, asked, threads: vec![datagrams, streams] })
    }

    /// Whether anybody has asked it for `name`.
    pub fn was_asked(&self, name: &str) -> bool {
        lock(&self.asked).contains(name)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_udp(socket: &UdpSocket, stopped: &AtomicBool, asked: &Asked) {
    let mut buffer = [0; 4096];
    while !stopped.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = answer(&buffer[..length], asked, Way::Datagram) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, stopped: &AtomicBool, asked: &Asked) {
    while !stopped.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_ok() {
                    let mut buffer = vec![0; usize::from(u16::from_be_bytes(length))];
                    let read = stream.read_exact(&mut buffer);
                    if let Some(answer) = read.ok().and_then(|()| answer(&buffer, asked, Way::Stream)) {
                        let length = (answer.len() as u16).to_be_bytes();
                        let _ = stream.write_all(&[&length, answer.as_slice()].concat());
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(crate::PAUSE),
            Err(_) => return,
        }
    }
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Datagram,
    Stream,
}

fn answer(query: &[u8], asked: &Asked, way: Way) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    lock(asked).insert(question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase());
    let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.metadata.recursion_desired = true;
    let is_ours = Name::from_ascii(ZONE).is_ok_and(|zone| zone.zone_of(question.name()));
    if !is_ours {
        answer.metadata.response_code = ResponseCode::NXDomain;
    } else if question.query_type() == RecordType::A {
        let is_many = Name::from_ascii(MANY).is_ok_and(|many| many == *question.name());
        let many = (0..MANY_ADDRESSES).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect();
        for address in if is_many { many } else { vec![UPSTREAM_ANSWER] } {
            answer.add_answer(Record::from_rdata(question.name().clone(), 60, RData::A(A(address))));
        }
    }
    answer.add_query(question);
    let bytes = answer.to_vec().ok()?;
    let room = query.edns.as_ref().map_or(512, |edns| usize::from(edns.max_payload()).max(512));
    if way == Way::Stream || bytes.len() <= room {
        return Some(bytes);
    }
    answer.metadata.truncation = true;
    answer.answers.clear();
    answer.to_vec().ok()
}
