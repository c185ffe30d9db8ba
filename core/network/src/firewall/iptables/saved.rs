//! What iptables-save says is there.

use super::rules::{COMMENT, FORWARD, POLICY_COMMENT, Table, USER, USER_JUMP, is_jump};

/// A family's tables as far as they are there.
#[derive(Debug, Default)]
pub(super) struct Saved {
    tables: Vec<(Table, Content)>,
}

/// A table.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Chains and their policies.
    pub(super) chains: Vec<(String, String)>,
    /// Rules: their chain, and what follows it.
    pub(super) rules: Vec<(String, String)>,
}

impl Saved {
    /// Reads it. Other tables than ours, and whatever else is said, are left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut tables: Vec<(Table, Content)> = Vec::new();
        let mut current = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                current = Table::ALL.into_iter().find(|table| table.name() == name.trim());
                tables.extend(current.map(|table| (table, Content::default())));
                continue;
            }
            let Some((_, content)) = tables.last_mut().filter(|_| current.is_some()) else { continue };
            if let Some(rest) = line.strip_prefix(':') {
                let mut words = rest.split_whitespace().map(str::to_owned);
                content.chains.extend(words.next().zip(words.next()));
            } else if let Some((chain, text)) =
                line.strip_prefix("-A ").map(|rest| rest.split_once(' ').unwrap_or((rest, "")))
            {
                content.rules.push((chain.to_owned(), text.to_owned()));
            }
        }
        Self { tables }
    }

    /// A table, if it is there.
    pub(super) fn table(&self, table: Table) -> Option<&Content> {
        self.tables.iter().find(|(of, _)| *of == table).map(|(_, content)| content)
    }

    fn rules(&self, table: Table) -> impl Iterator<Item = &(String, String)> {
        self.table(table).into_iter().flat_map(|content| &content.rules)
    }

    /// Whether the chains of the stock daemon's names are ours: others empty them before they use them.
    pub(super) fn are_ours(&self) -> bool {
        self.rules(Table::Filter).any(|(chain, text)| chain == FORWARD && has_comment(text, COMMENT))
    }

    /// Whether packets that concern no bridge are dropped because of us.
    pub(super) fn drops_foreign(&self) -> bool {
        self.rules(Table::Filter).any(|(_, text)| has_comment(text, POLICY_COMMENT)) && self.policy() == Some("DROP")
    }

    /// The policy of FORWARD.
    pub(super) fn policy(&self) -> Option<&str> {
        let chains = &self.table(Table::Filter)?.chains;
        chains.iter().find(|(name, _)| name == "FORWARD").map(|(_, policy)| policy.as_str())
    }

    /// Whether the administrator's chain is there.
    pub(super) fn has_user_chain(&self) -> bool {
        self.table(Table::Filter).is_some_and(|content| content.chains.iter().any(|(name, _)| name == USER))
    }

    /// Rules of ours in chains that are not, and those by which chains of ours are entered.
    pub(super) fn ours(&self, table: Table) -> impl Iterator<Item = &(String, String)> {
        self.rules(table).filter(move |(chain, text)| is_ours(table, chain, text))
    }

    /// Whether any other rule than ours leads to a chain.
    pub(super) fn is_entered_by_others(&self, table: Table, wanted: &str) -> bool {
        let leads = |text: &str| {
            let words: Vec<&str> = text.split(' ').collect();
            words.windows(2).any(|pair| matches!(pair[0], "-j" | "-g") && pair[1] == wanted)
        };
        let own = table.own_chains();
        self.rules(table)
            .any(|(chain, text)| !own.contains(&chain.as_str()) && !is_ours(table, chain, text) && leads(text))
    }

    /// How many rules of ours a chain has.
    pub(super) fn count(&self, table: Table, chain: &str) -> usize {
        if table.own_chains().contains(&chain) {
            return self.rules(table).filter(|(of, text)| of == chain && !has_comment(text, POLICY_COMMENT)).count();
        }
        self.rules(table).filter(|(of, text)| of == chain && (is_ours(table, of, text) || text == USER_JUMP)).count()
    }

    /// Whether the administrator is asked before us.
    pub(super) fn asks_user_first(&self) -> bool {
        let jumps = self.rules(Table::Filter).filter(|(chain, _)| chain == "FORWARD");
        let mut jumps = jumps.filter(|(_, text)| text == USER_JUMP || text.ends_with(FORWARD));
        jumps.next().is_some_and(|(_, text)| text == USER_JUMP)
    }
}

fn is_ours(table: Table, chain: &str, text: &str) -> bool {
    !table.own_chains().contains(&chain) && (is_jump(table, chain, text) || has_comment(text, COMMENT))
}

fn has_comment(text: &str, comment: &str) -> bool {
    let words: Vec<&str> = text.split(' ').collect();
    words.windows(2).any(|pair| pair[0] == "--comment" && pair[1].trim_matches('"') == comment)
}
