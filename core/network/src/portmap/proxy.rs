//! Published TCP ports the packet filter does not serve - IPv6 of the host to a container with IPv4 only, and everything
//! without a packet filter - are served by a task of the daemon. Its connections end with the daemon.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A port being served; it ends when dropped.
#[derive(Debug)]
pub struct Proxy(JoinHandle<()>);

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Proxy {
    /// Serves a listening socket.
    pub fn start(runtime: &Handle, listening: OwnedFd, to: SocketAddr) -> io::Result<Self> {
        let _runtime = runtime.enter();
        let listener = TcpListener::from_std(std::net::TcpListener::from(listening))?;
        Ok(Self(runtime.spawn(serve(listener, to))))
    }
}

async fn serve(listener: TcpListener, to: SocketAddr) {
    // Connections live in the set, so that they end with the task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => _ = connections.spawn(relay(client, to)),
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
