//! What a query is answered with, as far as the sandbox's own names go. Pure: bytes in, bytes or a decision out.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::view::{Answer, Family, NameView};
use super::wire::{self, Asked, Received, Response, Transport};

/// How long others may keep our answers, seconds; the stock daemon's value.
const TTL: u32 = 600;
/// What we say we take over UDP (RFC 9715).
const OUR_LIMIT: u16 = 1232;

/// What became of a query.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It gets no response.
    Silence,
    /// The response was written.
    Response,
    /// Somebody else is to be asked.
    Forward(Box<Asked>),
}

/// What a query is answered from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Knowledge<'a> {
    pub(super) view: &'a dyn NameView,
    /// Names without a dot are not asked of others: the client is to try its search list first (`ndots`).
    pub(super) keep_single_labels: bool,
    /// Which of several addresses comes first; another number every time.
    pub(super) turn: usize,
}

thread_local! {
    /// The name asked for as text, so that it is not allocated for every query.
    static NAME: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Answers `message`, writing the response into the empty `out`.
pub(super) fn respond(message: &[u8], transport: Transport, from: Knowledge<'_>, out: &mut Vec<u8>) -> Outcome {
    let asked = match wire::read(message, transport) {
        Received::Noise => return Outcome::Silence,
        Received::Bad(metadata, code) => return written(wire::write_empty(&metadata, None, code, false, out)),
        Received::Query(asked) => asked,
    };
    let own = NAME.with_borrow_mut(|name| {
        let known = asked.question.query_class() == DNSClass::IN && wire::text(asked.question.name(), name);
        if known { own(&asked, name, from) } else { None }
    });
    match own {
        Some(own) => written(write(&asked, &own, out)),
        None => Outcome::Forward(Box::new(asked)),
    }
}

/// The response that nobody could be asked, or nobody answered.
pub(super) fn failure(asked: &Asked, out: &mut Vec<u8>) {
    wire::write_empty(&asked.metadata, Some(&asked.question), ResponseCode::ServFail, false, out);
}

fn written(done: bool) -> Outcome {
    if done { Outcome::Response } else { Outcome::Silence }
}

/// Records of ours.
#[derive(Debug, Default)]
struct Own {
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

fn write(asked: &Asked, own: &Own, out: &mut Vec<u8>) -> bool {
    let mut metadata = Metadata::response_from_request(&asked.metadata);
    metadata.recursion_available = true;
    // Who speaks EDNS is answered in it (RFC 6891, 7).
    let edns = asked.edns.as_ref().map(|theirs| {
        let mut ours = Edns::new();
        ours.set_max_payload(OUR_LIMIT).set_dnssec_ok(theirs.flags().dnssec_ok);
        ours
    });
    let response = Response {
        metadata,
        question: Some(&asked.question),
        answers: &own.answers,
        additionals: &own.additionals,
        edns: edns.as_ref(),
        limit: asked.limit(),
    };
    wire::write(&response, out)
}

/// What we know; `None` where somebody else is to be asked.
fn own(asked: &Asked, name: &str, from: Knowledge<'_>) -> Option<Own> {
    let Knowledge { view, keep_single_labels, turn } = from;
    match asked.question.query_type() {
        RecordType::A => addresses(asked, view.lookup(name, Family::V4), turn),
        RecordType::AAAA => addresses(asked, view.lookup(name, Family::V6), turn),
        // Mail for a name without such a record goes to its address (RFC 5321, 5.1).
        RecordType::MX => (view.lookup(name, Family::V4) != Answer::Unknown).then(Own::default),
        RecordType::PTR => pointer(asked, view),
        RecordType::SRV => service(asked, view, name),
        _ => None,
    }
    .or_else(|| {
        let by_address = matches!(asked.question.query_type(), RecordType::A | RecordType::AAAA);
        (by_address && keep_single_labels && !name.contains('.')).then(Own::default)
    })
}

fn addresses(asked: &Asked, answer: Answer, turn: usize) -> Option<Own> {
    let Answer::Addresses(all) = answer else { return None };
    let all: Arc<[IpAddr]> = all;
    let (before, after) = all.split_at(turn.checked_rem(all.len()).unwrap_or(0));
    let name = asked.question.name();
    let answers = after.iter().chain(before).map(|address| record(name, *address)).collect();
    Some(Own { answers, additionals: Vec::new() })
}

fn record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

fn pointer(asked: &Asked, view: &dyn NameView) -> Option<Own> {
    let net = asked.question.name().parse_arpa_name().ok()?;
    if net.prefix_len() != net.max_prefix_len() {
        return None;
    }
    let name = absolute(&view.reverse(net.addr())?)?;
    let answer = Record::from_rdata(asked.question.name().clone(), TTL, RData::PTR(PTR(name)));
    Some(Own { answers: vec![answer], additionals: Vec::new() })
}

fn service(asked: &Asked, view: &dyn NameView, name: &str) -> Option<Own> {
    // A port, a protocol and a service.
    if name.split('.').count() < 3 {
        return None;
    }
    let mut own = Own::default();
    for target in view.service(name) {
        let Some(host) = absolute(&target.name) else { continue };
        let data = RData::SRV(SRV::new(0, 0, target.port, host.clone()));
        own.answers.push(Record::from_rdata(asked.question.name().clone(), TTL, data));
        own.additionals.push(record(&host, target.address));
    }
    (!own.answers.is_empty()).then_some(own)
}

/// A name as it is written in records; `None` where it is no name.
fn absolute(text: &str) -> Option<Name> {
    let labels = text.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    let mut name = Name::from_labels(labels).ok()?;
    name.set_fqdn(true);
    Some(name)
}
