//! Name servers that behave well or badly, and network namespaces to put them in.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dockerd_sys::{ns, process};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// How long something may take that should happen soon.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

/// A network namespace with loopback.
pub(crate) fn space() -> OwnedFd {
    let make = || {
        ns::unshare(process::NEW_NET).expect("needs root");
        ns::loopback_up().expect("loopback");
        ns::open(Path::new("/proc/thread-self/ns/net")).expect("opened")
    };
    std::thread::spawn(make).join().expect("no panic")
}

/// Runs `job` in a network namespace.
pub(crate) fn inside<T: Send + 'static>(netns: &OwnedFd, job: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.try_clone().expect("descriptor");
    let run = move || {
        ns::enter(&netns, process::NEW_NET).expect("entered");
        job()
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Makes room for a burst of datagrams, so that none is lost on the way.
pub(crate) fn widen(socket: &UdpSocket) {
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, 4 << 20).expect("needs root");
}

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Every name has the address 192.0.2.1.
    Answer,
    /// Nothing.
    Silent,
    /// It cannot.
    Fail,
    /// Over UDP only the beginning of it.
    Truncate,
    /// Others are faster, with answers to what was not asked.
    Forge,
}

#[derive(Debug, Default)]
struct Seen {
    queries: AtomicUsize,
    over_tcp: AtomicUsize,
    payload: AtomicU16,
    stopped: AtomicBool,
}

/// A server on loopback, UDP and TCP, of the namespace in which it was started.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    udp: UdpSocket,
    tcp: TcpListener,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")) {
                break (udp, tcp);
            }
        };
        widen(&udp);
        let seen = Arc::new(Seen::default());
        let (udp_side, tcp_side) = (udp.try_clone().expect("descriptor"), tcp.try_clone().expect("descriptor"));
        let (one, other) = (seen.clone(), seen.clone());
        let threads = vec![
            std::thread::spawn(move || serve_udp(&udp_side, behaviour, &one)),
            std::thread::spawn(move || serve_tcp(&tcp_side, behaviour, &other)),
        ];
        Self { address: udp.local_addr().expect("an address"), seen, udp, tcp, threads }
    }

    /// How many queries came, over both.
    pub(crate) fn asked(&self) -> usize {
        self.seen.queries.load(Ordering::SeqCst)
    }

    pub(crate) fn asked_over_tcp(&self) -> usize {
        self.seen.over_tcp.load(Ordering::SeqCst)
    }

    /// What the last client said it takes.
    pub(crate) fn payload(&self) -> u16 {
        self.seen.payload.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.seen.stopped.store(true, Ordering::SeqCst);
        // Shutting a socket down wakes who waits at it.
        let _ = rustix::net::shutdown(&self.udp, rustix::net::Shutdown::Both);
        let _ = rustix::net::shutdown(&self.tcp, rustix::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The responses to a query, in the order in which they go out.
fn responses(query: &[u8], behaviour: Behaviour, tcp: bool, seen: &Seen) -> Vec<Vec<u8>> {
    seen.queries.fetch_add(1, Ordering::SeqCst);
    let query = Message::from_vec(query).expect("well-formed");
    seen.payload.store(query.edns.as_ref().map_or(0, |edns| edns.max_payload()), Ordering::SeqCst);
    let mut response = query.clone();
    response.metadata.message_type = MessageType::Response;
    response.metadata.recursion_available = true;
    let name = query.queries[0].name().clone();
    let record = |ip: [u8; 4]| Record::from_rdata(name.clone(), 60, RData::A(A::from(Ipv4Addr::from(ip))));
    let mut all = Vec::new();
    match behaviour {
        Behaviour::Silent => return all,
        // There is nothing else at that name.
        _ if query.queries[0].query_type() != RecordType::A => {}
        Behaviour::Answer => _ = response.add_answer(record([192, 0, 2, 1])),
        Behaviour::Fail => response.metadata.response_code = ResponseCode::ServFail,
        Behaviour::Truncate if tcp => _ = response.add_answers((1..=60).map(|n| record([192, 0, 2, n]))),
        Behaviour::Truncate => response.metadata.truncation = true,
        Behaviour::Forge => {
            let mut forged = response.clone();
            forged.add_answer(record([203, 0, 113, 66]));
            let (mut other_id, mut other_name, mut no_response) = (forged.clone(), forged.clone(), forged.clone());
            other_id.metadata.id = other_id.metadata.id.wrapping_add(1);
            other_name.queries[0].set_name(Name::from_ascii("other.example.").expect("a name"));
            no_response.metadata.message_type = MessageType::Query;
            all.extend([other_id, other_name, no_response].map(|message| message.to_vec().expect("written")));
            all.push(b"noise".to_vec());
            response.add_answer(record([192, 0, 2, 1]));
        }
    }
    all.push(response.to_vec().expect("written"));
    all
}

fn serve_udp(socket: &UdpSocket, behaviour: Behaviour, seen: &Seen) {
    let mut bytes = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        if seen.stopped.load(Ordering::SeqCst) {
            return;
        }
        for response in responses(&bytes[..length], behaviour, false, seen) {
            let _ = socket.send_to(&response, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, behaviour: Behaviour, seen: &Seen) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        // Clients may leave.
        let _ = serve_stream(stream, behaviour, seen);
    }
}

fn serve_stream(mut stream: TcpStream, behaviour: Behaviour, seen: &Seen) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut query)?;
    seen.over_tcp.fetch_add(1, Ordering::SeqCst);
    for response in responses(&query, behaviour, true, seen) {
        stream.write_all(&(response.len() as u16).to_be_bytes())?;
        stream.write_all(&response)?;
    }
    stream.shutdown(Shutdown::Write)
}
