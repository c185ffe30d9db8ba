//! Numbers of `linux/netfilter/nf_tables.h` and `nfnetlink.h`, under the headers' names without their prefixes.

/// Message types.
pub(super) mod message {
    pub(crate) const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
    pub(crate) const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;
    pub(crate) const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
    pub(crate) const NEW_TABLE: u16 = libc::NFT_MSG_NEWTABLE as u16;
    pub(crate) const DEL_TABLE: u16 = libc::NFT_MSG_DELTABLE as u16;
    pub(crate) const NEW_CHAIN: u16 = libc::NFT_MSG_NEWCHAIN as u16;
    pub(crate) const GET_CHAIN: u16 = libc::NFT_MSG_GETCHAIN as u16;
    pub(crate) const DEL_CHAIN: u16 = libc::NFT_MSG_DELCHAIN as u16;
    pub(crate) const NEW_RULE: u16 = libc::NFT_MSG_NEWRULE as u16;
    pub(crate) const DEL_RULE: u16 = libc::NFT_MSG_DELRULE as u16;
    pub(crate) const NEW_SET: u16 = libc::NFT_MSG_NEWSET as u16;
    pub(crate) const NEW_SET_ELEMENT: u16 = libc::NFT_MSG_NEWSETELEM as u16;
    pub(crate) const DEL_SET_ELEMENT: u16 = libc::NFT_MSG_DELSETELEM as u16;
    pub(crate) const NEW_GENERATION: u16 = libc::NFT_MSG_NEWGEN as u16;
}

/// Attributes of tables, chains, rules, sets and elements.
pub(crate) mod attribute {
    pub(crate) const TABLE_NAME: u16 = 1;
    pub(crate) const CHAIN_TABLE: u16 = 1;
    pub(crate) const CHAIN_NAME: u16 = 3;
    pub(crate) const CHAIN_HOOK: u16 = 4;
    pub(crate) const CHAIN_POLICY: u16 = 5;
    pub(crate) const CHAIN_TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const RULE_TABLE: u16 = 1;
    pub(crate) const RULE_CHAIN: u16 = 2;
    pub(crate) const RULE_EXPRESSIONS: u16 = 4;
    pub(crate) const LIST_ELEMENT: u16 = 1;
    pub(crate) const EXPRESSION_NAME: u16 = 1;
    pub(crate) const EXPRESSION_DATA: u16 = 2;
    pub(crate) const SET_TABLE: u16 = 1;
    pub(crate) const SET_NAME: u16 = 2;
    pub(crate) const SET_FLAGS: u16 = 3;
    pub(crate) const SET_KEY_TYPE: u16 = 4;
    pub(crate) const SET_KEY_LENGTH: u16 = 5;
    pub(crate) const SET_DATA_TYPE: u16 = 6;
    pub(crate) const SET_DATA_LENGTH: u16 = 7;
    pub(crate) const SET_ID: u16 = 10;
    pub(crate) const SET_USER_DATA: u16 = 13;
    pub(crate) const ELEMENTS_TABLE: u16 = 1;
    pub(crate) const ELEMENTS_SET: u16 = 2;
    pub(crate) const ELEMENTS: u16 = 3;
    pub(crate) const ELEMENT_KEY: u16 = 1;
    pub(crate) const ELEMENT_DATA: u16 = 2;
    pub(crate) const DATA_VALUE: u16 = 1;
    pub(crate) const DATA_VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
}

/// `NFT_SET_MAP`: a set whose keys have values.
pub(super) const SET_IS_MAP: u32 = 8;
/// `NFT_DATA_VERDICT`: the type of values that are verdicts.
pub(super) const VERDICT_TYPE: u32 = 0xffff_ff00;
/// `NFT_REG_VERDICT`.
pub(super) const REGISTER_VERDICT: u32 = 0;
/// `NFT_REG32_00`, the first of sixteen of four bytes each; what is longer lies in several side by side.
pub(super) const REGISTER: u32 = 8;

/// `NFT_META_*`.
pub(super) mod meta {
    pub(crate) const MARK: u32 = 3;
    pub(crate) const INPUT_NAME: u32 = 6;
    pub(crate) const OUTPUT_NAME: u32 = 7;
    pub(crate) const FAMILY: u32 = 15;
    pub(crate) const TRANSPORT: u32 = 16;
}

/// `NFT_PAYLOAD_*`.
pub(super) mod payload {
    pub(crate) const NETWORK: u32 = 1;
    pub(crate) const TRANSPORT: u32 = 2;
    /// `NFT_PAYLOAD_CSUM_NONE`: the header has no sum of its own; as flags: no other one is to be corrected either.
    pub(crate) const NO_SUM: u32 = 0;
    /// `NFT_PAYLOAD_L4CSUM_PSEUDOHDR`: that of the transport covers addresses.
    pub(crate) const TRANSPORT_SUM: u32 = 1;
}

/// `NFT_CT_*` keys and the kernel's bits in them.
pub(super) mod conntrack {
    pub(crate) const STATE: u32 = 0;
    pub(crate) const STATUS: u32 = 2;
    /// Established or related, `NF_CT_STATE_BIT`.
    pub(crate) const KNOWN: u32 = 2 | 4;
    /// `IPS_DST_NAT`.
    pub(crate) const DESTINATION_TRANSLATED: u32 = 1 << 5;
}

/// `NFT_FIB_RESULT_ADDRTYPE`.
pub(super) const FIB_ADDRESS_TYPE: u32 = 3;
/// `NFTA_FIB_F_DADDR`.
pub(super) const FIB_DESTINATION: u32 = 2;
/// `NFT_SOCKET_TRANSPARENT`.
pub(super) const SOCKET_IS_TRANSPARENT: u32 = 0;
/// `NFT_NAT_SNAT`.
pub(super) const NAT_SOURCE: u32 = 0;
/// `NFT_NAT_DNAT`.
pub(super) const NAT_DESTINATION: u32 = 1;

/// The data type of links' names, as `nft` numbers it.
pub(super) const LINK_NAME: u32 = 41;
