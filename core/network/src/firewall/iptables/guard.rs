//! Notices that somebody else takes rules out of the tables ours are in, where iptables works on nf_tables. What the older
//! kind of iptables does is told to nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::rules::Table;
use crate::firewall::guard::{Change, Judge};

/// The table's name is the first attribute of all messages that count here.
const TABLE_NAME: u16 = 1;
/// `NFTA_GEN_PROC_PID`.
const PROCESS: u16 = 2;
/// Processes that are remembered: the kernel's notes are read soon after they have worked.
const REMEMBERED: usize = 64;

/// Processes that work for us.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnProcesses(Arc<Mutex<VecDeque<u32>>>);

impl OwnProcesses {
    fn lock(&self) -> MutexGuard<'_, VecDeque<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more; before it changes anything.
    pub(super) fn add(&self, pid: u32) {
        let mut known = self.lock();
        if known.len() == REMEMBERED {
            known.pop_front();
        }
        known.push_back(pid);
    }
}

/// Judges changes by who made them: what others take out of our tables may have been ours.
#[derive(Debug)]
pub(in crate::firewall) struct Touched {
    own: OwnProcesses,
    touched: bool,
}

impl Touched {
    pub(super) fn new(own: OwnProcesses) -> Self {
        Self { own, touched: false }
    }
}

impl Judge for Touched {
    fn note(&mut self, change: &Change<'_>) -> bool {
        let kind = i32::from(change.kind);
        if kind == libc::NFT_MSG_NEWGEN {
            let is_own = change.number(PROCESS).is_some_and(|process| self.own.lock().contains(&process));
            return std::mem::take(&mut self.touched) && !is_own;
        }
        let removed = [libc::NFT_MSG_DELTABLE, libc::NFT_MSG_DELCHAIN, libc::NFT_MSG_DELRULE].contains(&kind);
        let family = [libc::NFPROTO_IPV4, libc::NFPROTO_IPV6].contains(&change.family.into());
        let table = change.text(TABLE_NAME);
        self.touched |= removed && family && table.is_some_and(|name| Table::ALL.iter().any(|of| of.name() == name));
        false
    }
}

#[cfg(test)]
mod tests {
    use dockerd_sys::netlink::Batch;
    use dockerd_sys::netlink::message::messages;

    use super::*;

    fn tell(
        judge: &mut Touched,
        family: i32,
        kind: i32,
        fill: impl FnOnce(&mut dockerd_sys::netlink::MessageWriter<'_>),
    ) -> bool {
        let mut batch = Batch::new();
        let subsystem = u16::try_from(libc::NFNL_SUBSYS_NFTABLES).expect("subsystem");
        let mut out = batch.message(subsystem << 8 | u16::try_from(kind).expect("kind"), 0);
        out.raw(&[u8::try_from(family).expect("family"), 0, 0, 0]);
        fill(&mut out);
        drop(out);
        messages(batch.bytes()).filter_map(|note| Change::of(&note)).any(|change| judge.note(&change))
    }

    #[test]
    fn others_removals_count_and_our_own_do_not() {
        let own = OwnProcesses::default();
        own.add(7);
        let mut judge = Touched::new(own);
        let mut transaction = |family, kind, table: &str, pid: u32| {
            assert!(!tell(&mut judge, family, kind, |out| _ = out.c_text(TABLE_NAME, table)));
            tell(&mut judge, 0, libc::NFT_MSG_NEWGEN, |out| _ = out.u32_be(1, 99).u32_be(PROCESS, pid))
        };
        assert!(transaction(libc::NFPROTO_IPV4, libc::NFT_MSG_DELRULE, "filter", 8));
        assert!(transaction(libc::NFPROTO_IPV6, libc::NFT_MSG_DELTABLE, "nat", 8));
        assert!(!transaction(libc::NFPROTO_IPV4, libc::NFT_MSG_DELRULE, "filter", 7), "our own");
        assert!(!transaction(libc::NFPROTO_IPV4, libc::NFT_MSG_NEWRULE, "filter", 8), "an addition");
        assert!(!transaction(libc::NFPROTO_INET, libc::NFT_MSG_DELRULE, "filter", 8), "another table");
        assert!(!transaction(libc::NFPROTO_IPV4, libc::NFT_MSG_DELRULE, "security", 8), "another table");
    }
}
