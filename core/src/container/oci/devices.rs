//! Device nodes and device rules: Docker's default rules, `--device`, `--device-cgroup-rule`, and everything of the host
//! for privileged containers. Looking at `/dev` happens in [`collect`], which runs before the pure part.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use dockerd_types::container::{DeviceMapping, HostConfig};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::SpecError;

/// Why a device cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not there or no device.
    #[error("error gathering device information while adding custom device \"{path}\": {reason}")]
    Gather {
        /// Host path.
        path: String,
        /// Why.
        reason: String,
    },
    /// A rule that is no rule.
    #[error("invalid device cgroup rule format: '{0}'")]
    Rule(String),
}

/// Nodes to make and rules to set.
#[derive(Debug, Clone, Default)]
pub struct DeviceSet {
    /// Nodes below the container's `/dev`.
    pub nodes: Vec<LinuxDevice>,
    /// Rules, in order.
    pub rules: Vec<LinuxDeviceCgroup>,
}

/// Character devices every container may use: zero, null, urandom, random, tty, console; and fuse denied.
const DEFAULT_RULES: [(bool, i64, i64); 7] =
    [(true, 1, 5), (true, 1, 3), (true, 1, 9), (true, 1, 8), (true, 5, 0), (true, 5, 1), (false, 10, 229)];

/// Looks at the host's device nodes for what `host` asks for. Touches the disk; call off the async workers when
/// [`needs_host`] says so.
pub fn collect(host: &HostConfig) -> Result<DeviceSet, SpecError> {
    let mut set = DeviceSet { nodes: Vec::new(), rules: default_rules()? };
    if host.privileged {
        set.nodes = host_devices(Path::new("/dev"), &privileged_skip())?;
        set.rules.push(rule(true, LinuxDeviceType::A, None, None, "rwm")?);
        // Nodes the user renames still appear under the name wanted.
        for mapping in &host.resources.devices {
            if mapping.path_on_host != mapping.path_in_container {
                set.nodes.extend(mapped(mapping)?.0);
            }
        }
    } else {
        for mapping in &host.resources.devices {
            let (nodes, rules) = mapped(mapping)?;
            set.nodes.extend(nodes);
            set.rules.extend(rules);
        }
    }
    for text in &host.resources.device_cgroup_rules {
        set.rules.push(parse_rule(text)?);
    }
    Ok(set)
}

/// Whether [`collect`] will read `/dev`.
pub fn needs_host(host: &HostConfig) -> bool {
    host.privileged || !host.resources.devices.is_empty()
}

fn default_rules() -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    let mut rules = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")?];
    for (allow, major, minor) in DEFAULT_RULES {
        rules.push(rule(allow, LinuxDeviceType::C, Some(major), Some(minor), "rwm")?);
    }
    Ok(rules)
}

fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup, SpecError> {
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(typ).access(access).build()?;
    rule.set_major(major);
    rule.set_minor(minor);
    Ok(rule)
}

/// `c 1:3 rwm`, `a *:* rwm`; `*` is any.
pub fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup, SpecError> {
    let bad = || SpecError::Device(DeviceError::Rule(text.to_owned()));
    let mut parts = text.split(' ');
    let (Some(typ), Some(numbers), Some(access), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let typ = match typ {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "*" => Ok(-1),
        digits => digits.parse::<i64>().ok().filter(|n| *n >= 0).ok_or_else(bad),
    };
    let ok = (1..=3).contains(&access.len()) && access.bytes().all(|b| b"rwm".contains(&b));
    if !ok {
        return Err(bad());
    }
    rule(true, typ, Some(number(major)?), Some(number(minor)?), access)
}

fn mapped(mapping: &DeviceMapping) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), SpecError> {
    let gather = |reason: String| DeviceError::Gather { path: mapping.path_on_host.clone(), reason };
    // A symbolic link names the node it leads to.
    let source = std::fs::canonicalize(&mapping.path_on_host).unwrap_or_else(|_| PathBuf::from(&mapping.path_on_host));
    let meta = std::fs::metadata(&source).map_err(|e| {
        gather(if e.kind() == std::io::ErrorKind::NotFound {
            "no such file or directory".to_owned()
        } else {
            e.to_string()
        })
    })?;
    let mut nodes = Vec::new();
    if meta.is_dir() {
        for node in host_devices(&source, &[])? {
            let below = node.path().strip_prefix(&source).unwrap_or(node.path()).to_owned();
            let mut node = node;
            node.set_path(Path::new(&mapping.path_in_container).join(below));
            nodes.push(node);
        }
        if nodes.is_empty() {
            return Err(gather("not a device node".to_owned()).into());
        }
    } else {
        let node = node(Path::new(&mapping.path_in_container), &meta)?;
        nodes.push(node.ok_or_else(|| gather("not a device node".to_owned()))?);
    }
    let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
    let rules = nodes
        .iter()
        .map(|n| rule(true, n.typ(), Some(n.major()), Some(n.minor()), access))
        .collect::<Result<_, _>>()?;
    Ok((nodes, rules))
}

/// Directories of `/dev` that are not nodes of the host for a privileged container: they are mounts of its own.
fn privileged_skip() -> [&'static str; 6] {
    ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts"]
}

/// All device nodes below `dir`, sorted by path.
fn host_devices(dir: &Path, skip: &[&str]) -> Result<Vec<LinuxDevice>, SpecError> {
    let mut nodes = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(current) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&current) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                if !skip.iter().any(|s| name == **s) {
                    pending.push(entry.path());
                }
            } else if name != "console" {
                nodes.extend(node(&entry.path(), &meta)?);
            }
        }
    }
    nodes.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(nodes)
}

fn node(path: &Path, meta: &std::fs::Metadata) -> Result<Option<LinuxDevice>, SpecError> {
    let kind = meta.file_type();
    let typ = if kind.is_block_device() {
        LinuxDeviceType::B
    } else if kind.is_char_device() {
        LinuxDeviceType::C
    } else {
        return Ok(None);
    };
    Ok(Some(
        LinuxDeviceBuilder::default()
            .path(path)
            .typ(typ)
            .major(i64::from(libc::major(meta.rdev())))
            .minor(i64::from(libc::minor(meta.rdev())))
            .file_mode(meta.mode() & 0o7777)
            .uid(meta.uid())
            .gid(meta.gid())
            .build()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_parse() {
        let rule = parse_rule("c 42:* rmw").expect("valid");
        assert_eq!((rule.major(), rule.minor(), rule.allow()), (Some(42), Some(-1), true));
        for bad in ["", "c 1:3", "x 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 rwmm", "c -1:3 r", "c 1:3 r x"] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_device_is_named() {
        let mapping = DeviceMapping {
            path_on_host: "/dev/not-there".to_owned(),
            path_in_container: "/dev/x".to_owned(),
            cgroup_permissions: String::new(),
        };
        let text = mapped(&mapping).expect_err("missing").to_string();
        assert!(text.contains("\"/dev/not-there\": no such file or directory"), "{text}");
    }

    #[test]
    fn a_node_is_described() {
        let mapping = DeviceMapping {
            path_on_host: "/dev/null".to_owned(),
            path_in_container: "/dev/x".to_owned(),
            cgroup_permissions: "r".to_owned(),
        };
        let (nodes, rules) = mapped(&mapping).expect("there");
        assert_eq!((nodes[0].major(), nodes[0].minor()), (1, 3));
        assert_eq!(rules[0].access().as_deref(), Some("r"));
    }
}
