//! Responses of upstreams kept for as long as their records live: positive ones by the shortest lifetime among their
//! answers, negative ones by the zone's SOA record (RFC 2308). Bounded in bytes; the oldest go first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::wire::{self, Asked, HEADER, Section, Verdict};

/// Nothing is kept for longer, whatever it says of itself.
const LONGEST: Duration = Duration::from_secs(3600);
/// Nor is the absence of something.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(300);
/// What an entry costs beside its key (twice) and its message, about.
const OVERHEAD: usize = 160;
/// Larger messages are not kept.
const LARGEST: usize = 4096;

/// What makes two queries the same, from [`Asked::key`].
pub(super) type Key = Box<[u8]>;

#[derive(Debug)]
struct Entry {
    message: Box<[u8]>,
    since: Instant,
    until: Instant,
    /// Which line in the order is its own.
    number: u64,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    order: VecDeque<(u64, Key)>,
    bytes: usize,
    next: u64,
}

fn cost(key: &Key, message: &[u8]) -> usize {
    key.len() * 2 + message.len() + OVERHEAD
}

impl State {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= cost(key, &entry.message);
        }
    }

    fn shrink(&mut self, limit: usize) {
        while self.bytes > limit
            && let Some((number, key)) = self.order.pop_front()
        {
            if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
                self.remove(&key);
            }
        }
        if self.order.len() > self.entries.len() * 2 + 16 {
            let entries = &self.entries;
            self.order.retain(|(number, key)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
    }
}

/// A cache of one set of upstreams.
#[derive(Debug)]
pub(super) struct Cache {
    state: Mutex<State>,
    limit: usize,
}

impl Cache {
    /// An empty one of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), limit }
    }

    /// The response to `query`, aged; in the client's own spelling and under its number.
    pub(super) fn get(&self, key: &Key, asked: &Asked, query: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (mut message, age) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match state.entries.get(key) {
                Some(entry) if now < entry.until => (entry.message.to_vec(), now.duration_since(entry.since)),
                Some(_) => {
                    state.remove(key);
                    return None;
                }
                None => return None,
            }
        };
        wire::set_id(&mut message, asked.metadata.id);
        let question = HEADER..asked.question_end;
        message.get_mut(question.clone())?.copy_from_slice(query.get(question)?);
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for record in wire::records(&message)? {
            if record.kind != RecordType::OPT {
                let left = record.ttl.saturating_sub(age).to_be_bytes();
                message[record.ttl_at..record.ttl_at + 4].copy_from_slice(&left);
            }
        }
        Some(message)
    }

    /// Keeps `message`, a response to `asked`, if it may be kept.
    pub(super) fn put(&self, key: &Key, asked: &Asked, message: &[u8], verdict: Verdict, now: Instant) {
        // The question is written over with that of whoever asks later: it must stand as it did in the query.
        let question = HEADER..asked.question_end;
        let (Some(theirs), Some(ours)) = (message.get(question.clone()), key.get(..question.len())) else { return };
        if !theirs.eq_ignore_ascii_case(ours) {
            return;
        }
        let Some(lifetime) = lifetime(asked, message, verdict) else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.remove(key);
        let number = state.next;
        state.next += 1;
        state.bytes += cost(key, message);
        state.order.push_back((number, key.clone()));
        let entry = Entry { message: message.into(), since: now, until: now + lifetime, number };
        state.entries.insert(key.clone(), entry);
        state.shrink(self.limit);
    }
}

/// How long a response may be kept; `None`: not at all.
fn lifetime(asked: &Asked, message: &[u8], verdict: Verdict) -> Option<Duration> {
    if verdict.truncated || message.len() > LARGEST {
        return None;
    }
    let records = wire::records(message)?;
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    let answers = || records.iter().filter(|record| record.section == Section::Answer);
    let found = match verdict.code {
        ResponseCode::NoError => answers().map(|record| seconds(record.ttl)).min().map(|ttl| ttl.min(LONGEST)),
        ResponseCode::NXDomain => None,
        _ => return None,
    };
    // An alias that leads nowhere is a negative response too, but lives no longer than the alias.
    let kind = asked.question.query_type();
    let is_positive =
        verdict.code == ResponseCode::NoError && answers().any(|record| record.kind == kind || kind == RecordType::ANY);
    let negative = || {
        let soa = records.iter().find(|r| r.section == Section::Authority && r.kind == RecordType::SOA)?;
        // Its last number is the lifetime of what is not there.
        let minimum = message.get(soa.data.clone())?.last_chunk::<4>()?;
        let ttl = seconds(soa.ttl.min(u32::from_be_bytes(*minimum))).min(LONGEST_NEGATIVE);
        Some(found.map_or(ttl, |found| found.min(ttl)))
    };
    let lifetime = if is_positive { found } else { negative() };
    lifetime.filter(|lifetime| !lifetime.is_zero())
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record};

    use super::super::wire::{Received, Transport};
    use super::*;

    fn query(name: &str) -> (Asked, Vec<u8>, Key) {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
        let bytes = message.to_vec().expect("written");
        let Received::Query(asked) = wire::read(&bytes, Transport::Udp) else { panic!("a query") };
        let key = asked.key(&bytes).expect("nothing special");
        (asked, bytes, key)
    }

    /// A response with an address that lives for `ttl`, or with none and a SOA record of that lifetime.
    fn response(asked: &Asked, code: ResponseCode, ttl: u32) -> (Vec<u8>, Verdict) {
        let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
        message.metadata.response_code = code;
        message.add_query(asked.question.clone());
        let name = asked.question.name().clone();
        if code == ResponseCode::NoError {
            message.add_answer(Record::from_rdata(name, ttl, RData::A(A::new(192, 0, 2, 1))));
        } else {
            let soa = SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, ttl);
            message.add_authority(Record::from_rdata(name, 86_400, RData::SOA(soa)));
        }
        (message.to_vec().expect("written"), Verdict { code, truncated: false })
    }

    #[test]
    fn responses_live_as_long_as_their_records() {
        let cases = [
            (ResponseCode::NoError, 30, Some(30)),
            (ResponseCode::NoError, 1_000_000, Some(3600)),
            (ResponseCode::NoError, 0, None),
            (ResponseCode::NXDomain, 20, Some(20)),
            (ResponseCode::NXDomain, 100_000, Some(300)),
            (ResponseCode::ServFail, 30, None),
        ];
        for (code, ttl, wanted) in cases {
            let (cache, start) = (Cache::new(1 << 16), Instant::now());
            let (asked, _, key) = query("example.org.");
            let (message, verdict) = response(&asked, code, ttl);
            cache.put(&key, &asked, &message, verdict, start);
            let (other, bytes, same) = query("EXAMPLE.org.");
            let get = |seconds| cache.get(&same, &other, &bytes, start + Duration::from_secs(seconds));
            assert_eq!(get(0).is_some(), wanted.is_some(), "{code} {ttl}");
            let Some(wanted) = wanted else { continue };
            let aged = Message::from_vec(&get(wanted - 1).expect("alive")).expect("well-formed");
            assert_eq!((aged.metadata.id, &aged.queries[0]), (other.metadata.id, &other.question));
            assert!(aged.queries[0].name().eq_case(other.question.name()));
            let left: Vec<_> = aged.answers.iter().map(|record| u64::from(record.ttl)).collect();
            assert!(left.iter().all(|left| *left == u64::from(ttl) + 1 - wanted), "{left:?}");
            assert_eq!(get(wanted), None);
        }
    }

    #[test]
    fn the_oldest_go_first_and_the_bound_holds() {
        let (cache, now) = (Cache::new(4000), Instant::now());
        let all: Vec<_> = (0..100).map(|n| query(&format!("host-{n}.example.org."))).collect();
        for (asked, _, key) in all.iter().chain(&all) {
            let (message, verdict) = response(asked, ResponseCode::NoError, 60);
            cache.put(key, asked, &message, verdict, now);
            let state = cache.state.lock().expect("no panic");
            assert!(state.bytes <= 4000 && state.order.len() <= state.entries.len() * 2 + 16);
        }
        let kept = all.iter().filter(|(asked, bytes, key)| cache.get(key, asked, bytes, now).is_some()).count();
        let (asked, bytes, key) = &all[99];
        assert!(kept > 5 && cache.get(key, asked, bytes, now).is_some());
        let state = cache.state.lock().expect("no panic");
        let bytes: usize = state.entries.iter().map(|(key, entry)| cost(key, &entry.message)).sum();
        assert_eq!(bytes, state.bytes);
    }
}
