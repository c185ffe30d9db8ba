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

    /// Whether a transaction, told by its end, was by one of our processes.
    pub(in crate::firewall) fn is_own(&self, end: &Change<'_>) -> bool {
        end.number(PROCESS).is_some_and(|process| self.own.lock().contains(&process))
    }
}

impl Judge for Touched {
    fn note(&mut self, change: &Change<'_>) -> bool {
        let kind = i32::from(change.kind);
        if kind == libc::NFT_MSG_NEWGEN {
            return std::mem::take(&mut self.touched) && !self.is_own(change);
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
    use super::*;
    use crate::firewall::guard::tests::tell;

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
