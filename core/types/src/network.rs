//! Ports, port bindings and what a container says of each network it joins.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// Number or range out of order or out of 1..65535.
    #[error("invalid port specification: \"{0}\"")]
    Spec(String),
    /// A protocol other than tcp, udp, sctp.
    #[error("invalid proto: {0}")]
    Protocol(String),
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A container port with its protocol, `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// Port number, never 0.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl Port {
    /// Parses `80`, `80/tcp`.
    pub fn parse(text: &str) -> Result<Self, InvalidPort> {
        let range = Self::parse_range(text)?;
        if range.len() == 1 { Ok(range[0]) } else { Err(InvalidPort::Spec(text.to_owned())) }
    }

    /// Parses `80`, `80/udp`, `8000-8010/tcp`; never empty.
    pub fn parse_range(text: &str) -> Result<Vec<Self>, InvalidPort> {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(InvalidPort::Protocol(protocol.to_owned())),
        };
        let (first, last) = port_numbers(numbers).ok_or_else(|| InvalidPort::Spec(text.to_owned()))?;
        Ok((first..=last).map(|number| Self { number, protocol }).collect())
    }
}

/// The ends of `a` or `a-b`, 1 to 65535, in order.
fn port_numbers(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.name())
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Which host port a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HostPort {
    /// Any free one.
    Ephemeral,
    /// Exactly this, or the first free one of the range (both ends included).
    Range(u16, u16),
}

impl HostPort {
    /// Parses the API's `HostPort`: empty or `0` for any, `8080`, `8080-8090`.
    pub fn parse(text: &str) -> Result<Self, InvalidPort> {
        if text.is_empty() || text == "0" {
            return Ok(Self::Ephemeral);
        }
        let (first, last) = port_numbers(text).ok_or_else(|| InvalidPort::Spec(text.to_owned()))?;
        Ok(Self::Range(first, last))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ephemeral => Ok(()),
            Self::Range(first, last) if first == last => write!(f, "{first}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// One wish to publish a container port, as the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortBinding {
    /// Host address; `None` is all addresses of both families.
    pub host_ip: Option<IpAddr>,
    /// Host port wanted.
    pub host_port: HostPort,
}

/// One published port as it really is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The container's side.
    pub container_port: Port,
    /// Host address listened on (`0.0.0.0`, `::`, or the one asked for).
    pub host_ip: IpAddr,
    /// Host port.
    pub host_port: u16,
}

/// Wishes by container port.
pub type PortBindings = BTreeMap<Port, Vec<PortBinding>>;

/// What a client asked of one network attachment (Docker API, `EndpointSettings`, input fields).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConfig {
    /// Static IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Static IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Extra link-local addresses.
    pub link_local: Vec<IpAddr>,
    /// Extra DNS names on this network.
    pub aliases: Vec<String>,
    /// Legacy links, `name:alias`.
    pub links: Vec<String>,
    /// Driver options.
    pub driver_opts: BTreeMap<String, String>,
    /// Wanted MAC address, text form.
    pub mac_address: Option<String>,
    /// Which endpoint gives the default route: highest wins.
    pub gw_priority: i64,
    /// What was written where addresses belong and is none: refused with everything else that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableAddress>,
    /// Fields the client wrote with nothing in them, which are shown so and not as null.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub empty_fields: BTreeSet<String>,
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableAddress {
    /// What should have been there.
    pub kind: AddressKind,
    /// As written.
    pub text: String,
}

/// Addresses an endpoint may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressKind {
    /// Of IPv4.
    Ipv4,
    /// Of IPv6.
    Ipv6,
    /// Link-local, of either family.
    LinkLocal,
}

/// One attachment as it really is, while the container runs (Docker API, `EndpointSettings`, output fields).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointState {
    /// The network's id.
    pub network_id: crate::NetworkId,
    /// The network's name at connect time.
    pub network_name: String,
    /// The endpoint's id.
    pub endpoint_id: crate::EndpointId,
    /// IPv4 address and prefix length.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// IPv4 gateway.
    pub gateway4: Option<Ipv4Addr>,
    /// IPv6 address and prefix length.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// IPv6 gateway.
    pub gateway6: Option<Ipv6Addr>,
    /// MAC address, text form.
    pub mac_address: String,
    /// Interface name inside the container.
    pub interface: String,
    /// Names the embedded DNS answers for this endpoint.
    pub dns_names: Vec<String>,
}

impl EndpointState {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.ipv4.map(|(address, _)| IpAddr::V4(address));
        ipv4.into_iter().chain(self.ipv6.map(|(address, _)| IpAddr::V6(address)))
    }

    /// The same with the bits of their prefixes.
    pub fn prefixed_addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let ipv4 = self.ipv4.map(|(address, prefix)| (IpAddr::V4(address), prefix));
        ipv4.into_iter().chain(self.ipv6.map(|(address, prefix)| (IpAddr::V6(address), prefix)))
    }

    /// Where its default routes would lead, IPv4 first.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.gateway4.map(IpAddr::V4).into_iter().chain(self.gateway6.map(IpAddr::V6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_parse() {
        assert_eq!(Port::parse("80").map(|p| p.to_string()), Ok("80/tcp".to_owned()));
        assert_eq!(Port::parse_range("10-12/UDP").map(|p| p.len()), Ok(3));
        for bad in ["", "0", "65536", "5-4", "a", "1/xyz", "1-2-3"] {
            assert!(Port::parse_range(bad).is_err(), "{bad}");
        }
        assert_eq!(HostPort::parse(""), Ok(HostPort::Ephemeral));
        assert_eq!(HostPort::parse("8-9"), Ok(HostPort::Range(8, 9)));
    }
}
