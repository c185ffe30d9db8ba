//! Connections the daemon passes on to containers under the address of who made them (`--firewall-honour-host`). What a
//! container answers is for that address, and would be sent there: the packet filter marks what belongs to a socket with a
//! borrowed address ([`ANSWER_MARK`]), and routing rules, one for each bridge, have what is marked delivered here.
//!
//! ```text
//! ip rule add priority 1500 iif docker0 fwmark 0x2000000/0x2000000 lookup 25714
//! ip route add local default dev lo table 25714
//! ```
//!
//! A rule without a bridge would be asked too when the kernel looks where senders' packets should come from
//! (`src_valid_mark`), and would have it drop all of them.

use dockerd_sys::netlink::message::{self, ACK, CREATE, DUMP, EXCLUSIVE, REPLACE};
use dockerd_sys::netlink::{Batch, Message, NetlinkError, Socket};

use crate::error::NetworkError;
use crate::firewall::{ANSWER_MARK, HostPolicy};
use crate::link::LOOPBACK;

/// The routing table; nobody else's, so that its rules are known to be ours.
const TABLE: u32 = 25714;
/// Before those of other programs and of the table of all routes.
const PRIORITY: u32 = 1500;
/// `sizeof(struct fib_rule_hdr)` and `sizeof(struct rtmsg)`.
const HEADER: usize = 12;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;
/// `FRA_IIFNAME`, `FRA_PRIORITY`, `FRA_FWMARK`, `FRA_TABLE` and `FRA_FWMASK`.
const INPUT: u16 = 3;
const ORDER: u16 = 6;
const MARK: u16 = 10;
const LEADS_TO: u16 = 15;
const MASK: u16 = 16;

/// No link is called so.
const PROBE: &str = "dockerd-rs/try";

fn header(ipv6: bool, rest: [u8; 4]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = (if ipv6 { libc::AF_INET6 } else { libc::AF_INET }) as u8;
    header[4..8].copy_from_slice(&rest);
    header
}

fn rule(batch: &mut Batch, kind: u16, flags: u16, ipv6: bool, bridge: &str) {
    let mut message = batch.message(kind, ACK | flags);
    message.raw(&header(ipv6, [0, 0, 0, TO_TABLE])).c_text(INPUT, bridge);
    message.u32(ORDER, PRIORITY).u32(MARK, ANSWER_MARK).u32(MASK, ANSWER_MARK).u32(LEADS_TO, TABLE);
}

/// What of a policy this kernel can do: it may know no routing rules. Blocking.
pub(crate) fn check(socket: &Socket, policy: HostPolicy) -> HostPolicy {
    if !policy.keeps_senders() {
        return policy;
    }
    match add(socket, PROBE, &[false]) {
        Ok(()) => {
            remove(socket, PROBE);
            policy
        }
        Err(error) => {
            tracing::warn!(%error, "containers will not see who connects to their published ports");
            HostPolicy::Honoured { senders: false }
        }
    }
}

/// Has what is marked and comes from a bridge delivered here. Blocking.
pub(crate) fn add(socket: &Socket, bridge: &str, families: &[bool]) -> Result<(), NetworkError> {
    for ipv6 in families {
        let mut batch = Batch::new();
        let local = [libc::RT_TABLE_UNSPEC, libc::RTPROT_BOOT, libc::RT_SCOPE_HOST, libc::RTN_LOCAL];
        let mut route = batch.message(libc::RTM_NEWROUTE, ACK | CREATE | REPLACE);
        route.raw(&header(*ipv6, local)).u32(libc::RTA_TABLE, TABLE).u32(libc::RTA_OIF, LOOPBACK);
        drop(route);
        rule(&mut batch, libc::RTM_NEWRULE, CREATE | EXCLUSIVE, *ipv6, bridge);
        match socket.transact(&batch) {
            Err(error) if error.is(libc::EEXIST) => {}
            other => other.map_err(NetworkError::kernel("lead answers to published ports back to the daemon"))?,
        }
    }
    Ok(())
}

/// Takes a bridge's rules away, if it has any. Blocking.
pub(crate) fn remove(socket: &Socket, bridge: &str) {
    for ipv6 in [false, true] {
        let mut batch = Batch::new();
        rule(&mut batch, libc::RTM_DELRULE, 0, ipv6, bridge);
        warn_unless_gone(socket.transact(&batch), bridge);
    }
}

/// Takes all of them away, those of bridges that are not there any more too. Blocking.
pub(crate) fn clear(socket: &Socket) {
    for ipv6 in [false, true] {
        let (mut list, mut bridges) = (Batch::new(), Vec::new());
        list.message(libc::RTM_GETRULE, DUMP).raw(&header(ipv6, [0; 4]));
        // Kernels without routing rules have none of ours.
        let listed = socket.query(&list, |message| bridges.extend(bridge_of(message)));
        if listed.is_err() {
            continue;
        }
        for bridge in &bridges {
            let mut batch = Batch::new();
            rule(&mut batch, libc::RTM_DELRULE, 0, ipv6, bridge);
            warn_unless_gone(socket.transact(&batch), bridge);
        }
    }
}

/// The bridge of a rule of ours.
fn bridge_of(rule: &Message<'_>) -> Option<String> {
    let attributes = rule.body.get(HEADER..)?;
    let table = message::attribute(attributes, LEADS_TO).and_then(message::read_u32)?;
    let bridge = message::attribute(attributes, INPUT).and_then(message::read_text)?;
    (table == TABLE).then(|| bridge.to_owned())
}

fn warn_unless_gone(outcome: Result<(), NetlinkError>, bridge: &str) {
    match outcome {
        Err(error) if !error.is(libc::ENOENT) && !error.is(libc::EAFNOSUPPORT) => {
            tracing::warn!(bridge, %error, "a routing rule could not be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use dockerd_sys::netlink::message::messages;

    use super::*;

    #[test]
    fn rules_of_ours_are_known_by_their_table() {
        let mut batch = Batch::new();
        rule(&mut batch, libc::RTM_NEWRULE, 0, true, "br-1");
        let found: Vec<_> = messages(batch.bytes()).filter_map(|message| bridge_of(&message)).collect();
        assert_eq!(found, ["br-1"]);
        let mut other = Batch::new();
        let mut message = other.message(libc::RTM_NEWRULE, 0);
        message.raw(&header(false, [0; 4])).c_text(INPUT, "br-1").u32(LEADS_TO, 254);
        drop(message);
        assert!(messages(other.bytes()).all(|message| bridge_of(&message).is_none()));
        assert!(bridge_of(&Message { kind: 0, sequence: 0, body: &[0; 3] }).is_none());
    }
}
