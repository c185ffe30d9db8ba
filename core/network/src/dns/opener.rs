//! Sockets of other network namespaces. A socket belongs to the namespace in which it was made, wherever it is used from;
//! so one thread enters a namespace for the moment it takes to make them, and comes back.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use dockerd_sys::netlink::{Family, Socket};
use dockerd_sys::{chores, ns, process};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::rules::{self, Ports};
use super::{ADDRESS, PORT};

/// What queries may wait in a socket's memory, bytes: bursts of a thousand and more. Idle sockets use none of it.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Connections that may wait for us.
const BACKLOG: i32 = 128;
/// Tries to have the same port for both transports.
const TRIES: usize = 4;

type Job = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The thread. It ends when the last of these is dropped.
#[derive(Clone)]
pub(super) struct Opener {
    jobs: Sender<(Arc<OwnedFd>, Job)>,
    /// Netlink sockets whose end takes a while.
    closing: Sender<Socket>,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

/// The sockets of a resolver.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) udp: std::net::UdpSocket,
    pub(super) tcp: std::net::TcpListener,
    /// They are at our well-known port themselves, because there is no packet filter that could lead there.
    pub(super) direct: bool,
}

impl Opener {
    /// Starts the thread, in the calling thread's network namespace.
    pub(super) fn start() -> io::Result<Self> {
        let home = ns::open(Path::new("/proc/thread-self/ns/net"))?;
        let (jobs, receiver) = mpsc::channel::<(Arc<OwnedFd>, Job)>();
        let run = move || {
            for (netns, job) in receiver {
                let entered = ns::enter(&*netns, process::NEW_NET);
                let was_entered = entered.is_ok();
                job(entered);
                drop(netns);
                if was_entered && let Err(error) = ns::enter(&home, process::NEW_NET) {
                    // Nobody must get a socket of the wrong namespace from here.
                    tracing::error!(%error, "cannot return to the host's network namespace");
                    return;
                }
            }
        };
        std::thread::Builder::new().name("dns-netns".to_owned()).spawn(run)?;
        Ok(Self { jobs, closing: chores::start("dns-close", |sockets: Vec<Socket>| drop(sockets))? })
    }

    /// Runs `work` in `netns` and then hands its result to `done`, on the thread.
    fn submit<T: 'static>(
        &self,
        netns: &Arc<OwnedFd>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
        done: impl FnOnce(io::Result<T>) + Send + 'static,
    ) -> io::Result<()> {
        let job: Job = Box::new(move |entered| done(entered.and_then(|()| work())));
        self.jobs.send((netns.clone(), job)).map_err(|_| ended())
    }

    /// Runs `work` in `netns`. Blocking.
    fn run<T: Send + 'static>(
        &self,
        netns: &Arc<OwnedFd>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(netns, work, move |result| _ = sender.send(result))?;
        receiver.recv().map_err(|_| ended())?
    }

    /// The sockets of the resolver in `netns`, and the rules that lead there. Blocking.
    pub(super) fn listen(&self, netns: &Arc<OwnedFd>) -> io::Result<Listening> {
        let closing = self.closing.clone();
        self.run(netns, move || listen(&closing))
    }

    /// Takes the rules in `netns` away. Blocking.
    pub(super) fn remove_rules(&self, netns: &Arc<OwnedFd>) -> io::Result<()> {
        self.run(netns, || rules::remove(&Socket::open(Family::Netfilter)?).map_err(io::Error::other))
    }

    /// A socket in `netns` for speaking to `address`, not connected.
    pub(super) async fn socket(
        &self,
        netns: &Arc<OwnedFd>,
        address: SocketAddr,
        kind: SocketType,
    ) -> io::Result<OwnedFd> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.submit(netns, move || socket(address, kind), move |made| _ = sender.send(made))?;
        receiver.await.map_err(|_| ended())?
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that enters network namespaces has ended")
}

/// A socket for speaking to `address`, not connected, in the calling thread's namespace.
pub(super) fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if kind == SocketType::DGRAM {
        // A port of the kernel's choice now, not only when it is used: one that nobody can guess.
        let any = if address.is_ipv4() {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
        } else {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
        };
        rustix::net::bind(&socket, &any)?;
    }
    Ok(socket)
}

/// In the sandbox.
fn listen(closing: &Sender<Socket>) -> io::Result<Listening> {
    let (udp, tcp) = bind_pair()?;
    let ports = Ports { udp: udp.local_addr()?.port(), tcp: tcp.local_addr()?.port() };
    let socket = Socket::open(Family::Netfilter)?;
    match rules::install(&socket, ports) {
        Ok(()) => {
            // Its end is not waited for; if nobody takes it, that happens here.
            let _ = closing.send(socket);
            Ok(Listening { udp, tcp, direct: false })
        }
        Err(error) => {
            // A kernel without nf_tables. At the port itself we are reached as well, unless the container takes it first;
            // it can take it no more then.
            tracing::warn!(%error, "no packet filter for names of containers; listening at their port 53 itself");
            let at = SocketAddr::from((ADDRESS, PORT));
            Ok(Listening { udp: bind_udp(at)?, tcp: bind_tcp(at)?, direct: true })
        }
    }
}

/// Both at the same port if that can be had, because that is easier to look at.
fn bind_pair() -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let any = SocketAddr::from((ADDRESS, 0));
    for _ in 0..TRIES {
        let udp = bind_udp(any)?;
        match bind_tcp(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Ok((bind_udp(any)?, bind_tcp(any)?))
}

fn bind_udp(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    rustix::net::bind(&socket, &address)?;
    // More than the host's limit needs a right over the host's network, which a daemon in a container may not have.
    if sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), RECEIVE_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(socket.as_fd(), RECEIVE_BUFFER)?;
    }
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
