//! Black-box tests: the stock docker CLI, raw HTTP and an SDK against a daemon. Knows nothing of the daemon's insides.
//!
//! The same tests run against ours, started for them on private roots and in a network namespace of its own, and against
//! any other daemon, named by the environment variable `COMPAT_HOST` (`unix://...`): `cargo xtask compat --against
//! stock` shows that what they expect is what the stock daemon does. `cargo xtask compat --against ours`, or plain
//! `cargo test`, holds ours to it. Tests use names of their own and remove what they made, so the daemon may be shared.
//!
//! | module | what it is |
//! |---|---|
//! | [`suite`] | runs the cases of one test binary, then looks for leaks |
//! | [`case`] | what one test works with: the CLI, names, files |
//! | [`host`] | the daemon under test, whoever started it |
//! | [`daemon`] | a daemon of our own: started, killed, started again |
//! | [`http`] | HTTP on a Unix socket, nothing hidden |
//! | [`golden`] | comparing JSON and text with what stock answered |
//! | [`expected`] | what is known not to be right yet |
//! | [`leaks`] | what a daemon holds of the machine |
//! | [`image`] | the image tests run |
//! | [`dns`] | asking a container's resolver, and a server it asks |
//! | [`network`] | the network namespace a daemon lives in, and those of other hosts |
//! | [`probe`] | who reaches whom, and under which address |
//! | [`matrix`] | tables of that, expected and found |
//! | [`firewalls`] | firewalld, ufw and others on a host of their own |
//! | [`outside`] | another host, with a cable to the daemon's |
//! | [`plugin`] | a plugin that makes links and gives addresses |
//! | [`private`] | one more daemon of the kind that is tested, with flags of its own |
//! | [`seed`] | images as registries keep them, made in memory |
//! | [`registry`] | Debian's registry: open, closed, by TLS |
//! | [`token`] | a server that hands out tokens for it |
//! | [`certificate`] | certificates for all of them |
//! | [`hostile`] | a registry in memory that does what a test says |
//! | [`faults`] | system calls that fail while a daemon works |
//! | [`proxy`] | a proxy that writes down what it is asked for |
//! | [`server`] | the HTTP server below it |
//! | [`progress`] | the stream in which pull and push tell how they go |
#![forbid(unsafe_code)]
#![deny(missing_docs)]

use std::time::Duration;

pub mod case;
pub mod certificate;
pub mod check;
pub mod daemon;
pub mod dns;
pub mod expected;
pub mod faults;
pub mod firewalls;
pub mod front;
pub mod golden;
pub mod host;
pub mod hostile;
pub mod http;
pub mod image;
pub mod leaks;
pub mod matrix;
pub mod network;
pub mod outside;
pub mod plugin;
pub mod private;
pub mod probe;
pub mod progress;
pub mod proxy;
pub mod registry;
pub mod seed;
pub mod server;
pub mod suite;
pub mod token;

pub use case::{Case, Ran};
pub use suite::Suite;

/// How long a daemon may take to answer, and a condition to come true.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Time between two looks at something that is awaited.
pub const PAUSE: Duration = Duration::from_millis(10);

/// A container's command that serves `hello` on port 80.
pub const SERVER: [&str; 3] = ["sh", "-c", "echo hello >/tmp/index.html; httpd -f -h /tmp"];

/// The network containers of tests are on, where the network is not what is tested.
pub const NETWORK: &str = "none";
