//! Who reaches whom, and under which address: a server that tells its clients what it sees of them, and a client that asks
//! it from any network namespace. Nothing runs in a container for it: threads of this process enter its network.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};

use crate::network::Network;

/// How long a client waits. A SYN that got lost is sent again after a second.
const PATIENCE: Duration = Duration::from_millis(2500);
/// How often a datagram is sent, and the wait after each.
const DATAGRAMS: u32 = 3;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A connection.
    Tcp,
    /// One datagram and its answer.
    Udp,
    /// An echo request; the port does not matter.
    Icmp,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server saw this address.
    Seen(IpAddr),
    /// An echo request was answered.
    Answered,
    /// Nobody listens, or somebody says so.
    Refused,
    /// Nothing came back.
    Silence,
    /// There is no way there, or a router says so.
    Unreachable,
    /// The connection was made, and ended without a word.
    Closed,
}

/// A server that tells every client the address it sees; ends when dropped.
#[derive(Debug)]
pub struct Server {
    /// Its other end closes with this one.
    alive: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens by TCP and UDP on all these addresses of `network`.
    pub fn start(network: &Network, addresses: &[SocketAddr]) -> Result<Self> {
        let listen = || addresses.iter().map(|to| Ok((TcpListener::bind(to)?, UdpSocket::bind(to)?))).collect();
        let sockets: Vec<_> = network.inside(listen).with_context(|| format!("listen on {addresses:?}"))?;
        let (alive, end) = UnixStream::pair()?;
        let thread = std::thread::spawn(move || serve(&sockets, &end));
        Ok(Self { alive: Some(alive), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(sockets: &[(TcpListener, UdpSocket)], end: &UnixStream) {
    loop {
        let mut ready = vec![PollFd::new(end, PollFlags::IN)];
        for (tcp, udp) in sockets {
            ready.extend([PollFd::new(tcp, PollFlags::IN), PollFd::new(udp, PollFlags::IN)]);
        }
        if poll(&mut ready, None).is_err() || !ready[0].revents().is_empty() {
            return;
        }
        let ready: Vec<bool> = ready[1..].iter().map(|entry| !entry.revents().is_empty()).collect();
        for ((tcp, udp), ready) in sockets.iter().zip(ready.chunks(2)) {
            if ready[0]
                && let Ok((mut client, address)) = tcp.accept()
            {
                let _ = client.write_all(name(address).as_bytes());
            }
            let mut datagram = [0; 16];
            if ready[1]
                && let Ok((_, address)) = udp.recv_from(&mut datagram)
            {
                let _ = udp.send_to(name(address).as_bytes(), address);
            }
        }
    }
}

fn name(address: SocketAddr) -> String {
    address.ip().to_canonical().to_string()
}

/// Asks from `network` what the server at `to` sees.
pub fn ask(network: &Network, protocol: Protocol, to: SocketAddr) -> Result<Outcome> {
    match protocol {
        Protocol::Tcp => network.inside(|| Ok(told(connect(to))?)),
        Protocol::Udp => network.inside(|| Ok(told(exchange(to))?)),
        Protocol::Icmp => {
            let mut command = network.command("busybox");
            let output = command.args(["ping", "-c", "1", "-W", "2", &to.ip().to_string()]).output()?;
            Ok(if output.status.success() { Outcome::Answered } else { Outcome::Silence })
        }
    }
}

fn connect(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn exchange(to: SocketAddr) -> std::io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE / DATAGRAMS))?;
    let mut buffer = [0; 64];
    let mut attempt = || {
        socket.send(b"who am I?")?;
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let silent = |answer: &std::io::Result<String>| answer.as_ref().is_err_and(is_silence);
    let mut answer = attempt();
    for _ in 1..DATAGRAMS {
        if silent(&answer) {
            answer = attempt();
        }
    }
    answer
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

fn told(answer: std::io::Result<String>) -> std::io::Result<Outcome> {
    match answer {
        Ok(text) => Ok(text.parse().map_or(Outcome::Closed, Outcome::Seen)),
        Err(error) if is_silence(&error) => Ok(Outcome::Silence),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(Outcome::Refused),
            ErrorKind::ConnectionReset => Ok(Outcome::Closed),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied => {
                Ok(Outcome::Unreachable)
            }
            // The address is none of this host's family.
            ErrorKind::AddrNotAvailable => Ok(Outcome::Unreachable),
            _ => Err(error),
        },
    }
}
