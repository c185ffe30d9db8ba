//! One client's connection: HTTP until its peer goes, or until a handler takes the connection for itself ("hijack").
//! Done without hyper's own upgrade, because Docker takes connections over without being asked to upgrade too, and
//! writes the head of the answer itself.

use std::future::{Future, pending};
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::sync::{Notify, mpsc};

use crate::reply::{Reply, ReplyBody};

/// A client's socket.
pub(crate) trait Socket: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static> Socket for T {}

/// A connection that is no HTTP any more.
pub(crate) struct Taken {
    /// The socket.
    pub(crate) socket: Box<dyn Socket>,
    /// What the client had sent after its request.
    pub(crate) read: Bytes,
}

type Job = Box<dyn FnOnce(Taken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// The right to take the connection a request came on; in the request's extensions.
#[derive(Clone)]
pub(crate) struct Hijack {
    jobs: mpsc::Sender<Job>,
}

impl Hijack {
    /// Leaves the connection to `job`, with what was read beyond the request. Whoever waits for this waits for ever: the
    /// request has no other answer.
    pub(crate) async fn take<F>(self, job: impl FnOnce(Taken) -> F + Send + 'static) -> Reply
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // The connection's task listens as long as it polls this.
        let _ = self.jobs.send(Box::new(|taken| Box::pin(job(taken)))).await;
        pending().await
    }
}

impl std::fmt::Debug for Hijack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hijack")
    }
}

/// What the connection's task knows of its requests.
#[derive(Debug, Default)]
struct Activity {
    /// A handler works; it must not be dropped half-way because its client has gone.
    handling: AtomicBool,
    /// A body was begun that may go on without end.
    streaming: Notify,
}

/// Serves one connection to its end. `answer` is asked for each request.
pub(crate) async fn serve<S, F, A>(socket: S, answer: A)
where
    S: Socket,
    F: Future<Output = Reply> + Send,
    A: Fn(Request<Incoming>) -> F + Send,
{
    let (jobs, mut taken) = mpsc::channel(1);
    let activity = Arc::new(Activity::default());
    let watched = socket.as_fd().try_clone_to_owned();
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Hijack { jobs: jobs.clone() });
        activity.handling.store(true, Ordering::Release);
        let reply = answer(request);
        let activity = &activity;
        async move {
            let reply = reply.await;
            activity.handling.store(false, Ordering::Release);
            if matches!(reply.body(), ReplyBody::Stream(_)) {
                activity.streaming.notify_one();
            }
            Ok::<_, std::convert::Infallible>(reply)
        }
    });
    let mut builder = http1::Builder::new();
    // As Go writes them, for clients that compare.
    builder.timer(TokioTimer::new()).half_close(true).title_case_headers(true);
    let mut connection = builder.serve_connection(TokioIo::new(socket), service);
    let gone = async {
        activity.streaming.notified().await;
        match watched {
            Ok(fd) => left(fd, &activity).await,
            Err(_) => pending().await,
        }
    };
    let job: Job = tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
            return;
        }
        Some(job) = taken.recv() => job,
        () = gone => return,
    };
    let parts = connection.into_parts();
    job(Taken { socket: Box::new(parts.io.into_inner()), read: parts.read_buf }).await;
}

/// Until the client has gone while no handler works for it.
async fn left(fd: std::os::fd::OwnedFd, activity: &Activity) {
    if hung_up(fd).await.is_err() || activity.handling.load(Ordering::Acquire) {
        // The next write will find out.
        pending::<()>().await;
    }
}

/// Waits until the peer has closed its end altogether: not only stopped sending, which clients do at the end of their
/// input. Over TCP the two look alike until something is written, so that this never ends there.
pub(crate) async fn hung_up(fd: std::os::fd::OwnedFd) -> io::Result<()> {
    #[allow(deprecated, reason = "its successor is unsafe; the descriptor is owned by the AsyncFd alone")]
    let fd = AsyncFd::with_interest(fd, Interest::WRITABLE)?;
    loop {
        let mut guard = fd.writable().await?;
        if guard.ready().is_write_closed() {
            return Ok(());
        }
        guard.clear_ready();
    }
}
