//! A transaction of nf_tables: between a begin and an end message everything happens, or nothing.

use dockerd_sys::netlink::message::{ACK, APPEND, CREATE};
use dockerd_sys::netlink::{Batch, MessageWriter, NetlinkError, Socket};

use super::TABLE;
use super::expr::Expressions;
use super::uapi::{SET_IS_MAP, attribute as a, message as m};

const IPV4: u8 = libc::NFPROTO_IPV4 as u8;
/// Elements in one message: an attribute holds less than 64 KiB, an element about 60 bytes.
const ELEMENTS_AT_ONCE: usize = 500;

/// Where a base chain is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: i32,
    pub(super) priority: i32,
    pub(super) policy: i32,
}

/// A map's name and the types `nft list` shows its keys and values as.
#[derive(Debug, Clone, Copy)]
pub(super) struct MapType {
    pub(super) name: &'static str,
    pub(super) id: u32,
    pub(super) key_type: u32,
    pub(super) key_length: u32,
    pub(super) data_type: u32,
    pub(super) data_length: u32,
}

/// A key and its value.
pub(super) type Element = (Vec<u8>, Vec<u8>);

/// Messages to be committed together.
#[derive(Debug)]
pub(super) struct Transaction {
    batch: Batch,
}

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

impl Transaction {
    pub(super) fn begin() -> Self {
        let mut batch = Batch::new();
        batch.message(m::BATCH_BEGIN, 0).raw(&header(0, m::SUBSYSTEM));
        Self { batch }
    }

    fn message(&mut self, kind: u16, flags: u16) -> MessageWriter<'_> {
        let mut message = self.batch.message(m::SUBSYSTEM << 8 | kind, flags | ACK);
        message.raw(&header(IPV4, 0));
        message
    }

    /// The table is there, new and empty, whatever was before.
    pub(super) fn fresh_table(&mut self) {
        // Deleting wants one to be there.
        self.message(m::NEW_TABLE, CREATE).c_text(a::TABLE_NAME, TABLE);
        self.message(m::DEL_TABLE, 0).c_text(a::TABLE_NAME, TABLE);
        self.message(m::NEW_TABLE, CREATE).c_text(a::TABLE_NAME, TABLE);
    }

    /// All chains are empty; maps keep what is in them.
    pub(super) fn no_rules(&mut self) {
        self.message(m::DEL_RULE, 0).c_text(a::RULE_TABLE, TABLE);
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

    pub(super) fn map(&mut self, map: MapType) {
        let mut message = self.message(m::NEW_SET, CREATE);
        message.c_text(a::SET_TABLE, TABLE).c_text(a::SET_NAME, map.name).u32_be(a::SET_FLAGS, SET_IS_MAP);
        message.u32_be(a::SET_KEY_TYPE, map.key_type).u32_be(a::SET_KEY_LENGTH, map.key_length);
        message.u32_be(a::SET_DATA_TYPE, map.data_type).u32_be(a::SET_DATA_LENGTH, map.data_length);
        message.u32_be(a::SET_ID, map.id);
    }

    pub(super) fn rule(&mut self, chain: &str, fill: impl FnOnce(&mut Expressions<'_, '_>)) {
        let mut message = self.message(m::NEW_RULE, CREATE | APPEND);
        message.c_text(a::RULE_TABLE, TABLE).c_text(a::RULE_CHAIN, chain);
        message.nest(a::RULE_EXPRESSIONS, |list| fill(&mut Expressions(list)));
    }

    pub(super) fn add_elements(&mut self, map: &str, elements: &[Element]) {
        self.elements(m::NEW_SET_ELEMENT, CREATE, map, elements, true);
    }

    /// Elements are known by their keys.
    pub(super) fn delete_elements(&mut self, map: &str, elements: &[Element]) {
        self.elements(m::DEL_SET_ELEMENT, 0, map, elements, false);
    }

    fn elements(&mut self, kind: u16, flags: u16, map: &str, elements: &[Element], with_data: bool) {
        for chunk in elements.chunks(ELEMENTS_AT_ONCE) {
            let mut message = self.message(kind, flags);
            message.c_text(a::ELEMENTS_TABLE, TABLE).c_text(a::ELEMENTS_SET, map);
            message.nest(a::ELEMENTS, |list| {
                for (key, data) in chunk {
                    list.nest(a::LIST_ELEMENT, |element| {
                        element.nest(a::ELEMENT_KEY, |value| _ = value.bytes(a::DATA_VALUE, key));
                        if with_data {
                            element.nest(a::ELEMENT_DATA, |value| _ = value.bytes(a::DATA_VALUE, data));
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
        self.batch.message(m::BATCH_END, 0).raw(&header(0, m::SUBSYSTEM));
    }

    #[cfg(test)]
    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.end();
        self.batch.bytes().to_vec()
    }
}
