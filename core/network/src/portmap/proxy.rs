//! Published TCP ports the packet filter does not serve - IPv6 of the host to a container with IPv4 only, and everything
//! without a packet filter - are served by a task of the daemon. Its connections end with the daemon.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A worker of the runtime drops an ended task at once; this is for one that is stopped itself.
const ENDING: Duration = Duration::from_secs(1);

/// A port being served. It ends when dropped, which waits until the socket is closed: the port is free then. Not to be
/// dropped by the only worker of a runtime.
#[derive(Debug)]
pub struct Proxy {
    task: JoinHandle<()>,
    /// Hangs up when the task is gone.
    closed: mpsc::Receiver<()>,
    target: Target,
}

/// Where connections lead.
type Target = Arc<Mutex<SocketAddr>>;

/// What the task owns, in the order it is given back.
struct Service {
    listener: TcpListener,
    _closed: mpsc::Sender<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        // Nothing is ever sent: this ends by the hanging up.
        let _ = self.closed.recv_timeout(ENDING);
    }
}

impl Proxy {
    /// Serves a listening socket.
    pub fn start(runtime: &Handle, listening: OwnedFd, to: SocketAddr) -> io::Result<Self> {
        let _runtime = runtime.enter();
        let listener = TcpListener::from_std(std::net::TcpListener::from(listening))?;
        let (sender, closed) = mpsc::channel();
        let service = Service { listener, _closed: sender };
        let target = Target::new(Mutex::new(to));
        let served = target.clone();
        let task = runtime.spawn(async move {
            // The whole of it, not only the field that is named below.
            let service = service;
            serve(&service.listener, &served).await;
        });
        Ok(Self { task, closed, target })
    }

    /// Connections that come from now on lead to `to`.
    pub fn redirect(&self, to: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

async fn serve(listener: &TcpListener, target: &Target) {
    // Connections live in the set, so that they end with the task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let to = *target.lock().unwrap_or_else(PoisonError::into_inner);
                    connections.spawn(relay(client, to));
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

async fn relay(mut client: TcpStream, to: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    // How a connection ends is the two ends' concern.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
