//! Datagrams passed on by a task of the daemon. Who writes to the port is a flow, with a socket of its own to the container, so
//! that replies find back; they come from the address of the host that was written to. A flow ends when nothing was
//! said in it for a while, or when there are too many and it has been silent for longest.
//!
//! Datagrams are taken and sent on many at a time, from the buffers they arrived in.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use dockerd_sys::flows::{self, Flow, Tray};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::proxy::{Served, Target};

/// Datagrams taken at a time. There is room for the longest ones, which seldom come.
const BATCH: usize = 16;

thread_local! {
    /// One per thread of the runtime, not per port.
    static TRAY: RefCell<Tray> = RefCell::new(Tray::new(BATCH));
}

/// What a port's flows are held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A flow in which nothing is said for so long ends; the stock daemon's value.
    pub(super) idle: Duration,
    /// Flows at a time.
    pub(super) flows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(90), flows: 1024 }
    }
}

/// A port being served.
#[derive(Debug)]
pub(super) struct Relay {
    port: Arc<Served<UdpSocket>>,
    target: Target,
    limits: Limits,
    clients: HashMap<Flow, Client>,
    /// One for each client, which says at its end whose it was.
    tasks: JoinSet<Flow>,
    clock: Clock,
}

/// A flow's way to the container.
#[derive(Debug)]
struct Client {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    used: Arc<AtomicU64>,
    task: AbortHandle,
}

/// Nanoseconds since a port is served.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Relay {
    /// For a socket that is bound and open to what comes.
    pub(super) fn new(port: Arc<Served<UdpSocket>>, target: Target, limits: Limits) -> Self {
        let clock = Clock(Instant::now());
        Self { port, target, limits, clients: HashMap::new(), tasks: JoinSet::new(), clock }
    }

    /// Passes datagrams on until the runtime ends.
    pub(super) async fn serve(mut self) {
        loop {
            let port = self.port.clone();
            tokio::select! {
                readable = port.socket.readable() => {
                    if readable.is_err() {
                        return;
                    }
                    let pass_on = || TRAY.with_borrow_mut(|tray| self.pass_on(tray));
                    let _ = port.socket.try_io(Interest::READABLE, pass_on);
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    // One that was ended is not known any more.
                    let Ok((id, flow)) = ended else { continue };
                    if self.clients.get(&flow).is_some_and(|client| client.task.id() == id) {
                        self.clients.remove(&flow);
                    }
                }
            }
        }
    }

    /// Passes on what has arrived. `WouldBlock` when that was all.
    fn pass_on(&mut self, tray: &mut Tray) -> io::Result<()> {
        let count = tray.receive(&self.port.socket)?;
        let to = self.target.address();
        let mut first = 0;
        while first < count {
            let flow = tray.flow(first);
            let end = (first + 1..count).find(|at| tray.flow(*at) != flow).unwrap_or(count);
            match flow.map(|flow| self.client(flow, to)) {
                Some(Ok(socket)) => tray.forward(socket, first..end),
                Some(Err(error)) => tracing::debug!(%to, %error, "datagrams for a published port are lost"),
                None => {}
            }
            first = end;
        }
        rest(count, tray)
    }

    /// A flow's socket to the container.
    fn client(&mut self, flow: Flow, to: SocketAddr) -> io::Result<BorrowedFd<'_>> {
        let now = self.clock.now();
        let is_known = self.clients.get(&flow).is_some_and(|client| client.to == to);
        if !is_known {
            self.make_room(&flow);
            let client = self.open_client(flow, to, now)?;
            self.clients.insert(flow, client);
        }
        let client = self.clients.get(&flow).ok_or(io::ErrorKind::NotFound)?;
        client.used.store(now, Ordering::Relaxed);
        Ok(client.socket.as_fd())
    }

    /// Ends what the flow had before, and the flow that has been silent for longest if there are too many.
    fn make_room(&mut self, flow: &Flow) {
        if let Some(old) = self.clients.remove(flow) {
            old.task.abort();
        }
        if self.clients.len() < self.limits.flows {
            return;
        }
        let oldest = self.clients.iter().min_by_key(|(_, client)| client.used.load(Ordering::Relaxed));
        let oldest = oldest.map(|(flow, _)| *flow);
        if let Some(client) = oldest.and_then(|flow| self.clients.remove(&flow)) {
            client.task.abort();
        }
    }

    fn open_client(&mut self, flow: Flow, to: SocketAddr, now: u64) -> io::Result<Client> {
        let socket = Arc::new(UdpSocket::from_std(flows::connect(to)?.into())?);
        let used = Arc::new(AtomicU64::new(now));
        let back = Back {
            flow,
            socket: socket.clone(),
            port: self.port.clone(),
            used: used.clone(),
            idle: self.limits.idle,
            clock: self.clock,
        };
        let task = self.tasks.spawn(back.serve());
        Ok(Client { socket, to, used, task })
    }
}

/// A flow's way back.
struct Back {
    flow: Flow,
    socket: Arc<UdpSocket>,
    port: Arc<Served<UdpSocket>>,
    used: Arc<AtomicU64>,
    idle: Duration,
    clock: Clock,
}

impl Back {
    /// Passes replies on until nothing is said any more, in either direction.
    async fn serve(self) -> Flow {
        let idle = u64::try_from(self.idle.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let silent = self.clock.now().saturating_sub(self.used.load(Ordering::Relaxed));
            if silent >= idle {
                return self.flow;
            }
            let rest = Duration::from_nanos(idle - silent);
            match tokio::time::timeout(rest, self.socket.readable()).await {
                // The client may have said something meanwhile.
                Err(_) => {}
                Ok(Err(_)) => return self.flow,
                Ok(Ok(())) => {
                    let pass_on = || TRAY.with_borrow_mut(|tray| self.pass_on(tray));
                    let _ = self.socket.try_io(Interest::READABLE, pass_on);
                }
            }
        }
    }

    /// Passes on what has arrived. `WouldBlock` when that was all. Other errors: nobody has the port in the container yet, or
    /// any more; that may change.
    fn pass_on(&self, tray: &mut Tray) -> io::Result<()> {
        let count = tray.receive(&*self.socket)?;
        self.used.store(self.clock.now(), Ordering::Relaxed);
        tray.reply(&self.port.socket, 0..count, &self.flow);
        rest(count, tray)
    }
}

/// Whether there may be more.
fn rest(count: usize, tray: &Tray) -> io::Result<()> {
    if count < tray.capacity() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{IpAddr, UdpSocket};

    use dockerd_sys::port::{Transport, hold};
    use dockerd_types::network::Protocol;
    use tokio::runtime::{Builder, Runtime};

    use super::super::proxy::Proxy;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn runtime() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
    }

    fn socket(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).expect("bound");
        socket.set_read_timeout(Some(LIMIT)).expect("timeout");
        socket
    }

    /// A port on all addresses of a family that leads to `to`.
    fn relay(runtime: &Runtime, all: &str, to: &UdpSocket, limits: Limits) -> (Proxy, u16) {
        let held = hold(Transport::Udp, all.parse().expect("address")).expect("held");
        let name: SocketAddr = rustix::net::getsockname(&held).expect("name").try_into().expect("an address");
        let to = to.local_addr().expect("an address");
        let proxy = Proxy::start_with(runtime.handle(), Protocol::Udp, held, to, false, limits).expect("started");
        (proxy, name.port())
    }

    fn client(local: &str, port: u16) -> UdpSocket {
        let address: IpAddr = local.parse().expect("address");
        let client = socket(&SocketAddr::new(address, 0).to_string());
        // It takes what comes from there and from nobody else.
        client.connect(SocketAddr::new(address, port)).expect("connected");
        client
    }

    fn said(socket: &UdpSocket) -> (String, SocketAddr) {
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).expect("something comes");
        (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
    }

    fn ask(client: &UdpSocket, server: &UdpSocket, text: &str) -> SocketAddr {
        client.send(text.as_bytes()).expect("sent");
        let (heard, from) = said(server);
        assert_eq!(heard, text);
        server.send_to(text.to_uppercase().as_bytes(), from).expect("answered");
        assert_eq!(said(client).0, text.to_uppercase());
        from
    }

    #[test]
    fn many_clients_each_with_a_way_back() {
        let runtime = runtime();
        for (all, locals) in [("[::]:0", &["::1"][..]), ("0.0.0.0:0", &["127.0.0.1", "127.8.9.10"])] {
            let server = socket("127.0.0.1:0");
            let (proxy, port) = relay(&runtime, all, &server, Limits::default());
            let clients: Vec<_> = locals.iter().flat_map(|local| (0..100).map(|_| client(local, port))).collect();
            clients.iter().enumerate().for_each(|(at, client)| _ = client.send(format!("{at}").as_bytes()));
            let asked: Vec<_> = clients.iter().map(|_| said(&server)).collect();
            // The last one is answered first.
            asked.iter().rev().for_each(|(text, from)| _ = server.send_to(text.as_bytes(), from).expect("answered"));
            for (at, client) in clients.iter().enumerate() {
                assert_eq!(said(client).0, format!("{at}"));
            }
            let ways: BTreeSet<_> = asked.iter().map(|(_, from)| *from).collect();
            assert_eq!(ways.len(), clients.len());
            // A client's way stays the same.
            assert!(ways.contains(&ask(&clients[0], &server, "again")));
            let all = SocketAddr::new(all.parse::<SocketAddr>().expect("address").ip(), port);
            UdpSocket::bind(all).expect_err("it is taken");
            let held = proxy.into_socket().expect("a socket");
            UdpSocket::bind(all).expect_err("it is still taken");
            drop(held);
            UdpSocket::bind(all).expect("it is free");
        }
    }

    #[test]
    fn clients_follow_to_another_container() {
        let runtime = runtime();
        let (old, new) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let (proxy, port) = relay(&runtime, "[::]:0", &old, Limits::default());
        let client = client("::1", port);
        ask(&client, &old, "one");
        proxy.redirect(new.local_addr().expect("an address"));
        ask(&client, &new, "two");
        // Nobody is there for a while; the one who comes then is reached.
        let at = new.local_addr().expect("an address");
        drop(new);
        client.send(b"lost").expect("sent");
        let new = socket(&at.to_string());
        loop {
            client.send(b"three").expect("sent");
            // The refusal may be heard of before or after.
            if said(&new).0 == "three" {
                break;
            }
        }
    }

    #[test]
    fn the_one_that_is_silent_for_longest_goes() {
        let runtime = runtime();
        let server = socket("127.0.0.1:0");
        let (_proxy, port) = relay(&runtime, "[::]:0", &server, Limits { flows: 2, ..Limits::default() });
        let clients: Vec<_> = (0..3).map(|_| client("::1", port)).collect();
        let ways: Vec<_> = clients.iter().map(|client| ask(client, &server, "a")).collect();
        assert_eq!(ask(&clients[2], &server, "b"), ways[2]);
        assert_ne!(ask(&clients[0], &server, "c"), ways[0], "it has a new one");
    }

    #[test]
    fn a_flow_in_which_nothing_is_said_ends() {
        let runtime = runtime();
        let server = socket("127.0.0.1:0");
        let limits = Limits { idle: Duration::from_millis(30), ..Limits::default() };
        let (_proxy, port) = relay(&runtime, "[::]:0", &server, limits);
        let client = client("::1", port);
        let way = ask(&client, &server, "a");
        // As soon as the relay gives its port up, somebody else can have it.
        let begun = std::time::Instant::now();
        while UdpSocket::bind(way).is_err() {
            assert!(begun.elapsed() < LIMIT, "the flow does not end");
            std::thread::yield_now();
        }
        ask(&client, &server, "b");
    }
}
