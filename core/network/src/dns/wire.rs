//! Messages of the domain name system (RFC 1035, EDNS by RFC 6891) as far as a forwarding resolver must understand them.
//! Queries and our own responses are read and written by `hickory-proto`; responses of others are passed on as they came,
//! so only where their records' lifetimes stand is looked for. All bytes that come in are untrusted.

use std::ops::Range;

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode, emit_message_parts,
};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncoder};

/// Length of a message's header.
pub(super) const HEADER: usize = 12;
/// Longest message over UDP for clients that do not say what they take.
pub(super) const PLAIN_LIMIT: u16 = 512;
/// Longest message UDP can carry over IPv4.
const UDP_LIMIT: u16 = 65_507;
/// Type, class, lifetime and length of a record's data, between its name and its data.
const RECORD_FIELDS: usize = 10;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A query.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) metadata: Metadata,
    pub(super) question: Query,
    /// Where the question ends in the message.
    pub(super) question_end: usize,
    pub(super) edns: Option<Edns>,
    pub(super) transport: Transport,
    /// It carries records other than what we understand: a signature, say.
    pub(super) is_special: bool,
}

impl Asked {
    /// Longest response the client takes.
    pub(super) fn limit(&self) -> u16 {
        match (self.transport, &self.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => PLAIN_LIMIT,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_LIMIT, UDP_LIMIT),
        }
    }

    /// Equal for queries that have the same response; `None` where a response is for one query only. `message` is the
    /// query's.
    pub(super) fn key(&self, message: &[u8]) -> Option<Box<[u8]>> {
        if self.is_special || self.edns.as_ref().is_some_and(|edns| !edns.options().as_ref().is_empty()) {
            return None;
        }
        let mut key = message.get(HEADER..self.question_end)?.to_ascii_lowercase();
        let Metadata { recursion_desired, authentic_data, checking_disabled, .. } = self.metadata;
        key.push(u8::from(self.transport == Transport::Tcp));
        key.extend([recursion_desired, authentic_data, checking_disabled].map(u8::from));
        if let Some(edns) = &self.edns {
            key.extend(edns.max_payload().to_be_bytes());
            key.push(u8::from(edns.flags().dnssec_ok));
        }
        Some(key.into())
    }
}

/// What came in.
#[derive(Debug)]
pub(super) enum Received {
    /// Nothing to be answered: no header, or a response.
    Noise,
    /// To be refused for this reason.
    Bad(Metadata, ResponseCode),
    /// To be answered.
    Query(Asked),
}

/// Reads what came in at our own socket.
pub(super) fn read(message: &[u8], transport: Transport) -> Received {
    let mut decoder = BinDecoder::new(message);
    let Ok(Header { metadata, counts, .. }) = Header::read(&mut decoder) else { return Received::Noise };
    if metadata.message_type == MessageType::Response {
        return Received::Noise;
    }
    if metadata.op_code != OpCode::Query {
        return Received::Bad(metadata, ResponseCode::NotImp);
    }
    // Nobody sends more; each may cost us work.
    if counts.queries != 1 || counts.answers > 1 || counts.authorities > 1 || counts.additionals > 2 {
        return Received::Bad(metadata, ResponseCode::FormErr);
    }
    let Ok(question) = Query::read(&mut decoder) else { return Received::Bad(metadata, ResponseCode::FormErr) };
    let question_end = decoder.index();
    let mut rest = |count: u16, additional| {
        if count == 0 {
            return Ok((false, None));
        }
        let read = Message::read_records(&mut decoder, usize::from(count), additional, OpCode::Query);
        read.map(|(records, edns, signature)| (!records.is_empty() || signature.is_some(), edns))
    };
    let sections = [(counts.answers, false), (counts.authorities, false), (counts.additionals, true)];
    let (mut is_special, mut edns) = (false, None);
    for (count, additional) in sections {
        match rest(count, additional) {
            Ok((special, found)) => {
                is_special |= special;
                edns = found;
            }
            Err(_) => return Received::Bad(metadata, ResponseCode::FormErr),
        }
    }
    if edns.as_ref().is_some_and(|edns: &Edns| edns.version() != 0) {
        return Received::Bad(metadata, ResponseCode::BADVERS);
    }
    Received::Query(Asked { metadata, question, question_end, edns, transport, is_special })
}

/// The labels of a name in lower case, with dots between them. `false` for the root, and where a label has bytes no name
/// of ours has.
pub(super) fn text(name: &Name, out: &mut String) -> bool {
    out.clear();
    for label in name.iter() {
        if !out.is_empty() {
            out.push('.');
        }
        if label.is_empty() || !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
            return false;
        }
        out.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    !out.is_empty()
}

/// The parts of a response of ours.
#[derive(Debug)]
pub(super) struct Response<'a> {
    pub(super) metadata: Metadata,
    pub(super) question: Option<&'a Query>,
    pub(super) answers: &'a [Record],
    pub(super) additionals: &'a [Record],
    pub(super) edns: Option<&'a Edns>,
    pub(super) limit: u16,
}

/// Writes a response into the empty `out`, with as many records as fit and the truncated bit if that is not all.
/// `false` if it cannot be written.
pub(super) fn write(response: &Response<'_>, out: &mut Vec<u8>) -> bool {
    let Response { metadata, question, answers, additionals, edns, limit } = response;
    let mut encoder = BinEncoder::new(out);
    encoder.set_max_size(*limit);
    let written = emit_message_parts(
        metadata,
        &mut question.iter().copied(),
        &mut answers.iter(),
        &mut std::iter::empty::<&Record>(),
        &mut additionals.iter(),
        *edns,
        None,
        &mut encoder,
    );
    written.is_ok()
}

/// The response to `request` that has no records, for this reason.
pub(super) fn write_empty(
    request: &Metadata,
    question: Option<&Query>,
    code: ResponseCode,
    available: bool,
    out: &mut Vec<u8>,
) -> bool {
    let mut metadata = Metadata::response_from_request(request);
    metadata.response_code = code;
    metadata.recursion_available = available;
    // Codes above 15 have their upper bits there.
    let edns = (code.high() > 0).then(Edns::new);
    let response =
        Response { metadata, question, answers: &[], additionals: &[], edns: edns.as_ref(), limit: PLAIN_LIMIT };
    write(&response, out)
}

/// What matters of an upstream's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) code: ResponseCode,
    pub(super) truncated: bool,
}

/// Checks that `message` answers what was asked under `id`; `None` for anything else, such as a forgery.
pub(super) fn check(message: &[u8], id: u16, asked: &Query) -> Option<Verdict> {
    let mut decoder = BinDecoder::new(message);
    let Header { metadata, counts, .. } = Header::read(&mut decoder).ok()?;
    if metadata.id != id || metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query {
        return None;
    }
    let verdict = Verdict { code: metadata.response_code, truncated: metadata.truncation };
    if counts.queries == 0 {
        // Servers that do not understand a query may leave the question out.
        return matches!(verdict.code, ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::Refused)
            .then_some(verdict);
    }
    let question = Query::read(&mut decoder).ok()?;
    (counts.queries == 1 && question == *asked).then_some(verdict)
}

/// Replaces the number by which question and answer find each other.
pub(super) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// A section of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

/// Where a record stands in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordAt {
    pub(super) section: Section,
    pub(super) kind: RecordType,
    /// Where its lifetime stands, four bytes.
    pub(super) ttl_at: usize,
    pub(super) ttl: u32,
    pub(super) data: Range<usize>,
}

/// Finds all records of a message; `None` when it is cut or malformed.
pub(super) fn records(message: &[u8]) -> Option<Vec<RecordAt>> {
    let number = |at: usize| message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let mut at = HEADER;
    for _ in 0..number(4)? {
        at = skip_name(message, at)? + 4;
    }
    let mut out = Vec::new();
    for (section, count_at) in [(Section::Answer, 6), (Section::Authority, 8), (Section::Additional, 10)] {
        for _ in 0..number(count_at)? {
            at = skip_name(message, at)?;
            let ttl = message.get(at + 4..at + 8)?;
            let ttl = u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]);
            let start = at + RECORD_FIELDS;
            let end = start + usize::from(number(at + 8)?);
            message.get(start..end)?;
            out.push(RecordAt { section, kind: number(at)?.into(), ttl_at: at + 4, ttl, data: start..end });
            at = end;
        }
    }
    Some(out)
}

/// Where the name at `at` ends. A pointer ends a name.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RData;
    use hickory_proto::rr::rdata::A;
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = Name> {
        let label = "[a-zA-Z0-9_-]{1,20}";
        prop::collection::vec(label, 1..6).prop_map(|labels| {
            let mut name = Name::from_labels(labels.iter().map(String::as_bytes)).expect("a name");
            name.set_fqdn(true);
            name
        })
    }

    proptest! {
        /// Queries are read as they were written, and have the same key however they are spelt.
        #[test]
        fn queries_are_read(name in names(), kind in 1u16..300, id: u16, payload in prop::option::of(512u16..5000)) {
            let write = |name: Name| {
                let mut message = Message::query();
                message.metadata.id = id;
                message.add_query(Query::query(name, kind.into()));
                message.edns = payload.map(|payload| {
                    let mut edns = Edns::new();
                    edns.set_max_payload(payload);
                    edns
                });
                message.to_vec().expect("written")
            };
            let read = |bytes: &[u8]| match read(bytes, Transport::Udp) {
                Received::Query(asked) => Ok(asked),
                other => Err(TestCaseError::fail(format!("{other:?}"))),
            };
            let (bytes, lower) = (write(name.clone()), write(name.to_lowercase()));
            let asked = read(&bytes)?;
            prop_assert_eq!(asked.metadata.id, id);
            prop_assert!(asked.question.name().eq_case(&name));
            prop_assert_eq!(asked.question.query_type(), RecordType::from(kind));
            prop_assert_eq!(asked.limit(), payload.unwrap_or(512));
            prop_assert_eq!(asked.key(&bytes), read(&lower)?.key(&lower));
            let mut out = String::new();
            prop_assert!(text(&name, &mut out));
            let labels: Vec<_> = name.iter().map(String::from_utf8_lossy).collect();
            prop_assert_eq!(out, labels.join(".").to_ascii_lowercase());
            // Nothing that is cut short is taken for whole.
            for length in 0..bytes.len() {
                let cut = super::read(&bytes[..length], Transport::Udp);
                prop_assert!(matches!(cut, Received::Noise | Received::Bad(..)), "{:?}", cut);
            }
        }

        /// However many records: what is written fits, says when it is not all, and the records are found in it.
        #[test]
        fn responses_fit(name in names(), count in 0usize..200, limit in 512u16..4000) {
            let question = Query::query(name.clone(), RecordType::A);
            let record = |n| Record::from_rdata(name.clone(), 600, RData::A(A::new(10, 0, 0, n)));
            let answers: Vec<_> = (0..count).map(|n| record(n as u8)).collect();
            let mut metadata = Metadata::new(7, MessageType::Response, OpCode::Query);
            metadata.recursion_available = true;
            let response = Response {
                metadata, question: Some(&question), answers: &answers, additionals: &[], edns: None, limit,
            };
            let mut out = Vec::new();
            prop_assert!(write(&response, &mut out));
            prop_assert!(out.len() <= usize::from(limit));
            let found = records(&out).expect("well-formed");
            let verdict = check(&out, 7, &question).expect("ours");
            prop_assert_eq!(verdict.truncated, found.len() < count);
            prop_assert!(found.iter().all(|r| r.ttl == 600 && r.data.len() == 4 && r.section == Section::Answer));
            prop_assert_eq!(check(&out, 8, &question), None);
            prop_assert_eq!(check(&out, 7, &Query::query(name, RecordType::AAAA)), None);
        }
    }
}
