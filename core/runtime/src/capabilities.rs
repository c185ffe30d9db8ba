//! Capability names, Docker's default set, and what `--cap-add`, `--cap-drop` and `--privileged` make of it. Masks are
//! `u64` with bit n for capability number n, the form `dockerd_sys::caps` takes. Pure, but for [`available`], which
//! asks the kernel once.

use std::sync::OnceLock;

use dockerd_types::{ErrorKind, Kinded};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// All capabilities by number.
const TABLE: [(&str, Capability); 41] = [
    ("CAP_CHOWN", Capability::Chown),
    ("CAP_DAC_OVERRIDE", Capability::DacOverride),
    ("CAP_DAC_READ_SEARCH", Capability::DacReadSearch),
    ("CAP_FOWNER", Capability::Fowner),
    ("CAP_FSETID", Capability::Fsetid),
    ("CAP_KILL", Capability::Kill),
    ("CAP_SETGID", Capability::Setgid),
    ("CAP_SETUID", Capability::Setuid),
    ("CAP_SETPCAP", Capability::Setpcap),
    ("CAP_LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", Capability::NetBindService),
    ("CAP_NET_BROADCAST", Capability::NetBroadcast),
    ("CAP_NET_ADMIN", Capability::NetAdmin),
    ("CAP_NET_RAW", Capability::NetRaw),
    ("CAP_IPC_LOCK", Capability::IpcLock),
    ("CAP_IPC_OWNER", Capability::IpcOwner),
    ("CAP_SYS_MODULE", Capability::SysModule),
    ("CAP_SYS_RAWIO", Capability::SysRawio),
    ("CAP_SYS_CHROOT", Capability::SysChroot),
    ("CAP_SYS_PTRACE", Capability::SysPtrace),
    ("CAP_SYS_PACCT", Capability::SysPacct),
    ("CAP_SYS_ADMIN", Capability::SysAdmin),
    ("CAP_SYS_BOOT", Capability::SysBoot),
    ("CAP_SYS_NICE", Capability::SysNice),
    ("CAP_SYS_RESOURCE", Capability::SysResource),
    ("CAP_SYS_TIME", Capability::SysTime),
    ("CAP_SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("CAP_MKNOD", Capability::Mknod),
    ("CAP_LEASE", Capability::Lease),
    ("CAP_AUDIT_WRITE", Capability::AuditWrite),
    ("CAP_AUDIT_CONTROL", Capability::AuditControl),
    ("CAP_SETFCAP", Capability::Setfcap),
    ("CAP_MAC_OVERRIDE", Capability::MacOverride),
    ("CAP_MAC_ADMIN", Capability::MacAdmin),
    ("CAP_SYSLOG", Capability::Syslog),
    ("CAP_WAKE_ALARM", Capability::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", Capability::BlockSuspend),
    ("CAP_AUDIT_READ", Capability::AuditRead),
    ("CAP_PERFMON", Capability::Perfmon),
    ("CAP_BPF", Capability::Bpf),
    ("CAP_CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// The fourteen capabilities a container has unless told otherwise.
pub const DEFAULT: u64 = mask_of([
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
]);

/// A capability the client asked for that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// No such name.
    #[error("unknown capability: {0:?}")]
    Unknown(String),
    /// The kernel, or the daemon's own bounding set, lacks it.
    #[error("capability not supported by your kernel or not available in the current environment: {0:?}")]
    Unavailable(String),
}

impl Kinded for CapabilityError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// What `--cap-add` or `--cap-drop` names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilityList {
    /// The single names.
    pub mask: u64,
    /// Whether `ALL` was among them.
    pub all: bool,
}

impl CapabilityList {
    /// Parses names in any case, with or without `CAP_`. Whether they are available is not asked.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, CapabilityError> {
        Self::parse_among(names, u64::MAX)
    }

    /// As [`CapabilityList::parse`], and each name must be in `available`.
    pub fn parse_among<S: AsRef<str>>(names: &[S], available: u64) -> Result<Self, CapabilityError> {
        let mut list = Self::default();
        for name in names {
            let upper = name.as_ref().to_ascii_uppercase();
            if upper == "ALL" {
                list.all = true;
                continue;
            }
            let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            match number_of(&full) {
                None => return Err(CapabilityError::Unknown(full)),
                Some(number) if available >> number & 1 == 0 => return Err(CapabilityError::Unavailable(full)),
                Some(number) => list.mask |= 1 << number,
            }
        }
        Ok(list)
    }
}

/// The container's set: everything available if privileged; else the defaults changed by what is added and dropped.
/// `ALL` added means all but the dropped ones, `ALL` dropped means only the added ones, and the former wins.
pub fn effective(add: CapabilityList, drop: CapabilityList, privileged: bool, available: u64) -> u64 {
    let wanted = if privileged {
        available
    } else if add.all {
        available & !drop.mask
    } else if drop.all {
        add.mask
    } else {
        DEFAULT & !drop.mask | add.mask
    };
    wanted & available
}

/// What this daemon can hand out: its own bounding set, limited to the capabilities that have a name here.
pub fn available() -> u64 {
    static AVAILABLE: OnceLock<u64> = OnceLock::new();
    *AVAILABLE.get_or_init(|| dockerd_sys::caps::bounding() & ((1 << TABLE.len()) - 1))
}

/// The number of a full, upper-case name.
pub fn number_of(name: &str) -> Option<u32> {
    TABLE.iter().position(|(known, _)| *known == name).map(|index| index as u32)
}

/// The names of a mask, by number.
pub fn names(mask: u64) -> impl Iterator<Item = &'static str> {
    TABLE.iter().enumerate().filter(move |(number, _)| mask >> number & 1 == 1).map(|(_, (name, _))| *name)
}

/// The mask as the OCI spec's set.
pub fn to_oci(mask: u64) -> Capabilities {
    TABLE
        .iter()
        .enumerate()
        .filter(|(number, _)| mask >> number & 1 == 1)
        .map(|(_, (_, capability))| *capability)
        .collect()
}

/// The OCI spec's set as a mask.
pub fn from_oci(set: &Capabilities) -> u64 {
    set.iter().fold(0, |mask, capability| mask | mask_of([*capability]))
}

/// The five sets of an OCI process, ready for the container init. Sets that are missing are empty.
pub fn from_oci_process(sets: &LinuxCapabilities) -> dockerd_sys::caps::CapabilitySets {
    let mask = |set: &Option<Capabilities>| set.as_ref().map_or(0, from_oci);
    dockerd_sys::caps::CapabilitySets {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    }
}

const fn mask_of<const N: usize>(capabilities: [Capability; N]) -> u64 {
    let mut mask = 0;
    let mut index = 0;
    while index < N {
        mask |= 1 << number(capabilities[index]);
        index += 1;
    }
    mask
}

const fn number(capability: Capability) -> u32 {
    let mut index = 0;
    while index < TABLE.len() {
        if TABLE[index].1 as u8 == capability as u8 {
            return index as u32;
        }
        index += 1;
    }
    panic!("every capability of the OCI spec is in the table")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = (1 << 41) - 1;

    fn list(names: &[&str]) -> CapabilityList {
        CapabilityList::parse(names).unwrap()
    }

    #[test]
    fn the_default_mask_is_what_containers_show() {
        assert_eq!(DEFAULT, 0xa804_25fb);
        assert_eq!(names(DEFAULT).count(), 14);
    }

    #[test]
    fn names_in_any_spelling() {
        assert_eq!(list(&["sys_admin", "CAP_SYS_ADMIN", "cap_net_raw"]).mask, 1 << 21 | 1 << 13);
        assert!(list(&["all"]).all);
        assert_eq!(CapabilityList::parse(&["foo"]).unwrap_err().to_string(), "unknown capability: \"CAP_FOO\"");
        assert_eq!(
            CapabilityList::parse_among(&["SYS_RESOURCE"], ALL & !(1 << 24)).unwrap_err(),
            CapabilityError::Unavailable("CAP_SYS_RESOURCE".to_owned())
        );
        assert!(CapabilityList::parse(&["CAP_ALL"]).is_err());
    }

    #[test]
    fn adding_and_dropping() {
        let none = CapabilityList::default();
        assert_eq!(effective(none, none, false, ALL), DEFAULT);
        assert_eq!(effective(none, none, true, ALL), ALL);
        assert_eq!(effective(none, list(&["ALL"]), true, ALL), ALL);
        assert_eq!(effective(list(&["ALL"]), list(&["CHOWN"]), false, ALL), ALL & !1);
        assert_eq!(effective(list(&["CHOWN"]), list(&["ALL"]), false, ALL), 1);
        assert_eq!(effective(list(&["ALL"]), list(&["ALL"]), false, ALL), ALL);
        assert_eq!(effective(list(&["SYS_ADMIN"]), list(&["CHOWN"]), false, ALL), DEFAULT & !1 | 1 << 21);
        assert_eq!(effective(list(&["CHOWN"]), list(&["CHOWN"]), false, ALL), DEFAULT);
    }

    #[test]
    fn oci_sets_round_trip() {
        for mask in [0, DEFAULT, ALL, 1 << 40] {
            assert_eq!(from_oci(&to_oci(mask)), mask);
        }
    }
}
