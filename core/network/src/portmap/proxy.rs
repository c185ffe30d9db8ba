//! Published ports the packet filter does not serve - IPv6 of the host to a container with IPv4 only, and everything
//! without a packet filter - are served by a task of the daemon, TCP here and UDP by [`super::relay`]. Connections end with
//! the daemon.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use dockerd_sys::{flows, port};
use dockerd_types::network::Protocol;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::relay::{Limits, Relay};

/// A worker of the runtime drops an ended task at once; this is for one that is stopped itself.
const ENDING: Duration = Duration::from_secs(1);

/// A port being served. It ends when dropped, which waits until the socket is closed: the port is free then. Not to be
/// dropped by the only worker of a runtime.
#[derive(Debug)]
pub struct Proxy {
    task: JoinHandle<()>,
    /// Hangs up when the socket is closed.
    closed: mpsc::Receiver<()>,
    target: Target,
    /// `None` while it ends.
    socket: Option<Arc<dyn Shared>>,
}

/// A socket that several look after.
trait Shared: AsFd + Debug + Send + Sync {}

/// The socket of a port being served.
#[derive(Debug)]
pub(super) struct Served<S> {
    pub(super) socket: S,
    /// Behind the socket: who waits for the end finds it closed.
    _open: mpsc::Sender<()>,
}

impl<S: AsFd> AsFd for Served<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S: AsFd + Debug + Send + Sync> Shared for Served<S> {}

/// Where what comes leads.
#[derive(Debug, Clone)]
pub(super) struct Target(Arc<Mutex<SocketAddr>>);

impl Target {
    pub(super) fn address(&self) -> SocketAddr {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.socket = None;
        // Nothing is ever sent: this ends by the hanging up.
        let _ = self.closed.recv_timeout(ENDING);
    }
}

impl Proxy {
    /// Serves a socket of TCP that listens, or one of UDP that is bound. If `keep_senders`, those served see who connected,
    /// where that is possible: not of datagrams.
    pub fn start(
        runtime: &Handle,
        protocol: Protocol,
        socket: OwnedFd,
        to: SocketAddr,
        keep_senders: bool,
    ) -> io::Result<Self> {
        Self::start_with(runtime, protocol, socket, to, keep_senders, Limits::default())
    }

    pub(super) fn start_with(
        runtime: &Handle,
        protocol: Protocol,
        socket: OwnedFd,
        to: SocketAddr,
        keep_senders: bool,
        limits: Limits,
    ) -> io::Result<Self> {
        let _runtime = runtime.enter();
        let target = Target(Arc::new(Mutex::new(to)));
        let (open, closed) = mpsc::channel::<()>();
        let (task, socket): (_, Arc<dyn Shared>) = match protocol {
            Protocol::Tcp => {
                let socket = TcpListener::from_std(std::net::TcpListener::from(socket))?;
                let served = Arc::new(Served { socket, _open: open });
                (runtime.spawn(serve(served.clone(), target.clone(), keep_senders)), served)
            }
            Protocol::Udp => {
                flows::open(&socket)?;
                let served = Arc::new(Served { socket: UdpSocket::from_std(socket.into())?, _open: open });
                (runtime.spawn(Relay::new(served.clone(), target.clone(), limits).serve()), served)
            }
            Protocol::Sctp => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self { task, closed, target, socket: Some(socket) })
    }

    /// Ends it, but not its socket.
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket.as_fd().try_clone_to_owned()
    }

    /// Connections and datagrams that come from now on lead to `to`.
    pub fn redirect(&self, to: SocketAddr) {
        *self.target.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

async fn serve(listener: Arc<Served<TcpListener>>, target: Target, keep_senders: bool) {
    // Connections live in the set, so that they end with the task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.socket.accept() => match accepted {
                Ok((client, sender)) => {
                    let to = target.address();
                    let sender = keep_senders.then_some(sender.ip()).filter(|ip| is_answered(*ip, to));
                    connections.spawn(relay(client, to, sender));
                }
                // The peer was gone again, or descriptors are short: either passes.
                Err(error) => {
                    tracing::debug!(%error, "a connection to a published port was not accepted");
                    tokio::task::yield_now().await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Whether what a container answers to that address comes here.
fn is_answered(sender: IpAddr, to: SocketAddr) -> bool {
    let own = match sender {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    !own && sender.is_ipv6() == to.is_ipv6()
}

/// A connection, made by `sender` for all its peer can tell.
async fn connect(to: SocketAddr, sender: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(sender) = sender else { return TcpStream::connect(to).await };
    let socket = if to.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    port::borrow_addresses(&socket, to.is_ipv6())?;
    socket.bind(SocketAddr::new(sender, 0))?;
    socket.connect(to).await
}

async fn relay(mut client: TcpStream, to: SocketAddr, sender: Option<IpAddr>) {
    let Ok(mut server) = connect(to, sender).await else { return };
    // How a connection ends is the two ends' concern.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
