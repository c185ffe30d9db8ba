//! A plugin that gives addresses: pools for networks, and addresses of these pools.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::RemoteError;
use super::ledger::HeldAddress;
use crate::ipam::Subnet;
use crate::plugins::{Answer, IPAM_DRIVER, IpamCapabilities, PluginError, PluginMethod, Plugins};

/// What a pool's data may say of its gateway.
const GATEWAY: &str = "com.docker.network.gateway";
/// Says what an address is for.
const PURPOSE: &str = "RequestAddressType";

const fn method(name: &'static str, target: &'static str) -> PluginMethod {
    PluginMethod { kind: IPAM_DRIVER, name, target }
}

const ADDRESS_SPACES: PluginMethod = method("IpamDriver.GetDefaultAddressSpaces", "api.GetAddressSpacesResponse");
const REQUEST_POOL: PluginMethod = method("IpamDriver.RequestPool", "api.RequestPoolResponse");
const RELEASE_POOL: PluginMethod = method("IpamDriver.ReleasePool", "api.ReleasePoolResponse");
const REQUEST_ADDRESS: PluginMethod = method("IpamDriver.RequestAddress", "api.RequestAddressResponse");
const RELEASE_ADDRESS: PluginMethod = method("IpamDriver.ReleaseAddress", "api.ReleaseAddressResponse");

/// A plugin that gives addresses.
#[derive(Debug, Clone)]
pub struct RemoteIpam {
    plugins: Arc<Plugins>,
    name: String,
}

/// A pool asked for; empty texts are the plugin's to choose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolRequest {
    /// Its subnet.
    pub subnet: String,
    /// The part of it that addresses are drawn from.
    pub range: String,
    /// The gateway.
    pub gateway: String,
    /// Addresses that are others', by name.
    pub auxiliary: BTreeMap<String, String>,
    /// Whether it is of IPv6.
    pub ipv6: bool,
    /// Whether it needs a gateway that is not asked for.
    pub needs_gateway: bool,
}

/// A pool that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotePool {
    /// The plugin's name of it.
    pub id: String,
    /// The address space it is of.
    pub space: String,
    /// Its subnet.
    pub subnet: Subnet,
    /// The gateway's address.
    pub gateway: Option<IpAddr>,
    /// Addresses that were reserved, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl RemotePool {
    /// Addresses of it that are nobody's.
    fn reserved(&self) -> impl Iterator<Item = IpAddr> {
        self.gateway.into_iter().chain(self.auxiliary.values().copied())
    }
}

type Result<T> = std::result::Result<T, RemoteError>;

impl RemoteIpam {
    /// The one of that name.
    pub fn new(plugins: Arc<Plugins>, name: String) -> Self {
        Self { plugins, name }
    }

    /// What it needs; fails if it is not there.
    pub fn capabilities(&self) -> std::result::Result<IpamCapabilities, PluginError> {
        self.plugins.ipam_driver(&self.name)
    }

    fn call(&self, method: PluginMethod, request: Option<Value>) -> Result<Answer> {
        let answer = self.plugins.call(&self.name, method, request.as_ref())?;
        answer.refused("Error")?;
        Ok(answer)
    }

    /// The address space of networks of this host, or of all hosts.
    pub fn address_space(&self, global: bool) -> Result<String> {
        let wrong = |error| RemoteError::NoAddressSpace(Box::new(error));
        let answer = self.call(ADDRESS_SPACES, None).map_err(wrong)?;
        let member = if global { "GlobalDefaultAddressSpace" } else { "LocalDefaultAddressSpace" };
        answer.text(member).map_err(|error| wrong(error.into()))
    }

    /// Takes pools for a network, with their gateways and what is reserved of them. Nothing is kept on failure.
    pub fn take_pools(
        &self,
        space: &str,
        requests: &[PoolRequest],
        options: &BTreeMap<String, String>,
    ) -> Result<Vec<RemotePool>> {
        let mut taken = Vec::new();
        for request in requests {
            if let Err(error) = self.take_pool(space, request, options, &mut taken) {
                self.release_pools(&taken);
                return Err(error);
            }
        }
        Ok(taken)
    }

    fn take_pool(
        &self,
        space: &str,
        request: &PoolRequest,
        options: &BTreeMap<String, String>,
        taken: &mut Vec<RemotePool>,
    ) -> Result<()> {
        let asked = json!({
            "AddressSpace": space,
            "Pool": request.subnet,
            "SubPool": request.range,
            "Options": options,
            "V6": request.ipv6,
        });
        let answer = self.call(REQUEST_POOL, Some(asked))?;
        let (id, subnet) = (answer.text("PoolID")?, answer.text("Pool")?);
        let parsed = subnet_of(&subnet, request.ipv6);
        let data = answer.named_texts("Data");
        let (space, auxiliary) = (space.to_owned(), BTreeMap::new());
        let pool = match (parsed, data) {
            (Ok(subnet), Ok(_)) => RemotePool { id, space, subnet, gateway: None, auxiliary },
            (parsed, data) => {
                self.release_pool(&id);
                parsed?;
                return data.map(drop).map_err(RemoteError::from);
            }
        };
        taken.push(pool);
        let Some(pool) = taken.last_mut() else { return Ok(()) };
        let given = answer.named_texts("Data")?.remove(GATEWAY).filter(|_| request.gateway.is_empty());
        if let Some(text) = given {
            pool.gateway = Some(address_of(&text, request.ipv6)?.0);
        } else if !request.gateway.is_empty() || request.needs_gateway {
            let options = json!({PURPOSE: GATEWAY});
            let gateway = self.take_address(&pool.id, &request.gateway, options, request.ipv6);
            let asked = request.gateway.clone();
            pool.gateway = Some(gateway.map_err(|error| RemoteError::NoGateway { asked, source: Box::new(error) })?.0);
        }
        for (name, text) in &request.auxiliary {
            let inside = text.parse::<IpAddr>().ok().filter(|address| pool.subnet.contains(*address));
            let Some(address) = inside else { continue };
            let reserved = self.take_address(&pool.id, text, Value::Null, request.ipv6);
            reserved.map_err(|error| RemoteError::NoAuxiliary {
                name: name.clone(),
                address: text.clone(),
                source: Box::new(error),
            })?;
            pool.auxiliary.insert(name.clone(), address);
        }
        Ok(())
    }

    /// Gives pools back with what is reserved of them. What fails is logged; whether the plugin was reached.
    pub fn release_pools(&self, pools: &[RemotePool]) -> bool {
        let mut reached = true;
        for pool in pools {
            for address in pool.reserved() {
                reached &= self.release_address(&pool.id, address);
            }
            reached &= self.release_pool(&pool.id);
        }
        reached
    }

    fn release_pool(&self, id: &str) -> bool {
        self.settled(id, self.call(RELEASE_POOL, Some(json!({"PoolID": id}))))
    }

    /// Takes an address of a pool: the one asked for, or any.
    pub(super) fn take_address(&self, pool: &str, asked: &str, options: Value, ipv6: bool) -> Result<(IpAddr, u8)> {
        let request = json!({"PoolID": pool, "Address": asked, "Options": options});
        let text = self.call(REQUEST_ADDRESS, Some(request))?.text("Address")?;
        if text.is_empty() {
            return Err(PluginError::NoAddress.into());
        }
        address_of(&text, ipv6).inspect_err(|_| {
            // It may be that the plugin holds it for us under this text.
            let _ = self.call(RELEASE_ADDRESS, Some(json!({"PoolID": pool, "Address": text})));
        })
    }

    pub(super) fn release_address(&self, pool: &str, address: IpAddr) -> bool {
        self.settled(pool, self.call(RELEASE_ADDRESS, Some(json!({"PoolID": pool, "Address": address.to_string()}))))
    }

    /// Whether the plugin heard of it; what it says against it is logged.
    fn settled(&self, pool: &str, outcome: Result<Answer>) -> bool {
        let Err(error) = outcome else { return true };
        tracing::warn!(driver = self.name, pool, %error, "an address or a pool could not be given back");
        !matches!(error, RemoteError::Plugin(error) if error.is_away())
    }

    /// Tells a plugin that forgets what is in use: the pools of a network, and the addresses of its containers.
    pub fn replay(
        &self,
        pools: &[(RemotePool, String)],
        options: &BTreeMap<String, String>,
        held: &[HeldAddress],
    ) -> Result<()> {
        if !self.capabilities()?.requires_replay {
            return Ok(());
        }
        for (pool, range) in pools {
            let asked = json!({
                "AddressSpace": pool.space,
                "Pool": pool.subnet.to_string(),
                "SubPool": range,
                "Options": options,
                "V6": pool.subnet.is_ipv6(),
            });
            self.call(REQUEST_POOL, Some(asked))?;
            let gateway = pool.gateway.map(|gateway| (gateway, json!({PURPOSE: GATEWAY})));
            let auxiliary = pool.auxiliary.values().map(|address| (*address, Value::Null));
            let ours = held.iter().filter(|held| held.pool == pool.id).map(|held| (held.address, Value::Null));
            for (address, options) in gateway.into_iter().chain(auxiliary).chain(ours) {
                let request = json!({"PoolID": pool.id, "Address": address.to_string(), "Options": options});
                self.call(REQUEST_ADDRESS, Some(request))?;
            }
        }
        Ok(())
    }
}

/// A subnet of that family; what it has beyond its prefix does not matter.
fn subnet_of(text: &str, ipv6: bool) -> Result<Subnet> {
    let wrong = |why: &str| RemoteError::Prefix { text: text.to_owned(), why: why.to_owned() };
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| wrong("no '/'"))?;
    let unable = || wrong(&format!("ParseAddr({address:?}): unable to parse IP"));
    let address: IpAddr = address.parse().map_err(|_| unable())?;
    let bits: u8 = bits.parse().map_err(|_| wrong(&format!("bad bits after slash: {bits:?}")))?;
    let subnet = Subnet::containing(address, bits).ok_or_else(|| wrong("prefix length out of range"))?;
    of_family(text, address, ipv6)?;
    Ok(subnet)
}

/// An address of that family with the length of its prefix.
pub(super) fn address_of(text: &str, ipv6: bool) -> Result<(IpAddr, u8)> {
    let parsed = Subnet::parse_with_address(text).map_err(|_| RemoteError::Cidr(text.to_owned()));
    let (address, subnet) = parsed?;
    of_family(text, address, ipv6)?;
    Ok((address, subnet.prefix()))
}

fn of_family(text: &str, address: IpAddr, ipv6: bool) -> Result<()> {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    if address.is_ipv6() == ipv6 { Ok(()) } else { Err(RemoteError::Family { text: text.to_owned(), family }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_stock_daemons() {
        let pool = |text| subnet_of(text, false).map(|subnet| subnet.to_string()).map_err(|error| error.to_string());
        assert_eq!(pool("10.9.0.5/24"), Ok("10.9.0.0/24".to_owned()));
        for (text, wanted) in [
            ("", "netip.ParsePrefix(\"\"): no '/'"),
            ("nonsense", "netip.ParsePrefix(\"nonsense\"): no '/'"),
            ("x/24", "netip.ParsePrefix(\"x/24\"): ParseAddr(\"x\"): unable to parse IP"),
            ("10.0.0.0/99", "netip.ParsePrefix(\"10.0.0.0/99\"): prefix length out of range"),
            ("fd00::/64", "invalid address fd00::/64: it is not of IPv4"),
        ] {
            assert_eq!(pool(text), Err(wanted.to_owned()));
        }
        let address = |text| address_of(text, false).map_err(|error| error.to_string());
        assert_eq!(address("10.77.0.1"), Err("invalid CIDR address: 10.77.0.1".to_owned()));
        assert_eq!(address("10.77.0.1/24"), Ok(([10, 77, 0, 1].into(), 24)));
        let refused = RemoteError::Plugin(PluginError::Refused("no".to_owned()));
        let gateway = RemoteError::NoGateway { asked: String::new(), source: Box::new(refused) };
        assert_eq!(gateway.to_string(), "failed to allocate gateway (): remote: no");
    }
}
