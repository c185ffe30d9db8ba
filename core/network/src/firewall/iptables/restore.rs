//! What iptables-restore is told. A table is changed as a whole or not at all.

use std::fmt::Write;

use super::rules::{COMMENT, FORWARD, MARKED, POLICY_COMMENT, Rule, Table, USER, USER_JUMP, mark};
use super::saved::Saved;

/// What concerns no bridge is dropped by the policy of FORWARD, so that rules others append are heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// Whether it is to be.
    pub(super) drop: bool,
    /// Whether it is so by our doing already, even if nothing in the tables says so any more.
    pub(super) is_ours: bool,
}

/// Puts `wanted` in the place of everything of ours. Whether the policy is ours afterwards is told too.
pub(super) fn replace(saved: &Saved, wanted: &[Rule], before: Policy) -> (String, bool) {
    let (mut out, mut is_ours) = (String::new(), false);
    for table in Table::ALL {
        let own = table.own_chains();
        let mut lines = String::new();
        for chain in own {
            // That also empties it.
            line(&mut lines, format_args!(":{chain} - [0:0]"));
        }
        if table == Table::Filter && !saved.has_user_chain() {
            line(&mut lines, format_args!("-N {USER}"));
        }
        for (chain, text) in saved.ours(table) {
            line(&mut lines, format_args!("-D {chain} {text}"));
        }
        if table == Table::Filter {
            let user = saved.table(table).into_iter().flat_map(|content| &content.rules);
            for _ in user.filter(|(chain, text)| chain == "FORWARD" && text == USER_JUMP) {
                line(&mut lines, format_args!("-D FORWARD {USER_JUMP}"));
            }
        }
        for rule in wanted.iter().filter(|rule| rule.table == table) {
            let how = if rule.first && !own.contains(&rule.chain) { "-I" } else { "-A" };
            line(&mut lines, format_args!("{how} {} {}", rule.chain, rule.text));
        }
        if table == Table::Filter {
            is_ours = policy(&mut lines, saved, before);
        }
        section(&mut out, table, &lines);
    }
    (out, is_ours)
}

/// The policy is everybody's: it is changed only where it must be, and back only if we changed it.
fn policy(lines: &mut String, saved: &Saved, Policy { drop, is_ours }: Policy) -> bool {
    let drops = saved.policy() == Some("DROP");
    let is_ours = drops && (is_ours || saved.drops_foreign());
    if drop && !drops {
        line(lines, format_args!(":FORWARD DROP [0:0]"));
    } else if !drop && is_ours {
        line(lines, format_args!(":FORWARD ACCEPT [0:0]"));
    }
    let is_ours = drop && (is_ours || !drops);
    if is_ours {
        line(lines, format_args!("-A {FORWARD} -m comment --comment {POLICY_COMMENT}"));
    }
    is_ours
}

/// Takes rules away and adds others.
pub(super) fn change(old: &[Rule], new: &[Rule]) -> String {
    let mut out = String::new();
    for table in Table::ALL {
        let mut lines = String::new();
        for rule in old.iter().filter(|rule| rule.table == table) {
            line(&mut lines, format_args!("-D {} {}", rule.chain, rule.text));
        }
        for rule in new.iter().filter(|rule| rule.table == table) {
            let how = if rule.first { "-I" } else { "-A" };
            line(&mut lines, format_args!("{how} {} {}", rule.chain, rule.text));
        }
        section(&mut out, table, &lines);
    }
    out
}

/// Has the kernel look at what marks packets, and takes it away in the same transaction.
pub(super) fn probe() -> String {
    let mut out = String::new();
    let chain = "dockerd-rs-probe";
    let lines = format!(":{chain} - [0:0]\n-A {chain} {MARKED} -j {}\n-F {chain}\n-X {chain}\n", mark());
    section(&mut out, Table::Mangle, &lines);
    out
}

/// Takes everything of ours away; `None` if nothing is there. The administrator's chain stays, and is asked.
pub(super) fn clear(saved: &Saved) -> Option<String> {
    let ours = saved.are_ours();
    let mut out = String::new();
    for table in Table::ALL {
        let (mut lines, mut last) = (String::new(), String::new());
        for chain in table.own_chains().iter().filter(|_| ours && saved.table(table).is_some()) {
            line(&mut lines, format_args!(":{chain} - [0:0]"));
            if !saved.is_entered_by_others(table, chain) {
                line(&mut last, format_args!("-X {chain}"));
            }
        }
        for (chain, text) in saved.ours(table).filter(|(_, text)| ours || text.contains(COMMENT)) {
            line(&mut lines, format_args!("-D {chain} {text}"));
        }
        if table == Table::Filter && ours && saved.drops_foreign() {
            line(&mut lines, format_args!(":FORWARD ACCEPT [0:0]"));
        }
        lines.push_str(&last);
        section(&mut out, table, &lines);
    }
    (!out.is_empty()).then_some(out)
}

fn line(out: &mut String, what: std::fmt::Arguments<'_>) {
    // A text takes everything.
    let _ = writeln!(out, "{what}");
}

fn section(out: &mut String, table: Table, lines: &str) {
    if !lines.is_empty() {
        line(out, format_args!("*{}\n{lines}COMMIT", table.name()));
    }
}
