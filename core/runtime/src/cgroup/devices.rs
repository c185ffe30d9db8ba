//! Which devices a container may use: the OCI rule list reduced to "all but" or "only these", and written out for the
//! version 1 controller. Rules mean what the version 1 controller makes of them, one after the other, because that is
//! what images have been written against.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::CgroupError;

/// Access bits, as the kernel's device program sees them.
pub mod access {
    /// Make the node.
    pub const MKNOD: u8 = 1;
    /// Open for reading.
    pub const READ: u8 = 2;
    /// Open for writing.
    pub const WRITE: u8 = 4;
    /// All of them.
    pub const ALL: u8 = MKNOD | READ | WRITE;
}

/// Block or character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Block device.
    Block,
    /// Character device.
    Character,
}

/// One exception to the list's default. `None` stands for every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceException {
    /// Block or character.
    pub kind: DeviceKind,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// What the exception is about.
    pub access: u8,
}

impl DeviceException {
    /// The form `devices.allow` takes: `c 1:3 rwm`.
    pub fn text(&self) -> String {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let kind = match self.kind {
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        let mut text = format!("{kind} {}:{} ", number(self.major), number(self.minor));
        for (bit, letter) in [(access::READ, 'r'), (access::WRITE, 'w'), (access::MKNOD, 'm')] {
            if self.access & bit != 0 {
                text.push(letter);
            }
        }
        text
    }

    fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    fn covers(&self, other: &Self) -> bool {
        self.kind == other.kind
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
            && self.access & other.access != 0
    }
}

/// A rule list, reduced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceList {
    /// What holds for everything that is no exception.
    pub default_allow: bool,
    /// The exceptions, in the order they were given.
    pub exceptions: Vec<DeviceException>,
}

/// What every OCI runtime allows on top of the spec: making any node, and the standard character devices
/// (null, zero, full, random, urandom, tty, ptmx, the pseudo terminals, tun).
const ALWAYS: [(DeviceKind, Option<u32>, Option<u32>, u8); 11] = [
    (DeviceKind::Character, None, None, access::MKNOD),
    (DeviceKind::Block, None, None, access::MKNOD),
    (DeviceKind::Character, Some(1), Some(3), access::ALL),
    (DeviceKind::Character, Some(1), Some(8), access::ALL),
    (DeviceKind::Character, Some(1), Some(7), access::ALL),
    (DeviceKind::Character, Some(5), Some(0), access::ALL),
    (DeviceKind::Character, Some(1), Some(5), access::ALL),
    (DeviceKind::Character, Some(1), Some(9), access::ALL),
    (DeviceKind::Character, Some(136), None, access::ALL),
    (DeviceKind::Character, Some(5), Some(2), access::ALL),
    (DeviceKind::Character, Some(10), Some(200), access::ALL),
];

impl DeviceList {
    /// Reduces the spec's rules followed by the devices every runtime allows.
    pub fn resolve(rules: &[LinuxDeviceCgroup]) -> Result<Self, CgroupError> {
        let mut list = Self { default_allow: false, exceptions: Vec::with_capacity(rules.len() + ALWAYS.len()) };
        for rule in rules {
            list.apply(rule)?;
        }
        for (kind, major, minor, access) in ALWAYS {
            list.change(true, DeviceException { kind, major, minor, access }, "")?;
        }
        Ok(list)
    }

    /// Whether one access to one device is allowed.
    pub fn allows(&self, device: DeviceException) -> bool {
        if self.default_allow {
            !self.exceptions.iter().any(|exception| exception.overlaps(&device))
        } else {
            self.exceptions.iter().any(|e| e.covers(&device) && device.access & !e.access == 0)
        }
    }

    fn apply(&mut self, rule: &LinuxDeviceCgroup) -> Result<(), CgroupError> {
        let text = || format!("{rule:?}");
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => {
                *self = Self { default_allow: rule.allow(), exceptions: std::mem::take(&mut self.exceptions) };
                self.exceptions.clear();
                return Ok(());
            }
            LinuxDeviceType::B => DeviceKind::Block,
            LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
            LinuxDeviceType::P => return Err(CgroupError::InvalidResource(text())),
        };
        let number = |n: Option<i64>| match n {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some).map_err(|_| CgroupError::InvalidResource(text())),
        };
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => access::READ,
                'w' => access::WRITE,
                'm' => access::MKNOD,
                _ => return Err(CgroupError::InvalidResource(text())),
            };
        }
        let device = DeviceException { kind, major: number(rule.major())?, minor: number(rule.minor())?, access };
        self.change(rule.allow(), device, &device.text())
    }

    /// An exception in the default's own direction takes earlier exceptions back; one in the other direction adds.
    fn change(&mut self, allow: bool, device: DeviceException, text: &str) -> Result<(), CgroupError> {
        if allow == self.default_allow {
            for known in &mut self.exceptions {
                if device.covers(known) {
                    known.access &= !device.access;
                } else if !allow && known.overlaps(&device) {
                    return Err(CgroupError::DeviceRule(text.to_owned()));
                }
            }
            self.exceptions.retain(|known| known.access != 0);
        } else if let Some(known) = self.exceptions.iter_mut().find(|known| known.same_devices(&device)) {
            known.access |= device.access;
        } else {
            self.exceptions.push(device);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    pub(in crate::cgroup) fn rule(allow: bool, text: &str) -> LinuxDeviceCgroup {
        let mut fields = text.split([' ', ':']);
        let kind = match fields.next() {
            Some("b") => LinuxDeviceType::B,
            Some("c") => LinuxDeviceType::C,
            _ => LinuxDeviceType::A,
        };
        let mut builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind);
        for place in 0..2 {
            if let Some(number) = fields.next().and_then(|n| n.parse::<i64>().ok()) {
                builder = if place == 0 { builder.major(number) } else { builder.minor(number) };
            }
        }
        builder.access(fields.next().unwrap_or("rwm")).build().unwrap()
    }

    pub(in crate::cgroup) fn docker_rules() -> Vec<LinuxDeviceCgroup> {
        let mut rules = vec![rule(false, "a")];
        rules.extend(["c 1:5", "c 1:3", "c 1:9", "c 1:8", "c 5:0", "c 5:1"].map(|t| rule(true, &format!("{t} rwm"))));
        rules.push(rule(false, "c 10:229 rwm"));
        rules
    }

    #[test]
    fn docker_default_gives_the_list_stock_containers_show() {
        let list = DeviceList::resolve(&docker_rules()).unwrap();
        assert!(!list.default_allow);
        let mut texts: Vec<_> = list.exceptions.iter().map(DeviceException::text).collect();
        texts.sort();
        let mut want = [
            "b *:* m",
            "c *:* m",
            "c 1:3 rwm",
            "c 1:5 rwm",
            "c 1:7 rwm",
            "c 1:8 rwm",
            "c 1:9 rwm",
            "c 10:200 rwm",
            "c 136:* rwm",
            "c 5:0 rwm",
            "c 5:1 rwm",
            "c 5:2 rwm",
        ];
        want.sort_unstable();
        assert_eq!(texts, want);
        // Rules given twice change nothing.
        let twice: Vec<_> = docker_rules().into_iter().chain(docker_rules()).collect();
        assert_eq!(DeviceList::resolve(&twice).unwrap(), list);
    }

    #[test]
    fn privileged_has_no_exceptions() {
        let list = DeviceList::resolve(&[rule(true, "a")]).unwrap();
        assert_eq!(list, DeviceList { default_allow: true, exceptions: Vec::new() });
    }

    #[test]
    fn taking_back_part_of_an_exception() {
        let list = DeviceList::resolve(&[rule(false, "a"), rule(true, "b 8:0 rwm"), rule(false, "b 8:0 w")]).unwrap();
        assert!(list.exceptions.iter().any(|e| e.text() == "b 8:0 rm"));
        let holes = DeviceList::resolve(&[rule(true, "b 8:* rwm"), rule(false, "b 8:1 rwm")]);
        assert!(matches!(holes, Err(CgroupError::DeviceRule(_))));
    }
}
