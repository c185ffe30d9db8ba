//! Driver options of one endpoint: `--network name=N,driver-opt=KEY=VALUE`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use crate::error::NetworkError;
use crate::link::is_link_name;
use crate::sandbox;

/// The name of the link inside.
const INTERFACE: &str = "com.docker.network.endpoint.ifname";
/// Settings of the link inside, separated by commas.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// Stands for the link's name in them.
const PLACEHOLDER: &str = "IFNAME";

/// What a client asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct EndpointOptions {
    /// Name of the link.
    pub(super) interface: Option<String>,
    /// Paths below `/proc/sys/net` with [`PLACEHOLDER`], and values.
    sysctls: Vec<(String, String)>,
}

impl EndpointOptions {
    /// Reads them; options of others are left alone.
    pub(super) fn parse(options: &BTreeMap<String, String>) -> Result<Self, NetworkError> {
        let interface = options.get(INTERFACE).filter(|name| !name.is_empty()).cloned();
        if let Some(name) = interface.as_deref().filter(|name| !is_inner_name(name)) {
            return Err(NetworkError::EndpointOption(format!("invalid interface name {name:?}")));
        }
        let texts = options.get(SYSCTLS).map(String::as_str).unwrap_or_default().split(',');
        let sysctls = texts.map(str::trim).filter(|text| !text.is_empty()).map(sysctl).collect::<Result<_, _>>()?;
        Ok(Self { interface, sysctls })
    }

    /// Writes the settings of a link of that name. Blocking.
    pub(super) fn apply(&self, netns: &OwnedFd, link: &str) -> Result<(), NetworkError> {
        if self.sysctls.is_empty() {
            return Ok(());
        }
        let of_link = |(path, value): &(String, String)| (path.replace(PLACEHOLDER, link), value.clone());
        sandbox::change_settings(netns, &self.sysctls.iter().map(of_link).collect::<Vec<_>>())
    }
}

fn is_inner_name(name: &str) -> bool {
    name != "lo" && is_link_name(name) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `net.ipv4.conf.IFNAME.log_martians=1`: nothing but settings of this very link.
fn sysctl(text: &str) -> Result<(String, String), NetworkError> {
    let wrong =
        |why: &str| NetworkError::EndpointOption(format!("unrecognised network interface sysctl '{text}'; {why}"));
    let form = || wrong("represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V'");
    let (key, value) = text.split_once('=').ok_or_else(form)?;
    let parts: Vec<&str> = key.split('.').collect();
    let plain = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    match parts[..] {
        ["net", family, group, PLACEHOLDER, setting] if [family, group, setting].iter().all(plain) => {
            if !matches!((family, group), ("ipv4" | "ipv6" | "mpls", "conf" | "neigh")) {
                return Err(wrong("'net.ipv4.', 'net.ipv6.' or 'net.mpls.' followed by 'conf' or 'neigh' is expected"));
            }
            Ok((format!("{family}/{group}/{PLACEHOLDER}/{setting}"), value.to_owned()))
        }
        _ => Err(form()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(key: &str, value: &str) -> Result<EndpointOptions, NetworkError> {
        EndpointOptions::parse(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn what_is_taken() {
        let options =
            parse(SYSCTLS, "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0").expect("two");
        assert_eq!(options.sysctls[1], ("ipv6/conf/IFNAME/accept_ra".to_owned(), "0".to_owned()));
        assert_eq!(parse(INTERFACE, "wan0").expect("name").interface.as_deref(), Some("wan0"));
        assert_eq!(parse("other", "x").expect("not ours"), EndpointOptions::default());
    }

    proptest! {
        /// Nothing but settings of the link itself can be reached.
        #[test]
        fn no_path_leads_elsewhere(text in ".{0,60}", part in "[./a-zA-Z0-9_-]{0,20}") {
            for text in [text, format!("net.ipv4.conf.IFNAME.{part}=1"), format!("net.{part}.conf.IFNAME.x=1")] {
                for (path, _) in parse(SYSCTLS, &text).into_iter().flat_map(|options| options.sysctls) {
                    prop_assert_eq!(path.split('/').count(), 4);
                    prop_assert!(!path.contains(".."));
                }
            }
        }
    }
}
