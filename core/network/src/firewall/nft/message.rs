//! A transaction of nf_tables: between a begin and an end message everything happens, or nothing.

use dockerd_sys::netlink::message::{ACK, APPEND, CREATE, attribute};
use dockerd_sys::netlink::{Batch, Message, MessageWriter, NetlinkError, Socket};

use super::TABLE;
use super::expr::{Expressions, Verdict};
use super::uapi::{LINK_NAME, SET_IS_MAP, VERDICT_TYPE, attribute as a, message as m};
use crate::firewall::guard::HEADER_LENGTH;

pub(super) const INET: u8 = libc::NFPROTO_INET as u8;
const IPV4: u8 = libc::NFPROTO_IPV4 as u8;
const IPV6: u8 = libc::NFPROTO_IPV6 as u8;
/// Elements in one message: an attribute holds less than 64 KiB, an element less than 120 bytes.
const ELEMENTS_AT_ONCE: usize = 500;

/// Where a base chain is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: i32,
    pub(super) priority: i32,
    pub(super) policy: i32,
}

/// What a set's keys lead to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Values {
    /// Nothing: it is no map.
    None,
    Verdicts,
    Data {
        kind: u32,
        length: u32,
    },
}

/// A set's or map's name and the types `nft list` shows its keys and values as.
#[derive(Debug, Clone, Copy)]
pub(super) struct SetType {
    pub(super) name: &'static str,
    pub(super) key_type: u32,
    pub(super) key_length: u32,
    pub(super) values: Values,
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    None,
    Data(Vec<u8>),
    Verdict(Verdict),
}

/// What `nft` wants to know of keys that are texts: `NFTNL_UDATA_SET_KEYBYTEORDER` (0) of four bytes is `BYTEORDER_HOST_ENDIAN`
/// (libnftnl's `udata.h`); it shows them backwards else.
const HOST_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

/// A key and its value.
pub(super) type Element = (Vec<u8>, Value);

/// Messages to be committed together.
#[derive(Debug)]
pub(super) struct Transaction {
    batch: Batch,
    sets: u32,
}

fn header(family: u8, resource: u16) -> [u8; HEADER_LENGTH] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// Asks for a chain of a table of one family.
pub(super) fn chain_query(ipv6: bool, table: &str, chain: &str) -> Batch {
    let mut batch = Batch::new();
    let family = if ipv6 { IPV6 } else { IPV4 };
    let mut message = batch.message(m::SUBSYSTEM << 8 | m::GET_CHAIN, ACK);
    message.raw(&header(family, 0)).c_text(a::CHAIN_TABLE, table).c_text(a::CHAIN_NAME, chain);
    drop(message);
    batch
}

/// Whether an answer to [`chain_query`] tells of a chain with the policy to drop.
pub(super) fn is_dropping(message: &Message<'_>) -> bool {
    let policy = message.body.get(HEADER_LENGTH..).and_then(|rest| attribute(rest, a::CHAIN_POLICY));
    policy == Some(&(libc::NF_DROP as u32).to_be_bytes())
}

impl Transaction {
    pub(super) fn begin() -> Self {
        let mut batch = Batch::new();
        batch.message(m::BATCH_BEGIN, 0).raw(&header(0, m::SUBSYSTEM));
        Self { batch, sets: 0 }
    }

    fn message_of(&mut self, family: u8, kind: u16, flags: u16) -> MessageWriter<'_> {
        let mut message = self.batch.message(m::SUBSYSTEM << 8 | kind, flags);
        message.raw(&header(family, 0));
        message
    }

    fn message(&mut self, kind: u16, flags: u16) -> MessageWriter<'_> {
        self.message_of(INET, kind, flags)
    }

    /// The table is there, new and empty, whatever was before; that of daemons that knew IPv4 only is gone.
    pub(super) fn fresh_table(&mut self) {
        self.no_table();
        self.message(m::NEW_TABLE, CREATE).c_text(a::TABLE_NAME, TABLE);
    }

    /// The table is not there, whatever was before.
    pub(super) fn no_table(&mut self) {
        for family in [INET, IPV4] {
            // Deleting wants one to be there.
            self.message_of(family, m::NEW_TABLE, CREATE).c_text(a::TABLE_NAME, TABLE);
            self.message_of(family, m::DEL_TABLE, 0).c_text(a::TABLE_NAME, TABLE);
        }
    }

    pub(super) fn base_chain(&mut self, name: &str, hook: Hook) {
        let mut message = self.message(m::NEW_CHAIN, CREATE);
        message.c_text(a::CHAIN_TABLE, TABLE).c_text(a::CHAIN_NAME, name);
        message.nest(a::CHAIN_HOOK, |data| {
            data.bytes(a::HOOK_NUMBER, &hook.number.to_be_bytes());
            data.bytes(a::HOOK_PRIORITY, &hook.priority.to_be_bytes());
        });
        message.bytes(a::CHAIN_POLICY, &hook.policy.to_be_bytes()).c_text(a::CHAIN_TYPE, hook.kind);
    }

    /// A chain others lead to.
    pub(super) fn chain(&mut self, name: &str) {
        self.message(m::NEW_CHAIN, CREATE).c_text(a::CHAIN_TABLE, TABLE).c_text(a::CHAIN_NAME, name);
    }

    /// Takes all rules of a chain away.
    pub(super) fn empty_chain(&mut self, name: &str) {
        self.message(m::DEL_RULE, 0).c_text(a::RULE_TABLE, TABLE).c_text(a::RULE_CHAIN, name);
    }

    /// Takes a chain away to which nothing leads any more.
    pub(super) fn delete_chain(&mut self, name: &str) {
        self.empty_chain(name);
        self.message(m::DEL_CHAIN, 0).c_text(a::CHAIN_TABLE, TABLE).c_text(a::CHAIN_NAME, name);
    }

    pub(super) fn set(&mut self, set: SetType) {
        self.sets += 1;
        let id = self.sets;
        let mut message = self.message(m::NEW_SET, CREATE);
        let flags = if matches!(set.values, Values::None) { 0 } else { SET_IS_MAP };
        message.c_text(a::SET_TABLE, TABLE).c_text(a::SET_NAME, set.name).u32_be(a::SET_FLAGS, flags);
        message.u32_be(a::SET_KEY_TYPE, set.key_type).u32_be(a::SET_KEY_LENGTH, set.key_length);
        match set.values {
            Values::None => {}
            Values::Verdicts => _ = message.u32_be(a::SET_DATA_TYPE, VERDICT_TYPE),
            Values::Data { kind, length } => {
                message.u32_be(a::SET_DATA_TYPE, kind).u32_be(a::SET_DATA_LENGTH, length);
            }
        }
        message.u32_be(a::SET_ID, id);
        if set.key_type == LINK_NAME {
            message.bytes(a::SET_USER_DATA, &HOST_ORDER);
        }
    }

    pub(super) fn rule(&mut self, chain: &str, fill: impl FnOnce(&mut Expressions<'_, '_>)) {
        let mut message = self.message(m::NEW_RULE, CREATE | APPEND);
        message.c_text(a::RULE_TABLE, TABLE).c_text(a::RULE_CHAIN, chain);
        message.nest(a::RULE_EXPRESSIONS, |list| fill(&mut Expressions(list)));
    }

    pub(super) fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(m::NEW_SET_ELEMENT, CREATE, set, elements);
    }

    /// Elements are known by their keys.
    pub(super) fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(m::DEL_SET_ELEMENT, 0, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_AT_ONCE) {
            let mut message = self.message(kind, flags);
            message.c_text(a::ELEMENTS_TABLE, TABLE).c_text(a::ELEMENTS_SET, set);
            message.nest(a::ELEMENTS, |list| {
                for (key, value) in chunk {
                    list.nest(a::LIST_ELEMENT, |element| {
                        element.nest(a::ELEMENT_KEY, |datum| _ = datum.bytes(a::DATA_VALUE, key));
                        match value {
                            _ if kind == m::DEL_SET_ELEMENT => {}
                            Value::None => {}
                            Value::Data(data) => {
                                element.nest(a::ELEMENT_DATA, |datum| _ = datum.bytes(a::DATA_VALUE, data));
                            }
                            Value::Verdict(verdict) => {
                                element.nest(a::ELEMENT_DATA, |datum| verdict.write(datum));
                            }
                        }
                    });
                }
            });
        }
    }

    /// Closes the transaction and hands it to the kernel.
    pub(super) fn commit(mut self, socket: &Socket) -> Result<(), NetlinkError> {
        self.end();
        socket.transact(&self.batch)
    }

    fn end(&mut self) {
        self.batch.acknowledge_last();
        self.batch.message(m::BATCH_END, 0).raw(&header(0, m::SUBSYSTEM));
    }

    #[cfg(test)]
    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.end();
        self.batch.bytes().to_vec()
    }
}
