//! What can go wrong between the daemon and a registry. The texts are those the stock daemon shows, because people and
//! programs match on them; what is wrong inside a certificate is told in rustls' words where Go has no short text for it.

use std::io;

use dockerd_types::{ErrorKind, Kinded};

use crate::api_error::{ApiCode, ApiError, ApiErrors};

/// Failure of a call of this crate.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A value of the configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// A file of `certs.d` cannot be used.
    #[error("{0}")]
    Certificates(String),
    /// A request got no answer: `Get "https://host/v2/": cause`.
    #[error("{method} {url:?}: {cause}")]
    Request {
        /// As Go writes it: `Get`, `Head`, `Put` ...
        method: &'static str,
        /// What was asked for, without anything secret.
        url: String,
        /// Why.
        cause: TransportError,
    },
    /// The registry refused, and said why.
    #[error("{0}")]
    Api(ApiErrors),
    /// A status that is neither success nor a refusal (distribution client: anything outside 200 to 499).
    #[error("received unexpected HTTP status: {0}")]
    UnexpectedStatus(String),
    /// A refusal whose body is not what registries answer.
    #[error("error parsing HTTP {status} response body: {why}: {body:?}")]
    UnexpectedBody {
        /// The status.
        status: u16,
        /// What is wrong with the body.
        why: String,
        /// Its beginning.
        body: String,
    },
    /// Not there, or not for this user.
    #[error("pull access denied for {name}, repository does not exist or may require 'docker login': {cause}")]
    AccessDenied {
        /// The repository, as people write it.
        name: String,
        /// What the registry said.
        cause: ApiError,
    },
    /// No such tag or digest.
    #[error("manifest for {reference} not found: {cause}")]
    ManifestUnknown {
        /// As people write it.
        reference: String,
        /// What the registry said.
        cause: ApiError,
    },
    /// No such repository.
    #[error("repository {name} not found: {cause}")]
    NameUnknown {
        /// The repository, as people write it.
        name: String,
        /// What the registry said.
        cause: ApiError,
    },
    /// The blob is not in the repository.
    #[error("unknown blob")]
    BlobUnknown,
    /// `scratch` names no image.
    #[error("'{0}' is a reserved name")]
    ReservedName(String),
    /// No endpoint could be asked.
    #[error("no endpoints found for {0}")]
    NoEndpoint(String),
    /// Image format of before 2017.
    #[error(
        "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. Suggest the author of \
         {0} to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2. More information at \
         https://docs.docker.com/go/deprecated-image-specs/"
    )]
    Schema1(String),
    /// Neither an image nor an index.
    #[error("unsupported media type {0}")]
    UnsupportedMediaType(String),
    /// A document of the registry that makes no sense, or more of it than anybody needs.
    #[error("invalid {what}: {why}")]
    Malformed {
        /// `manifest`, `tag list`, `token response` ...
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The manifest is not the one that was asked for.
    #[error("manifest verification failed for digest {0}")]
    ManifestDigest(String),
    /// The blob is longer or shorter than its descriptor says.
    #[error("size of blob {digest} is not as its descriptor says: expected {expected} bytes, got {got}")]
    BlobSize {
        /// The blob.
        digest: String,
        /// Bytes that were announced.
        expected: u64,
        /// Bytes that came, at least.
        got: u64,
    },
    /// A transfer broke off.
    #[error("{0}")]
    Transfer(TransportError),
    /// A name and a password are wanted.
    #[error("no basic auth credentials")]
    NoBasicCredentials,
    /// The token server's answer has no token.
    #[error("authorization server did not include a token in the response")]
    NoToken,
    /// The challenge names no realm, or one that must not be asked.
    #[error("{0}")]
    Challenge(String),
    /// The credentials were refused at `docker login`.
    #[error("{0}")]
    Unauthorized(Box<RegistryError>),
    /// `docker login` got another answer than yes or no.
    #[error("login attempt to {url} failed with status: {status}")]
    Login {
        /// What was asked.
        url: String,
        /// Number and words.
        status: String,
    },
    /// A request makes no sense; of `docker search` and `docker login`.
    #[error("{0}")]
    InvalidArgument(String),
    /// `docker search` got another answer than 200.
    #[error("Unexpected status code {0}")]
    SearchStatus(u16),
    /// What is to be sent cannot be read.
    #[error("{0}")]
    Source(String),
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No address belongs to the name.
    #[error("dial tcp: lookup {0}: no such host")]
    Lookup(String),
    /// The connection was refused, there is no route ...
    #[error("dial tcp {address}: connect: {}", go_text(cause))]
    Connect {
        /// Address and port.
        address: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// No connection in time.
    #[error("dial tcp {0}: i/o timeout")]
    ConnectTimeout(String),
    /// The proxy is the problem.
    #[error("proxyconnect tcp: {0}")]
    Proxy(Box<TransportError>),
    /// The proxy said no.
    #[error("{0}")]
    ProxyRefused(String),
    /// A proxy of a kind that is not known.
    #[error("proxyconnect tcp: unsupported proxy {0}")]
    ProxyUnsupported(String),
    /// No TLS in time.
    #[error("net/http: TLS handshake timeout")]
    HandshakeTimeout,
    /// The port speaks HTTP without TLS.
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainAnswer,
    /// TLS failed.
    #[error("tls: {0}")]
    Tls(String),
    /// No answer in time.
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    AnswerTimeout,
    /// No byte of a body for too long.
    #[error("no data received for {0} seconds")]
    Stalled(u64),
    /// Bytes of a body, but too few to be of use.
    #[error("only {bytes} bytes received in {seconds} seconds")]
    TooSlow {
        /// Bytes that came.
        bytes: u64,
        /// In so many seconds.
        seconds: u64,
    },
    /// The connection was closed before the answer.
    #[error("EOF")]
    Closed,
    /// The connection was closed in the middle of a body.
    #[error("unexpected EOF")]
    ClosedEarly,
    /// Reading or writing failed.
    #[error("{}", go_text(.0))]
    Io(io::Error),
    /// The peer does not speak HTTP.
    #[error("net/http: HTTP/1.x transport connection broken: {0}")]
    Http(String),
    /// More redirects than anybody needs, or in a circle.
    #[error("stopped after 10 redirects")]
    Redirects,
    /// A redirect to where must not be gone.
    #[error("{0}")]
    RedirectRefused(String),
    /// A text that is no URL.
    #[error("invalid URL {0:?}")]
    InvalidUrl(String),
    /// The credentials for the request could not be got.
    #[error("{0}")]
    Auth(Box<RegistryError>),
}

impl RegistryError {
    /// Whether another endpoint may be asked instead (as the stock daemon decides it); `mirror`: this one was a mirror.
    pub(crate) fn may_ask_next(&self, mirror: bool) -> bool {
        match self {
            Self::Api(_)
            | Self::AccessDenied { .. }
            | Self::ManifestUnknown { .. }
            | Self::NameUnknown { .. }
            | Self::BlobUnknown => mirror,
            Self::UnsupportedMediaType(_) | Self::Schema1(_) | Self::ReservedName(_) | Self::Source(_) => false,
            _ => true,
        }
    }

    /// Whether an HTTP answer came, so that the endpoint's scheme is the right one.
    pub(crate) fn answered(&self) -> bool {
        match self {
            Self::Request { cause, .. } => matches!(
                cause,
                TransportError::Redirects | TransportError::RedirectRefused(_) | TransportError::Auth(_)
            ),
            _ => true,
        }
    }

    /// Whether trying again may help (as the stock daemon decides it for blobs).
    pub fn may_retry(&self) -> bool {
        match self {
            Self::Api(errors) => !errors.first().is_some_and(|error| {
                matches!(
                    error.code,
                    ApiCode::Unauthorized
                        | ApiCode::Unsupported
                        | ApiCode::Denied
                        | ApiCode::NameUnknown
                        | ApiCode::BlobUnknown
                )
            }),
            Self::Request { cause: TransportError::Auth(cause), .. } => cause.may_retry(),
            Self::Request { cause, .. } => !matches!(
                cause,
                TransportError::Redirects | TransportError::RedirectRefused(_) | TransportError::InvalidUrl(_)
            ),
            Self::UnexpectedStatus(_) | Self::Transfer(_) => true,
            Self::BlobSize { expected, got, .. } => got < expected,
            _ => false,
        }
    }

    /// What it says of a push, where the stock daemon names neither the request nor more than the first of several refusals.
    pub fn text_of_push(&self) -> String {
        match self {
            Self::Api(errors) => errors.first().map_or_else(|| self.to_string(), ToString::to_string),
            Self::Request { cause: TransportError::Auth(cause), .. } => cause.to_string(),
            _ => self.to_string(),
        }
    }

    /// What the registry listed, when it refused.
    pub fn api_errors(&self) -> Option<&ApiErrors> {
        match self {
            Self::Api(errors) => Some(errors),
            Self::Request { cause: TransportError::Auth(cause), .. } => cause.api_errors(),
            _ => None,
        }
    }
}

impl Kinded for RegistryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_)
            | Self::Certificates(_)
            | Self::Schema1(_)
            | Self::UnsupportedMediaType(_)
            | Self::InvalidArgument(_) => ErrorKind::InvalidArgument,
            Self::AccessDenied { .. } | Self::ManifestUnknown { .. } | Self::NameUnknown { .. } => ErrorKind::NotFound,
            Self::ReservedName(_) => ErrorKind::PermissionDenied,
            Self::Api(errors) => errors.first().map_or(ErrorKind::System, |error| error.code.kind()),
            Self::Unauthorized(_) => ErrorKind::Unauthenticated,
            Self::Request { cause: TransportError::Auth(cause), .. } => match cause.api_errors() {
                Some(errors) if errors.has(ApiCode::Unauthorized) => ErrorKind::Unauthenticated,
                _ => ErrorKind::System,
            },
            _ => ErrorKind::System,
        }
    }
}

/// An error of the kernel in the words Go has for it.
pub(crate) fn go_text(error: &io::Error) -> String {
    let known = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset by peer",
        io::ErrorKind::BrokenPipe => "broken pipe",
        io::ErrorKind::HostUnreachable => "no route to host",
        io::ErrorKind::NetworkUnreachable => "network is unreachable",
        io::ErrorKind::TimedOut => "connection timed out",
        io::ErrorKind::NotFound => "no such file or directory",
        io::ErrorKind::PermissionDenied => "permission denied",
        io::ErrorKind::UnexpectedEof => "unexpected EOF",
        _ => {
            let text = error.to_string();
            return text.split(" (os error").next().unwrap_or_default().to_lowercase();
        }
    };
    known.to_owned()
}
