//! Calling conventions and the names of system calls in each.

use super::table::{CALLS, X32_MISSING, X32_OWN};

/// A way to call the kernel. One audit architecture can carry two: x32 calls come as x86-64 with a bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Abi {
    /// x86-64.
    X86_64,
    /// 32-bit pointers in 64-bit mode.
    X32,
    /// i386.
    X86,
    /// arm64.
    Aarch64,
    /// 32-bit arm, EABI.
    Arm,
}

/// Set in the number of every x32 call.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// What this program was built for.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// The `arch` field of the data a filter sees (`AUDIT_ARCH_...`).
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether the kernel looks at 32 bits of each argument only.
    pub fn is_32_bit(self) -> bool {
        matches!(self, Self::X86 | Self::X32 | Self::Arm)
    }

    /// The number `name` has here, as a filter sees it.
    pub fn number(self, name: &str) -> Option<u32> {
        let row = &CALLS[CALLS.binary_search_by(|row| row.0.cmp(name)).ok()?];
        let raw = match self {
            Self::X86_64 => row.1,
            Self::X86 => row.2,
            Self::Aarch64 => row.3,
            Self::Arm => row.4,
            Self::X32 => {
                if X32_MISSING.contains(&name) {
                    return None;
                }
                X32_OWN.iter().find(|own| own.0 == name).map_or(row.1, |own| own.1)
            }
        };
        let number = u32::try_from(raw).ok()?;
        Some(if self == Self::X32 { number | X32_BIT } else { number })
    }

    /// On i386 some calls are (also, or only) reached through one entry whose first argument selects among them: the
    /// entry's number and the selector.
    pub(super) fn multiplexed(self, name: &str) -> Option<(u32, u64)> {
        if self != Self::X86 {
            return None;
        }
        let select = |table: &[(&str, u64)]| table.iter().find(|entry| entry.0 == name).map(|entry| entry.1);
        select(&SOCKETCALL).map(|n| (102, n)).or_else(|| select(&IPC).map(|n| (117, n)))
    }

    pub(super) fn oci_name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X32 => "SCMP_ARCH_X32",
            Self::X86 => "SCMP_ARCH_X86",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
        }
    }

    pub(super) fn docker_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X32 => "x32",
            Self::X86 => "x86",
            Self::Aarch64 => "arm64",
            Self::Arm => "arm",
        }
    }
}

const SOCKETCALL: [(&str, u64); 20] = [
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

const IPC: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_numbers_are_unique() {
        assert!(CALLS.is_sorted_by(|a, b| a.0 < b.0));
        for abi in [Abi::X86_64, Abi::X32, Abi::X86, Abi::Aarch64, Abi::Arm] {
            let mut numbers: Vec<u32> = CALLS.iter().filter_map(|row| abi.number(row.0)).collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{abi:?}");
        }
    }

    #[test]
    fn known_numbers() {
        for (abi, name, number) in [
            (Abi::X86_64, "execve", Some(59)),
            (Abi::X32, "execve", Some(X32_BIT | 520)),
            (Abi::X32, "read", Some(X32_BIT)),
            (Abi::X32, "uselib", None),
            (Abi::X86, "execve", Some(11)),
            (Abi::Aarch64, "execve", Some(221)),
            (Abi::Aarch64, "open", None),
            (Abi::Arm, "set_tls", Some(0xf0005)),
            (Abi::X86_64, "clone3", Some(435)),
            (Abi::X86, "mseal", Some(462)),
            (Abi::X86_64, "nonsense", None),
        ] {
            assert_eq!(abi.number(name), number, "{abi:?} {name}");
        }
        assert_eq!(Abi::X86.multiplexed("recv"), Some((102, 10)));
        assert_eq!(Abi::X86_64.multiplexed("socket"), None);
    }
}
