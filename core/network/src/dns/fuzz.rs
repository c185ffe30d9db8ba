//! Fuzz targets: what comes from containers and from servers, none of whom is trusted.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};

use super::cache::Cache;
use super::respond::{Knowledge, Outcome, failure, respond};
use super::view::{Answer, Family, NameView, ServiceTarget};
use super::wire::{self, Received, Transport};

/// Knows every name, and every address by one.
#[derive(Debug)]
struct Everything;

impl NameView for Everything {
    fn lookup(&self, name: &str, family: Family) -> Answer {
        assert!(!name.is_empty() && !name.ends_with('.') && !name.bytes().any(|byte| byte.is_ascii_uppercase()));
        // Enough to be truncated over UDP, for some.
        let count = name.len() as u8;
        let address = |number: u8| match family {
            Family::V4 => IpAddr::from([10, 0, 0, number]),
            Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)]),
        };
        if name.contains("forward") { Answer::Unknown } else { Answer::Addresses((0..count).map(address).collect()) }
    }

    fn reverse(&self, address: IpAddr) -> Option<String> {
        address.is_ipv4().then(|| "name.network".to_owned())
    }

    fn service(&self, name: &str) -> Vec<ServiceTarget> {
        let target = |port| ServiceTarget { name: name.to_owned(), address: [10, 0, 0, 1].into(), port };
        (1..4).map(target).collect()
    }
}

/// The first byte says which: a query of a container, or a server's response to a query.
pub fn dns(data: &[u8]) {
    match data.split_first() {
        Some((0, message)) => query(message),
        Some((1, message)) => response(message),
        _ => {}
    }
}

/// Every query gets a well-formed response to itself, or none.
fn query(message: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let knowledge = Knowledge { view: &Everything, keep_single_labels: true, turn: message.len() };
        let mut out = Vec::new();
        let limit = match respond(message, transport, knowledge, &mut out) {
            Outcome::Silence => continue,
            Outcome::Response => match wire::read(message, transport) {
                Received::Query(asked) => asked.limit(),
                _ => wire::PLAIN_LIMIT,
            },
            Outcome::Forward(asked) => {
                assert!(asked.question_end <= message.len());
                let _ = asked.key(message);
                failure(&asked, &mut out);
                asked.limit()
            }
        };
        assert!(out.len() <= usize::from(limit));
        let read = Message::from_vec(&out).expect("ours is well-formed");
        assert_eq!(read.metadata.message_type, MessageType::Response);
        assert_eq!(&out[..2], &message[..2]);
        // What could not be understood is not repeated.
        let code = read.metadata.response_code;
        let is_understood = matches!(code, ResponseCode::NoError | ResponseCode::ServFail);
        assert_eq!(read.queries.len(), usize::from(is_understood), "{code}");
    }
}

/// A response is taken only for what was asked, and what is kept of it comes back as it was, with lifetimes not longer.
fn response(message: &[u8]) {
    // What `dig example.org` sends, without extensions.
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07eXample\x03org\x00\x00\x01\x00\x01";
    let Received::Query(asked) = wire::read(query, Transport::Udp) else { panic!("a query") };
    let found = wire::records(message);
    let Some(verdict) = wire::check(message, 0x1234, &asked.question) else { return };
    let (cache, now) = (Cache::new(10_000), Instant::now());
    let key = asked.key(query).expect("nothing special");
    cache.put(&key, &asked, message, verdict, now);
    let Some(kept) = cache.get(&key, &asked, query, now + Duration::from_millis(900)) else { return };
    assert_eq!(kept.len(), message.len());
    assert_eq!(wire::check(&kept, asked.metadata.id, &asked.question), Some(verdict));
    assert_eq!(wire::records(&kept), found);
    assert_eq!(cache.get(&key, &asked, query, now + Duration::from_secs(4000)), None);
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_and_mutations() {
        fuzz_mutate::run("dns", 20_000, super::dns);
    }
}
