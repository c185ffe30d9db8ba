//! What a sandbox knows by name, as its resolver sees it.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: somebody else is to be asked.
    Unknown,
    /// It is ours. May have no address of the family asked for; nobody else is asked then.
    Addresses(Arc<[IpAddr]>),
}

/// One that offers a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTarget {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// The names of a sandbox. Called for every query, on threads that serve all sandboxes: reads published snapshots and
/// waits for nobody. Names come in lower case and without a dot at the end.
pub trait NameView: Send + Sync + Debug {
    /// The addresses of `name`.
    fn lookup(&self, name: &str, family: Family) -> Answer;

    /// The name of the one that has this address.
    fn reverse(&self, address: IpAddr) -> Option<String>;

    /// Those that offer the service `name` (`_port._protocol.service`, RFC 2782).
    fn service(&self, name: &str) -> Vec<ServiceTarget>;
}
