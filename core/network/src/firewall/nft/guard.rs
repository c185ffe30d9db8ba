//! Notices that somebody else took our rules away: `nft flush ruleset`, a firewall that is started anew. What we change
//! ourselves leaves the table and the base chains' rules in place, or puts them there again in the same transaction.

use super::rules::is_base_chain;
use super::uapi::{attribute as a, message as m};
use super::{INET, TABLE};
use crate::firewall::guard::{Change, Judge};

/// What is missing after the changes heard of so far.
#[derive(Debug, Default)]
pub(in crate::firewall) struct Damage {
    table: bool,
    rules: bool,
}

impl Judge for Damage {
    fn note(&mut self, change: &Change<'_>) -> bool {
        if change.kind == m::NEW_GENERATION {
            let Self { table, rules } = std::mem::take(self);
            return table || rules;
        }
        // The first attribute is the table's name in all of them.
        if change.family != INET || change.text(a::TABLE_NAME) != Some(TABLE) {
            return false;
        }
        match change.kind {
            m::NEW_TABLE => self.table = false,
            m::DEL_TABLE => self.table = true,
            m::NEW_RULE | m::DEL_RULE if change.text(a::RULE_CHAIN).is_some_and(is_base_chain) => {
                self.rules = change.kind == m::DEL_RULE;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use dockerd_sys::netlink::Message;
    use proptest::prelude::*;

    use super::*;
    use crate::firewall::guard;

    fn tell(damage: &mut Damage, family: u8, kind: u16, table: &str, chain: &str) -> bool {
        guard::tests::tell(damage, family.into(), kind.into(), |out| {
            out.c_text(a::TABLE_NAME, table).c_text(a::RULE_CHAIN, chain);
        })
    }

    #[test]
    fn others_changes_and_our_own() {
        let mut damage = Damage::default();
        let mut transaction = |changes: &[(u8, u16, &str, &str)]| {
            changes.iter().for_each(|(family, kind, table, chain)| _ = tell(&mut damage, *family, *kind, table, chain));
            tell(&mut damage, 0, m::NEW_GENERATION, "", "")
        };
        let (gone, new) = ((INET, m::DEL_TABLE, TABLE, ""), (INET, m::NEW_TABLE, TABLE, ""));
        assert!(transaction(&[gone]), "flushed");
        assert!(!transaction(&[]), "told once");
        assert!(!transaction(&[gone, new]), "ours anew");
        let rule = |kind, chain| (INET, kind, TABLE, chain);
        assert!(transaction(&[rule(m::DEL_RULE, "forward")]), "only rules");
        assert!(!transaction(&[rule(m::DEL_RULE, "forward"), rule(m::NEW_RULE, "forward")]));
        assert!(!transaction(&[rule(m::DEL_RULE, "entering__br0")]), "a bridge that goes");
        assert!(!transaction(&[(INET, m::DEL_TABLE, "other", ""), (2, m::DEL_TABLE, TABLE, "")]), "others' tables");
    }

    proptest! {
        #[test]
        fn odd_messages_do_no_harm(kind: u16, body in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(change) = Change::of(&Message { kind, sequence: 0, body: &body }) {
                let _ = Damage::default().note(&change);
            }
        }
    }
}
