//! Driver options of one endpoint: `--network name=N,driver-opt=KEY=VALUE`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use crate::error::{InterfaceFault, NetworkError};
use crate::sandbox;

/// The name of the link inside.
const INTERFACE: &str = "com.docker.network.endpoint.ifname";
/// Settings of the link inside, separated by commas.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// Stands for the link's name in them; the CLI writes it in lower case.
const PLACEHOLDERS: [&str; 2] = ["IFNAME", "ifname"];

/// What a client asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct EndpointOptions {
    /// Name of the link.
    pub(super) interface: Option<String>,
    sysctls: Vec<String>,
}

/// A setting of a link.
#[derive(Debug, PartialEq, Eq)]
struct Sysctl {
    /// Below `/proc/sys`.
    path: String,
    value: String,
}

/// Options that cannot be meant, in the stock daemon's words; those that fail when the link is there are not among them.
pub fn endpoint_option_problems(options: &BTreeMap<String, String>) -> Vec<String> {
    let texts = options.get(SYSCTLS).map(|text| text.split(','));
    let strange = texts.into_iter().flatten().filter(|text| !is_of_link(text));
    let problem = |text| {
        format!(
            "unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', \
             'X' must be 'ipv4', 'ipv6' or 'mpls'"
        )
    };
    strange.map(problem).collect()
}

/// `net.ipv4.conf.IFNAME.log_martians=1`
fn is_of_link(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(5, '.').collect();
    matches!(parts[..], [_, "ipv4" | "ipv6" | "mpls", _, name, _] if PLACEHOLDERS.contains(&name))
}

impl EndpointOptions {
    /// Reads them; options of others are left alone.
    pub(super) fn parse(options: &BTreeMap<String, String>) -> Self {
        let interface = options.get(INTERFACE).filter(|name| !name.is_empty()).cloned();
        let sysctls = options.get(SYSCTLS).into_iter().flat_map(|text| text.split(',')).map(str::to_owned).collect();
        Self { interface, sysctls }
    }

    /// Writes the settings of a link of that name. Blocking.
    pub(super) fn apply(&self, netns: &OwnedFd, link: &str) -> Result<(), NetworkError> {
        if self.sysctls.is_empty() {
            return Ok(());
        }
        let settings = self.sysctls.iter().map(|text| sysctl(text, link)).collect::<Result<Vec<_>, _>>();
        let write = |settings: Vec<Sysctl>| {
            let settings: Vec<(String, String)> = settings.into_iter().map(|s| (s.path, s.value)).collect();
            sandbox::change_settings(netns, &settings)
        };
        settings.and_then(write).map_err(|fault| NetworkError::interface(link, fault))
    }
}

/// Nothing but settings of this very link.
fn sysctl(text: &str, link: &str) -> Result<Sysctl, InterfaceFault> {
    let Some((key, value)) = text.split_once('=') else { return Err(InterfaceFault::NoValue(text.to_owned())) };
    let parts: Vec<&str> = key.split('.').collect();
    let [net, family, group, _, setting] = parts[..] else { return Err(InterfaceFault::Form(text.to_owned())) };
    let path = format!("{net}/{family}/{group}/{link}/{setting}");
    let plain = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if net != "net" || ![family, group, setting].iter().all(plain) || link.contains('/') {
        return Err(InterfaceFault::NoSysctl(format!("/proc/sys/{path}")));
    }
    Ok(Sysctl { path, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_taken() {
        let option = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let two = option(SYSCTLS, "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.ifname.accept_ra=0");
        assert!(endpoint_option_problems(&two).is_empty());
        let read: Vec<_> = EndpointOptions::parse(&two).sysctls.iter().map(|text| sysctl(text, "eth0")).collect();
        let second = Sysctl { path: "net/ipv6/conf/eth0/accept_ra".to_owned(), value: "0".to_owned() };
        assert_eq!(read.len(), 2);
        assert!(matches!(&read[1], Ok(found) if *found == second));
        assert_eq!(EndpointOptions::parse(&option(INTERFACE, "wan0")).interface.as_deref(), Some("wan0"));
        assert_eq!(EndpointOptions::parse(&option("other", "x")), EndpointOptions::default());
        for strange in ["", "foo", "net.ipv4.ip_forward=1", "net.ipv4.conf.eth0.x=1", "net.ipv9.conf.IFNAME.x=1"] {
            assert_eq!(endpoint_option_problems(&option(SYSCTLS, strange)).len(), 1, "{strange}");
        }
    }

    #[test]
    fn faults() {
        let text = |setting: &str| sysctl(setting, "eth0").map_err(|fault| fault.to_string()).expect_err("a fault");
        assert_eq!(
            text("net.ipv4.conf.ifname.x"),
            "expected sysctl 'net.ipv4.conf.ifname.x' to have format name=value"
        );
        assert_eq!(
            text("net.ipv4.conf.ifname..=x"),
            "expected sysctl 'net.ipv4.conf.ifname..=x' to have format net.X.Y.IFNAME.Z"
        );
        assert_eq!(text("foo.ipv4.conf.ifname.x=1"), "/proc/sys/foo/ipv4/conf/eth0/x is not a sysctl file");
    }

    proptest! {
        /// Nothing but settings of the link itself can be reached.
        #[test]
        fn no_path_leads_elsewhere(text in ".{0,60}", part in "[./a-zA-Z0-9_-]{0,20}", link in "[./a-z]{1,9}") {
            for text in [text, format!("net.ipv4.conf.IFNAME.{part}=1"), format!("net.{part}.conf.IFNAME.x=1")] {
                if let Ok(Sysctl { path, .. }) = sysctl(&text, &link) {
                    let parts: Vec<&str> = path.split('/').collect();
                    prop_assert_eq!(parts.len(), 5);
                    prop_assert_eq!((parts[0], parts[3]), ("net", link.as_str()));
                    prop_assert!(!parts[1].contains('.') && !parts[2].contains('.') && !parts[4].contains('.'));
                }
            }
        }
    }
}
