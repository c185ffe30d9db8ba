//! The rules in a sandbox's network namespace that lead queries to our sockets. These have ports of the kernel's choice,
//! so that a container may have a name server of its own at port 53 of any address. In `nft`'s words:
//!
//! ```text
//! table ip dockerd-rs-dns {
//!   chain replies { type filter hook output priority raw
//!                   ip saddr 127.0.0.11 udp sport UDP udp sport set 53
//!                   ip saddr 127.0.0.11 tcp sport TCP tcp sport set 53 }
//!   chain queries { type filter hook output priority mangle
//!                   ip daddr 127.0.0.11 udp dport 53 udp dport set UDP
//!                   ip daddr 127.0.0.11 tcp dport 53 tcp dport set TCP }
//! }
//! ```
//!
//! Ports are rewritten in the packets, without connection tracking: it would have to look at every packet of the
//! container. Where the container's own rules switch it on, it sees port 53 both ways, because it stands between the two
//! chains.

use dockerd_sys::netlink::message::{ACK, APPEND, CREATE};
use dockerd_sys::netlink::{Batch, MessageWriter, NetlinkError, Socket};

use super::{ADDRESS, PORT};

/// The table's name; it is ours alone in its network namespace.
pub(super) const TABLE: &str = "dockerd-rs-dns";

/// Where the sockets really are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) udp: u16,
    pub(super) tcp: u16,
}

/// Messages and attributes of `linux/netfilter/nf_tables.h`, under the headers' names without their prefixes.
mod uapi {
    pub(super) const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
    pub(super) const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
    pub(super) const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;
    pub(super) const NEW_TABLE: u16 = libc::NFT_MSG_NEWTABLE as u16;
    pub(super) const DEL_TABLE: u16 = libc::NFT_MSG_DELTABLE as u16;
    pub(super) const NEW_CHAIN: u16 = libc::NFT_MSG_NEWCHAIN as u16;
    pub(super) const NEW_RULE: u16 = libc::NFT_MSG_NEWRULE as u16;
    pub(super) const DEL_RULE: u16 = libc::NFT_MSG_DELRULE as u16;
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const DATA_VALUE: u16 = 1;
    /// `NFT_REG32_00`.
    pub(super) const REGISTER: u32 = 8;
    /// `NFT_META_L4PROTO`.
    pub(super) const META_TRANSPORT: u32 = 16;
    pub(super) const NETWORK_HEADER: u32 = 1;
    pub(super) const TRANSPORT_HEADER: u32 = 2;
    /// `NFT_PAYLOAD_CSUM_INET`.
    pub(super) const CHECKSUM: u32 = 1;
}

/// One side of a packet: where its address and its port stand in the headers.
#[derive(Debug, Clone, Copy)]
struct Side {
    address: u32,
    port: u32,
}

const SOURCE: Side = Side { address: 12, port: 0 };
const DESTINATION: Side = Side { address: 16, port: 2 };
/// A transport protocol and where its header has the checksum.
const UDP: (u8, u32) = (libc::IPPROTO_UDP as u8, 6);
const TCP: (u8, u32) = (libc::IPPROTO_TCP as u8, 16);
/// Before connection tracking, and after it but before address translation and filters.
const RAW: i32 = -300;
const MANGLE: i32 = -150;

/// Leads queries to `ports` from now on, wherever they went before: one transaction over `socket`, which is of the
/// sandbox's namespace. Closing the socket waits until no packet uses old rules any more, some milliseconds if there were
/// any.
pub(super) fn install(socket: &Socket, ports: Ports) -> Result<(), NetlinkError> {
    let mut batch = begin();
    // The table and the chains stay if they are there: taking chains away, or a transaction that is refused, waits for all
    // processors (12 ms).
    message(&mut batch, uapi::NEW_TABLE, CREATE).c_text(uapi::TABLE_NAME, TABLE);
    for (chain, priority) in [("replies", RAW), ("queries", MANGLE)] {
        base_chain(&mut batch, chain, priority);
    }
    message(&mut batch, uapi::DEL_RULE, 0).c_text(uapi::RULE_TABLE, TABLE);
    for (protocol, port) in [(UDP, ports.udp), (TCP, ports.tcp)] {
        rewrite(&mut batch, "replies", SOURCE, protocol, port, PORT);
        rewrite(&mut batch, "queries", DESTINATION, protocol, PORT, port);
    }
    commit(socket, batch)
}

/// Takes the rules away. Nothing happens if there are none.
pub(super) fn remove(socket: &Socket) -> Result<(), NetlinkError> {
    let mut batch = begin();
    // Deleting wants one to be there.
    message(&mut batch, uapi::NEW_TABLE, CREATE).c_text(uapi::TABLE_NAME, TABLE);
    message(&mut batch, uapi::DEL_TABLE, 0).c_text(uapi::TABLE_NAME, TABLE);
    commit(socket, batch)
}

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn begin() -> Batch {
    let mut batch = Batch::new();
    batch.message(uapi::BATCH_BEGIN, 0).raw(&header(0, uapi::SUBSYSTEM));
    batch
}

fn commit(socket: &Socket, mut batch: Batch) -> Result<(), NetlinkError> {
    batch.message(uapi::BATCH_END, 0).raw(&header(0, uapi::SUBSYSTEM));
    socket.transact(&batch)
}

fn message(batch: &mut Batch, kind: u16, flags: u16) -> MessageWriter<'_> {
    let mut message = batch.message(uapi::SUBSYSTEM << 8 | kind, flags | ACK);
    message.raw(&header(libc::NFPROTO_IPV4 as u8, 0));
    message
}

fn base_chain(batch: &mut Batch, name: &str, priority: i32) {
    let mut message = message(batch, uapi::NEW_CHAIN, CREATE);
    message.c_text(uapi::CHAIN_TABLE, TABLE).c_text(uapi::CHAIN_NAME, name);
    message.nest(uapi::CHAIN_HOOK, |hook| {
        hook.bytes(uapi::HOOK_NUMBER, &libc::NF_INET_LOCAL_OUT.to_be_bytes());
        hook.bytes(uapi::HOOK_PRIORITY, &priority.to_be_bytes());
    });
    message.c_text(uapi::CHAIN_TYPE, "filter");
}

/// Packets whose `side` is our address and port `from` get port `to` there.
fn rewrite(batch: &mut Batch, chain: &str, side: Side, protocol: (u8, u32), from: u16, to: u16) {
    let (protocol, checksum) = protocol;
    let mut message = message(batch, uapi::NEW_RULE, CREATE | APPEND);
    message.c_text(uapi::RULE_TABLE, TABLE).c_text(uapi::RULE_CHAIN, chain);
    message.nest(uapi::RULE_EXPRESSIONS, |list| {
        load(list, uapi::NETWORK_HEADER, side.address, 4);
        compare(list, &ADDRESS.octets());
        expression(list, "meta", |meta| _ = meta.u32_be(1, uapi::REGISTER).u32_be(2, uapi::META_TRANSPORT));
        compare(list, &[protocol]);
        load(list, uapi::TRANSPORT_HEADER, side.port, 2);
        compare(list, &from.to_be_bytes());
        expression(list, "immediate", |immediate| {
            immediate.u32_be(1, uapi::REGISTER);
            immediate.nest(2, |data| _ = data.bytes(uapi::DATA_VALUE, &to.to_be_bytes()));
        });
        expression(list, "payload", |payload| {
            payload.u32_be(2, uapi::TRANSPORT_HEADER).u32_be(3, side.port).u32_be(4, 2);
            payload.u32_be(5, uapi::REGISTER).u32_be(6, uapi::CHECKSUM).u32_be(7, checksum);
        });
    });
}

fn expression(list: &mut MessageWriter<'_>, name: &str, fill: impl FnOnce(&mut MessageWriter<'_>)) {
    list.nest(uapi::LIST_ELEMENT, |element| {
        element.c_text(uapi::EXPRESSION_NAME, name).nest(uapi::EXPRESSION_DATA, |data| fill(data));
    });
}

fn load(list: &mut MessageWriter<'_>, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |payload| {
        payload.u32_be(1, uapi::REGISTER).u32_be(2, base).u32_be(3, offset).u32_be(4, length);
    });
}

fn compare(list: &mut MessageWriter<'_>, value: &[u8]) {
    expression(list, "cmp", |cmp| {
        // 0: equal.
        cmp.u32_be(1, uapi::REGISTER).u32_be(2, 0).nest(3, |data| _ = data.bytes(uapi::DATA_VALUE, value));
    });
}
