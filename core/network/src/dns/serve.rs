//! The sockets of a sandbox's resolver, served on the daemon's runtime. Datagrams are taken and answered many at a time;
//! only what is not ours becomes a task.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use dockerd_sys::datagrams::{Inbox, Outbox};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::forward::{self, Passed, Route, framed};
use super::opener::Opener;
use super::respond::{self, Knowledge, Outcome};
use super::upstream::UpstreamSet;
use super::view::NameView;
use super::wire::{Asked, Transport};

/// Queries of one sandbox that may be under way to others; the stock daemon's value.
const MOST_FORWARDED: usize = 1024;
/// Connections of one sandbox.
const MOST_CONNECTIONS: usize = 128;
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Datagrams taken at a time, and the longest query: one that fills a packet of Ethernet.
const BATCH: usize = 32;
const LONGEST_QUERY: usize = 2048;
/// Responses that may wait for a connection's client to read.
const UNREAD: usize = 64;

thread_local! {
    /// One per thread of the runtime, not per sandbox: idle sandboxes cost next to nothing.
    static BOXES: RefCell<(Inbox, Outbox)> =
        RefCell::new((Inbox::new(BATCH, LONGEST_QUERY), Outbox::new(BATCH)));
}

/// What a sandbox's queries are answered from.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) view: Arc<dyn NameView>,
    pub(super) set: Arc<UpstreamSet>,
    pub(super) external: bool,
    pub(super) keep_single_labels: bool,
}

/// A resolver.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) netns: Arc<OwnedFd>,
    pub(super) opener: Opener,
    pub(super) active: ArcSwap<Active>,
    runtime: Handle,
    udp: UdpSocket,
    forwarded: Semaphore,
    /// Of all sandboxes.
    all_forwarded: Arc<Semaphore>,
    turn: AtomicUsize,
    /// Everything that runs for it; `None` once it is closed.
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl Sandbox {
    /// Begins to serve. Within `runtime`.
    pub(super) fn start(parts: Parts) -> io::Result<Arc<Self>> {
        let Parts { netns, opener, active, runtime, udp, tcp, all_forwarded } = parts;
        let sandbox = Arc::new(Self {
            netns,
            opener,
            active: ArcSwap::from_pointee(active),
            runtime,
            udp: UdpSocket::from_std(udp)?,
            forwarded: Semaphore::new(MOST_FORWARDED),
            all_forwarded,
            turn: AtomicUsize::new(0),
            tasks: Mutex::new(Some(JoinSet::new())),
        });
        let tcp = TcpListener::from_std(tcp)?;
        sandbox.spawn(serve_udp(sandbox.clone()));
        sandbox.spawn(serve_tcp(sandbox.clone(), tcp));
        Ok(sandbox)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tasks) = &mut *tasks {
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(task, &self.runtime);
        }
    }

    /// Ends everything that runs for it, and with it the sockets; waiting for that is up to the caller.
    pub(super) fn close(&self) -> JoinSet<()> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        tasks.abort_all();
        tasks
    }

    fn respond(&self, active: &Active, message: &[u8], transport: Transport, out: &mut Vec<u8>) -> Outcome {
        let knowledge = Knowledge {
            view: &*active.view,
            keep_single_labels: active.keep_single_labels,
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        respond::respond(message, transport, knowledge, out)
    }

    /// What others say, or that nobody says anything.
    async fn forward(&self, asked: Box<Asked>, message: Vec<u8>) -> Vec<u8> {
        let query = Arc::new(Passed { asked, message });
        let response = match (self.forwarded.try_acquire(), self.all_forwarded.try_acquire()) {
            (Ok(_one), Ok(_other)) => forward::forward(&self.route(), &query).await,
            _ => {
                tracing::debug!("too many queries are under way");
                None
            }
        };
        response.unwrap_or_else(|| {
            let mut out = Vec::new();
            respond::failure(&query.asked, &mut out);
            out
        })
    }

    fn route(&self) -> Route {
        let active = self.active.load();
        Route {
            set: active.set.clone(),
            opener: self.opener.clone(),
            netns: self.netns.clone(),
            from_host: active.external,
        }
    }

    /// Answers what has arrived. `WouldBlock` when that was all.
    fn answer_datagrams(self: &Arc<Self>) -> io::Result<()> {
        BOXES.with_borrow_mut(|(inbox, outbox)| {
            let count = match inbox.receive(&self.udp) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "cannot receive queries");
                    return Err(io::ErrorKind::WouldBlock.into());
                }
            };
            let active = self.active.load();
            for (from, message) in (0..count).filter_map(|index| inbox.datagram(index)) {
                outbox.add(from, |out| match self.respond(&active, message, Transport::Udp, out) {
                    Outcome::Silence => false,
                    Outcome::Response => true,
                    Outcome::Forward(asked) => {
                        self.spawn(self.clone().forward_datagram(asked, message.to_vec(), from));
                        false
                    }
                });
            }
            if !outbox.is_empty() {
                outbox.send(&self.udp);
            }
            if count < inbox.capacity() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        })
    }

    async fn forward_datagram(self: Arc<Self>, asked: Box<Asked>, message: Vec<u8>, from: SocketAddrV4) {
        let response = self.forward(asked, message).await;
        if let Err(error) = self.udp.send_to(&response, from).await {
            tracing::debug!(%error, "cannot send a response");
        }
    }
}

/// What [`Sandbox::start`] needs.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) netns: Arc<OwnedFd>,
    pub(super) opener: Opener,
    pub(super) active: Active,
    pub(super) runtime: Handle,
    pub(super) udp: std::net::UdpSocket,
    pub(super) tcp: std::net::TcpListener,
    pub(super) all_forwarded: Arc<Semaphore>,
}

async fn serve_udp(sandbox: Arc<Sandbox>) {
    // An error: the runtime ends.
    while sandbox.udp.readable().await.is_ok() {
        let _ = sandbox.udp.try_io(Interest::READABLE, || sandbox.answer_datagrams());
    }
}

async fn serve_tcp(sandbox: Arc<Sandbox>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        // Those above wait in the kernel.
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = sandbox.clone();
                sandbox.spawn(async move {
                    // Clients end connections as they like.
                    let _ = serve_connection(served, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for queries");
                // Out of descriptors, most likely: that passes.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Queries may follow each other without waiting; responses go out as they are found (RFC 7766, 6.2.1.1).
async fn serve_connection(sandbox: Arc<Sandbox>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (responses, mut ready) = mpsc::channel::<Vec<u8>>(UNREAD);
    let (mut reader, mut writer) = stream.split();
    let read = async move {
        let mut message = Vec::new();
        loop {
            let length = tokio::time::timeout(IDLE, reader.read_u16()).await??;
            message.resize(usize::from(length), 0);
            tokio::time::timeout(IDLE, reader.read_exact(&mut message)).await??;
            let mut response = Vec::new();
            let outcome = sandbox.respond(&sandbox.active.load(), &message, Transport::Tcp, &mut response);
            let Ok(place) = responses.clone().reserve_owned().await else { return Ok(()) };
            match outcome {
                Outcome::Silence => {}
                Outcome::Response => _ = place.send(response),
                Outcome::Forward(asked) => {
                    let (served, message) = (sandbox.clone(), message.clone());
                    sandbox.spawn(async move { _ = place.send(served.forward(asked, message).await) });
                }
            }
        }
    };
    let write = async {
        while let Some(response) = ready.recv().await {
            writer.write_all(&framed(&response)).await?;
        }
        io::Result::Ok(())
    };
    // The client may close its side and still wait for responses: the reader's end is not the writer's.
    let (read, written): (io::Result<()>, _) = tokio::join!(read, write);
    written.and(read)
}
