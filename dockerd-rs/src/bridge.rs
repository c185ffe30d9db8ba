//! Settings of the default bridge and of the addresses networks are made of, from flags and file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use dockerd_core::config::{AddressPool, BridgeChoice, FirewallBackend, HostPolicy, NetworkConfig, Subnet};
use serde_json::Value;

use crate::config::{ConfigError, Settings};

/// Settings of the default bridge.
pub(crate) fn network(settings: &Settings) -> Result<NetworkConfig, ConfigError> {
    let text = |key: &str| settings.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let flag = |key: &str, default: bool| settings.get(key).and_then(Value::as_bool).unwrap_or(default);
    let invalid = |error: &dyn std::fmt::Display| ConfigError::Value(error.to_string());
    let defaults = NetworkConfig::default();
    let bridge = match text("bridge") {
        None => BridgeChoice::Default,
        Some("none") => BridgeChoice::None,
        Some(name) => BridgeChoice::Existing(name.to_owned()),
    };
    let ipv6 = flag("ipv6", false);
    let subnet = |key: &str, ipv6: bool| -> Result<Option<(IpAddr, Subnet)>, ConfigError> {
        let parsed = text(key).map(Subnet::parse_with_address).transpose().map_err(|e| invalid(&e))?;
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let wrong = || ConfigError::Value(format!("{key}: an {family} network is expected"));
        parsed.map(|found| (found.1.is_ipv6() == ipv6).then_some(found).ok_or_else(wrong)).transpose()
    };
    let bip = subnet("bip", false)?;
    if text("bridge").is_some() && bip.is_some() {
        let why = "You specified -b & --bip, mutually exclusive options. Please specify only one";
        return Err(ConfigError::Value(why.to_owned()));
    }
    let mtu = settings.get("mtu").and_then(Value::as_i64).filter(|mtu| *mtu != 0);
    let mtu = mtu.map(|mtu| u32::try_from(mtu).map_err(|_| ConfigError::Value(format!("invalid default MTU: {mtu}"))));
    Ok(NetworkConfig {
        bridge,
        bip,
        fixed_cidr: subnet("fixed-cidr", false)?.map(|(_, subnet)| subnet),
        default_gateway: address(text("default-gateway"), "default-gateway")?,
        ipv6,
        bip6: subnet("bip6", true)?.filter(|_| ipv6),
        fixed_cidr_v6: subnet("fixed-cidr-v6", true)?.map(|(_, subnet)| subnet).filter(|_| ipv6),
        default_gateway_v6: address(text("default-gateway-v6"), "default-gateway-v6")?.filter(|_| ipv6),
        mtu: mtu.transpose()?.unwrap_or(defaults.mtu),
        icc: flag("icc", true),
        publish_address: address(text("ip"), "ip")?.unwrap_or(defaults.publish_address),
        ip_forward: flag("ip-forward", true),
        ip_forward_no_drop: flag("ip-forward-no-drop", false),
        masquerade: flag("ip-masq", true),
        firewall: flag("iptables", true),
        firewall_ipv6: flag("ip6tables", true),
        firewall_backend: match text("firewall-backend") {
            Some("iptables") => Some(FirewallBackend::Iptables),
            Some("nftables") => Some(FirewallBackend::Nftables),
            _ => None,
        },
        host_policy: match flag("firewall-honour-host", false) {
            true => HostPolicy::Honoured { senders: true },
            false => HostPolicy::Bypassed,
        },
        userland_proxy: flag("userland-proxy", true),
        direct_routing: flag("allow-direct-routing", false),
        pools: pools(settings)?.unwrap_or(defaults.pools),
        driver_options: driver_options(settings),
    })
}

/// `default-network-opts`: options by driver. Whether each is a text was checked with the settings' kinds.
fn driver_options(settings: &Settings) -> BTreeMap<String, BTreeMap<String, String>> {
    let texts = |options: &Value| -> BTreeMap<String, String> {
        let pairs = options.as_object().into_iter().flatten();
        pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    };
    let drivers = settings.get("default-network-opts").and_then(Value::as_object).into_iter().flatten();
    drivers.map(|(driver, options)| (driver.clone(), texts(options))).collect()
}

/// An address of the family asked for.
fn address<A: FromStr>(text: Option<&str>, key: &str) -> Result<Option<A>, ConfigError> {
    let wrong = |text: &str| ConfigError::Value(format!("{key}: invalid address {text}"));
    text.map(|text| text.parse().map_err(|_| wrong(text))).transpose()
}

/// `default-address-pools`; `None` when there are none.
fn pools(settings: &Settings) -> Result<Option<Vec<AddressPool>>, ConfigError> {
    let Some(list) = settings.get("default-address-pools").and_then(Value::as_array).filter(|l| !l.is_empty()) else {
        return Ok(None);
    };
    let pool = |entry: &Value| {
        let base: Subnet = entry.get("base")?.as_str()?.parse().ok()?;
        let size = u8::try_from(entry.get("size")?.as_u64()?).ok()?;
        (size >= base.prefix() && size <= base.prefix() + base.rest()).then_some(AddressPool { base, size })
    };
    let wrong = |entry: &Value| ConfigError::Value(format!("invalid default address pool: {entry}"));
    list.iter().map(|entry| pool(entry).ok_or_else(|| wrong(entry))).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::flags::by_name;

    #[test]
    fn settings_of_the_bridge() {
        let network = |args: &[&str]| {
            let given = Cli::parse(args).expect("flags").set;
            let keyed = |(name, value): (&str, Value)| Some((by_name(name)?.key.to_owned(), value));
            network(&given.into_iter().filter_map(keyed).collect())
        };
        let config =
            network(&["--bip", "10.7.0.1/24", "--fixed-cidr", "10.7.0.128/25", "--icc=false", "--mtu", "1400"]);
        let config = config.expect("valid");
        assert_eq!(
            config.bip.map(|(address, net)| format!("{address} {net}")).as_deref(),
            Some("10.7.0.1 10.7.0.0/24")
        );
        assert_eq!((config.icc, config.mtu, config.masquerade, config.firewall), (false, 1400, true, true));
        let config = network(&["--bridge", "none", "--iptables=false", "--userland-proxy=false", "--ip", "127.0.0.1"]);
        let config = config.expect("valid");
        assert_eq!((config.bridge, config.firewall, config.userland_proxy), (BridgeChoice::None, false, false));
        assert_eq!(config.publish_address, IpAddr::from([127, 0, 0, 1]));
        assert_eq!((config.firewall_backend, config.host_policy), (None, HostPolicy::Bypassed));
        let config = network(&["--firewall-backend=iptables", "--firewall-honour-host"]).expect("valid");
        assert_eq!(
            (config.firewall_backend, config.host_policy),
            (Some(FirewallBackend::Iptables), HostPolicy::Honoured { senders: true })
        );
        let config = network(&["--default-address-pool", "base=10.0.0.0/8,size=24"]).expect("valid");
        assert_eq!(config.pools.len(), 1);
        let config = network(&["--default-network-opt", "bridge=com.docker.network.driver.mtu=1234"]).expect("valid");
        assert_eq!(config.driver_options["bridge"]["com.docker.network.driver.mtu"], "1234");
        for wrong in [
            &["--bip", "10.0.0.1"][..],
            &["--bridge", "b", "--bip", "10.0.0.1/8"],
            &["--default-gateway", "::1"],
            &["--mtu", "-5"],
        ] {
            assert!(network(wrong).is_err(), "{wrong:?}");
        }
    }
}
