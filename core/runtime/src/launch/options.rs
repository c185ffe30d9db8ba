//! Mount options of the OCI runtime-spec ("Linux mount options"): which are attributes, which propagation, which belong
//! to the file system.

use dockerd_sys::mount::{
    ATIME_MASK, Attributes, NO_ATIME, NO_DEV, NO_DIR_ATIME, NO_EXEC, NO_SUID, Propagation, READ_ONLY, STRICT_ATIME,
};

/// Options of one mount, sorted out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// Attribute bits.
    pub(super) attributes: Attributes,
    /// Whether one of them was asked for recursively (`rro`, ...).
    pub(super) recursive_attributes: bool,
    /// Propagation.
    pub(super) propagation: Option<Propagation>,
    /// `Some(recursive)` for a bind.
    pub(super) bind: Option<bool>,
    /// For the file system.
    pub(super) data: Vec<String>,
}

impl MountOptions {
    /// Sorts `options`; unknown ones go to the file system.
    pub(super) fn parse<S: AsRef<str>>(options: &[S]) -> Self {
        let mut out = Self::default();
        for option in options {
            out.add(option.as_ref());
        }
        out
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "shared" | "rshared" => self.propagation = Some(Propagation::Shared),
            "slave" | "rslave" => self.propagation = Some(Propagation::Slave),
            "private" | "rprivate" => self.propagation = Some(Propagation::Private),
            "unbindable" | "runbindable" => self.propagation = Some(Propagation::Unbindable),
            "defaults" | "" | "tmpcopyup" => {}
            other => match attribute(other.strip_prefix('r').unwrap_or(other)).filter(|_| is_recursive(other)) {
                Some(change) => {
                    self.recursive_attributes = true;
                    self.change(change);
                }
                None => match attribute(other) {
                    Some(change) => self.change(change),
                    None => self.data.push(other.to_owned()),
                },
            },
        }
    }

    fn change(&mut self, (set, clear): (u64, u64)) {
        self.attributes.set = self.attributes.set & !clear | set;
        self.attributes.clear = self.attributes.clear & !set | clear;
    }
}

/// Names such as `rro`, `rnosuid`; `ro`, `relatime` and `rw` only look like it.
fn is_recursive(option: &str) -> bool {
    matches!(
        option,
        "rro"
            | "rrw"
            | "rnosuid"
            | "rsuid"
            | "rnodev"
            | "rdev"
            | "rnoexec"
            | "rexec"
            | "rnoatime"
            | "rrelatime"
            | "rstrictatime"
            | "rnodiratime"
            | "rdiratime"
            | "ratime"
    )
}

/// Bits to set and to clear.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (READ_ONLY, 0),
        "rw" => (0, READ_ONLY),
        "nosuid" => (NO_SUID, 0),
        "suid" => (0, NO_SUID),
        "nodev" => (NO_DEV, 0),
        "dev" => (0, NO_DEV),
        "noexec" => (NO_EXEC, 0),
        "exec" => (0, NO_EXEC),
        "noatime" => (NO_ATIME, ATIME_MASK & !NO_ATIME),
        "strictatime" => (STRICT_ATIME, ATIME_MASK & !STRICT_ATIME),
        "relatime" | "atime" => (0, ATIME_MASK),
        "nodiratime" => (NO_DIR_ATIME, 0),
        "diratime" => (0, NO_DIR_ATIME),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_defaults_are_sorted_out() {
        let dev = MountOptions::parse(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(dev.attributes.set, NO_SUID | STRICT_ATIME);
        assert_eq!(dev.data, ["mode=755", "size=65536k"]);
        let bind = MountOptions::parse(&["rbind", "ro", "rprivate"]);
        assert_eq!(
            (bind.bind, bind.attributes.set, bind.propagation),
            (Some(true), READ_ONLY, Some(Propagation::Private))
        );
        assert!(!bind.recursive_attributes);
    }

    #[test]
    fn later_options_win() {
        let options = MountOptions::parse(&["noexec", "nosuid", "exec", "rro"]);
        assert_eq!(options.attributes, Attributes { set: NO_SUID | READ_ONLY, clear: NO_EXEC });
        assert!(options.recursive_attributes);
    }
}
