//! Kernel parameters of a container: which may be set, and the files they are. A parameter that no namespace of the
//! container's own holds is the host's, and is refused as runc refuses it.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use crate::driver::LaunchError;

/// Parameters of the IPC namespace that do not say so by their prefix.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Paths below `/proc/sys` and what to write there.
pub(super) fn settings(linux: &Linux) -> Result<Vec<(String, String)>, LaunchError> {
    let Some(sysctls) = linux.sysctl() else { return Ok(Vec::new()) };
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let has = |kind: LinuxNamespaceType| namespaces.iter().any(|namespace| namespace.typ() == kind);
    let refused = |why: String| LaunchError::Runtime(format!("runc create failed: {why}"));
    let setting = |(key, value): (&String, &String)| {
        let name = key.replace('/', ".");
        if IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
            if !has(LinuxNamespaceType::Ipc) {
                return Err(refused(format!("sysctl {key:?} is not allowed in the hosts ipc namespace")));
            }
        } else if name.starts_with("net.") {
            if !has(LinuxNamespaceType::Network) {
                return Err(refused(format!("sysctl {key:?} not allowed in host network namespace")));
            }
        } else if name == "kernel.domainname" {
            if !has(LinuxNamespaceType::Uts) {
                return Err(refused(format!("sysctl {key:?} is not allowed in the hosts uts namespace")));
            }
        } else {
            return Err(refused(format!("sysctl {key:?} is not in a separate kernel namespace")));
        }
        let path = path(key).ok_or_else(|| LaunchError::InvalidSpec(format!("sysctl {key:?} is not a valid name")))?;
        Ok((path, value.clone()))
    };
    sysctls.iter().map(setting).collect()
}

/// `net.ipv4.conf.eth0/1.x`: a slash in the key stands for a dot in a name, as sysctl(8) has it.
fn path(key: &str) -> Option<String> {
    let swapped = key.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    let swapped: String = swapped.collect();
    if swapped.split('/').any(|part| part.is_empty() || part == "..") { None } else { Some(swapped) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxBuilder, LinuxNamespaceBuilder};

    fn set(key: &str, kinds: &[LinuxNamespaceType]) -> Result<Vec<(String, String)>, LaunchError> {
        let namespaces: Vec<_> =
            kinds.iter().map(|kind| LinuxNamespaceBuilder::default().typ(*kind).build().unwrap()).collect();
        let sysctl = std::collections::HashMap::from([(key.to_owned(), "1".to_owned())]);
        settings(&LinuxBuilder::default().namespaces(namespaces).sysctl(sysctl).build().unwrap())
    }

    #[test]
    fn the_hosts_parameters_are_not_a_containers_to_set() {
        let kinds = [LinuxNamespaceType::Ipc, LinuxNamespaceType::Network, LinuxNamespaceType::Uts];
        for (key, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("kernel.sem", "kernel/sem"),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
            ("kernel.domainname", "kernel/domainname"),
        ] {
            assert_eq!(set(key, &kinds).unwrap(), [(path.to_owned(), "1".to_owned())]);
            assert!(set(key, &[]).unwrap_err().to_string().contains("sysctl"), "{key}");
        }
        for key in ["vm.swappiness", "kernel.hostname", "fs.file-max", "net.../x"] {
            assert!(set(key, &kinds).is_err(), "{key}");
        }
    }
}
