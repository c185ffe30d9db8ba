//! Docker's profile format: an OCI seccomp section whose rules may depend on capabilities, machine and kernel. Parses
//! it and settles those conditions for one container; the result is plain OCI, which any runtime takes.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use dockerd_types::{ErrorKind, Kinded};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder, LinuxSeccompFilterFlag, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::{Deserialize, Deserializer};

use super::builtin;
use super::names::Abi;
use crate::capabilities;

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not JSON, or not of the format's shape.
    #[error("Decoding seccomp profile failed: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Two ways to say the architectures.
    #[error(
        "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'"
    )]
    Architectures,
    /// Two ways to say the names.
    #[error("both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'")]
    Names,
    /// An architecture that does not exist.
    #[error("unknown seccomp architecture {0:?}")]
    UnknownArchitecture(String),
    /// A rule that does not say what to do.
    #[error("a rule of the seccomp profile has no action")]
    NoAction,
    /// Rules, but nothing said about the rest.
    #[error("the seccomp profile has no default action")]
    NoDefault,
}

impl Kinded for ProfileError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// A profile with its conditions unsettled.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Profile {
    pub(super) default_action: Option<LinuxSeccompAction>,
    pub(super) default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) architectures: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) arch_map: Vec<ArchMap>,
    pub(super) flags: Option<Vec<LinuxSeccompFilterFlag>>,
    pub(super) listener_path: Option<std::path::PathBuf>,
    pub(super) listener_metadata: Option<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) syscalls: Vec<Rule>,
}

/// A main architecture and those that come with it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchMap {
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) sub_architectures: Option<Vec<String>>,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rule {
    /// The old form, one name.
    pub(super) name: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) names: Vec<String>,
    pub(super) action: Option<LinuxSeccompAction>,
    pub(super) errno_ret: Option<u32>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) args: Vec<LinuxSeccompArg>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) includes: Condition,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) excludes: Condition,
}

/// When a rule holds, or does not. An empty part says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Condition {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) caps: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) arches: Vec<String>,
    pub(super) min_kernel: Option<KernelVersion>,
}

/// The first two parts of a kernel's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 in 6.18.
    pub major: u64,
    /// 18 in 6.18.
    pub minor: u64,
}

/// What the conditions are settled against.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// The host's own calling convention.
    pub abi: Abi,
    /// The host's kernel.
    pub kernel: KernelVersion,
}

impl Machine {
    /// This host.
    pub fn this() -> Self {
        Self { abi: Abi::NATIVE, kernel: KernelVersion::running() }
    }
}

impl Profile {
    /// Parses the text of a profile, as `--security-opt seccomp=...` and the daemon's option carry it.
    pub fn parse(json: &str) -> Result<Self, ProfileError> {
        Ok(serde_json::from_str(json)?)
    }

    /// The profile of containers that name none.
    pub fn builtin() -> &'static Self {
        &builtin::PROFILE
    }

    /// Settles the conditions for a container with this bounding set; `None` if the profile is empty, which means no
    /// filter.
    pub fn resolve(&self, machine: Machine, bounding: u64) -> Result<Option<LinuxSeccomp>, ProfileError> {
        if self.default_action.is_none() && self.syscalls.is_empty() {
            return Ok(None);
        }
        if !self.architectures.is_empty() && !self.arch_map.is_empty() {
            return Err(ProfileError::Architectures);
        }
        let mut builder = LinuxSeccompBuilder::default()
            .default_action(self.default_action.ok_or(ProfileError::NoDefault)?)
            .architectures(self.architectures_for(machine.abi)?);
        if let Some(errno) = self.default_errno_ret {
            builder = builder.default_errno_ret(errno);
        }
        if let Some(flags) = &self.flags {
            builder = builder.flags(flags.clone());
        }
        if let Some(path) = &self.listener_path {
            builder = builder.listener_path(path.clone());
        }
        if let Some(metadata) = &self.listener_metadata {
            builder = builder.listener_metadata(metadata.clone());
        }
        let mut syscalls = Vec::with_capacity(self.syscalls.len());
        for rule in &self.syscalls {
            if !rule.name.is_empty() && !rule.names.is_empty() {
                return Err(ProfileError::Names);
            }
            let action = rule.action.ok_or(ProfileError::NoAction)?;
            if rule.holds(machine, bounding) {
                syscalls.push(rule.to_oci(action));
            }
        }
        Ok(Some(builder.syscalls(syscalls).build().expect("every field has a default")))
    }

    fn architectures_for(&self, native: Abi) -> Result<Vec<Arch>, ProfileError> {
        let named: Vec<&String> = if self.arch_map.is_empty() {
            self.architectures.iter().collect()
        } else {
            let entry = self.arch_map.iter().find(|entry| entry.architecture == native.oci_name());
            entry
                .into_iter()
                .flat_map(|e| std::iter::once(&e.architecture).chain(e.sub_architectures.iter().flatten()))
                .collect()
        };
        named
            .into_iter()
            .map(|name| Arch::from_str(name).map_err(|_| ProfileError::UnknownArchitecture(name.clone())))
            .collect()
    }
}

impl Rule {
    fn holds(&self, machine: Machine, bounding: u64) -> bool {
        let arch = machine.abi.docker_name();
        let has = |name: &String| capabilities::number_of(name).is_some_and(|number| bounding >> number & 1 == 1);
        let recent = |version: KernelVersion| machine.kernel >= version;
        let (out, within) = (&self.excludes, &self.includes);
        let excluded = out.arches.iter().any(|name| name == arch)
            || out.caps.iter().any(has)
            || out.min_kernel.is_some_and(recent);
        let included = (within.arches.is_empty() || within.arches.iter().any(|name| name == arch))
            && within.caps.iter().all(has)
            && within.min_kernel.is_none_or(recent);
        included && !excluded
    }

    fn to_oci(&self, action: LinuxSeccompAction) -> LinuxSyscall {
        let names = if self.name.is_empty() { self.names.clone() } else { vec![self.name.clone()] };
        let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
        if let Some(errno) = self.errno_ret {
            builder = builder.errno_ret(errno);
        }
        if !self.args.is_empty() {
            builder = builder.args(self.args.clone());
        }
        builder.build().expect("every field has a default")
    }
}

impl KernelVersion {
    /// The kernel this runs on (read once).
    pub fn running() -> Self {
        static RUNNING: OnceLock<KernelVersion> = OnceLock::new();
        *RUNNING.get_or_init(|| {
            let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            Self::from_release(&text).unwrap_or(Self { major: 5, minor: 15 })
        })
    }

    /// The leading `major.minor` of a release such as `6.1.0-13-amd64`.
    fn from_release(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl<'de> Deserialize<'de> for KernelVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parts: Vec<_> = text.split('.').map(str::parse::<u64>).collect();
        match parts[..] {
            [Ok(major), Ok(minor)] if major > 0 => Ok(Self { major, minor }),
            _ => Err(serde::de::Error::custom(format!(
                "invalid kernel version: {text:?}, expected \"<kernel>.<major>\""
            ))),
        }
    }
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { abi: Abi::X86_64, kernel: KernelVersion { major: 5, minor: 15 } };

    fn names(seccomp: &LinuxSeccomp) -> Vec<String> {
        seccomp.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn conditions_are_settled() {
        let profile = Profile::parse(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[
              {"name":"old","action":"SCMP_ACT_ALLOW","args":null,"comment":"x","includes":{},"excludes":null},
              {"names":["cap"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_CHOWN","CAP_KILL"]}},
              {"names":["nocap"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_CHOWN","CAP_KILL"]}},
              {"names":["arm"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["arm64"]}},
              {"names":["amd"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64","x32"]}},
              {"names":["new"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"6.1"}},
              {"names":["seen"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}}]}"#,
        )
        .unwrap();
        let kill = 1 << 5;
        let resolved = profile.resolve(MACHINE, 1).unwrap().unwrap();
        assert_eq!(names(&resolved), ["old", "amd", "seen"]);
        assert_eq!(resolved.architectures().as_deref(), Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..]));
        assert_eq!(names(&profile.resolve(MACHINE, 1 | kill).unwrap().unwrap()), ["old", "cap", "amd", "seen"]);
        assert_eq!(names(&profile.resolve(MACHINE, 0).unwrap().unwrap()), ["old", "nocap", "amd", "seen"]);
    }

    #[test]
    fn what_is_refused() {
        assert!(Profile::parse("{}").unwrap().resolve(MACHINE, 0).unwrap().is_none());
        assert!(Profile::parse("root:x:0:0").is_err());
        for bad in [
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"syscalls":[{"name":"a","action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_VAX"]}"#,
        ] {
            assert!(Profile::parse(bad).unwrap().resolve(MACHINE, 0).is_err(), "{bad}");
        }
        assert!(Profile::parse(r#"{"syscalls":[{"includes":{"minKernel":"0.1"}}]}"#).is_err());
    }

    #[test]
    fn builtin_depends_on_capabilities() {
        let count = |bounding| names(&Profile::builtin().resolve(MACHINE, bounding).unwrap().unwrap()).len();
        assert_eq!(Profile::builtin().syscalls[0].names.len(), 361);
        assert!(count(capabilities::DEFAULT) > count(0) && count(u64::MAX) > count(capabilities::DEFAULT));
        assert_eq!(KernelVersion::from_release("6.1.0-13-amd64"), Some(KernelVersion { major: 6, minor: 1 }));
    }
}
