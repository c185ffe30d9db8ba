//! The link a plugin made for a container: what `Join` answered.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::RemoteError;
use crate::ipam::Subnet;
use crate::plugins::Answer;
use crate::sandbox::INNER_PREFIX;

/// What the container gets of a plugin's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvidedLink {
    /// Name of the link in the host's namespace; `None`: there is none.
    pub source: Option<String>,
    /// What its name inside begins with.
    pub prefix: String,
    /// Gateways, IPv4 first.
    pub gateways: [Option<IpAddr>; 2],
    /// Further routes.
    pub routes: Vec<ProvidedRoute>,
    /// Whether the container is to have no way out but these (`DisableGatewayService`).
    #[serde(default)]
    pub forgoes_gateway: bool,
}

/// A route of a plugin's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvidedRoute {
    /// Whither.
    pub destination: Subnet,
    /// By whom; `None`: everybody there is on the link.
    pub hop: Option<IpAddr>,
}

impl ProvidedRoute {
    /// Whether it leads everywhere.
    pub(crate) fn is_default(&self) -> bool {
        self.destination.prefix() == 0
    }
}

impl ProvidedLink {
    /// Reads the answer.
    pub(crate) fn read(answer: &Answer) -> Result<Self, RemoteError> {
        let names = answer.object("InterfaceName", "api.InterfaceName")?.unwrap_or_default();
        let (source, prefix) = (names.text("SrcName")?, names.text("DstPrefix")?);
        let gateway = |member: &'static str| {
            let text = answer.text(member)?;
            let read = |text: &str| text.parse().map_err(|_| RemoteError::Gateway { member, text: text.to_owned() });
            (!text.is_empty()).then(|| read(&text)).transpose()
        };
        let routes = answer.objects("StaticRoutes", "api.StaticRoute")?;
        Ok(Self {
            source: (!source.is_empty()).then_some(source),
            prefix: if prefix.is_empty() { INNER_PREFIX.to_owned() } else { prefix },
            gateways: [gateway("Gateway")?, gateway("GatewayIPv6")?],
            routes: routes.iter().map(route).collect::<Result<_, _>>()?,
            forgoes_gateway: answer.flag("DisableGatewayService")?,
        })
    }

    /// Whether it is a way out of a family by a route that leads everywhere.
    pub(crate) fn default_route(&self, ipv6: bool) -> Option<&ProvidedRoute> {
        self.routes.iter().find(|route| route.is_default() && route.destination.is_ipv6() == ipv6)
    }
}

fn route(answer: &Answer) -> Result<ProvidedRoute, RemoteError> {
    let text = answer.text("Destination")?;
    let (_, destination) = Subnet::parse_with_address(&text).map_err(|_| RemoteError::Cidr(text.clone()))?;
    let by_hop = answer.number("RouteType")? == 0;
    let hop = answer.text("NextHop")?;
    let read = |text: &str| text.parse().map_err(|_| RemoteError::NextHop(text.to_owned()));
    let hop = (!hop.is_empty()).then(|| read(&hop)).transpose()?;
    if by_hop && hop.is_none() {
        let why = "numerical result out of range".to_owned();
        return Err(RemoteError::Route { destination: text, hop: Some("<nil>".to_owned()), why });
    }
    Ok(ProvidedRoute { destination, hop: hop.filter(|_| by_hop) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<ProvidedLink, String> {
        let answer = Answer::parse(body.as_bytes(), "api.JoinResponse").map_err(|error| error.to_string())?;
        ProvidedLink::read(&answer).map_err(|error| error.to_string())
    }

    #[test]
    fn answers() {
        let nothing = read("{}").expect("nothing");
        assert_eq!((nothing.source, nothing.prefix.as_str(), nothing.forgoes_gateway), (None, "eth", false));
        let all = read(
            r#"{"InterfaceName":{"SrcName":"v0","DstPrefix":"net"},"Gateway":"10.0.0.1","GatewayIPv6":"fd00::1",
            "StaticRoutes":[{"Destination":"10.5.0.0/16","RouteType":0,"NextHop":"10.0.0.7"},
            {"Destination":"0.0.0.0/0","RouteType":1}],"DisableGatewayService":true}"#,
        )
        .expect("all");
        assert_eq!((all.source.as_deref(), all.prefix.as_str(), all.forgoes_gateway), (Some("v0"), "net", true));
        assert_eq!(all.routes.len(), 2);
        assert!(all.default_route(false).is_some_and(|route| route.hop.is_none()) && all.default_route(true).is_none());
    }

    #[test]
    fn texts_are_the_stock_daemons() {
        for (body, wanted) in [
            (r#"{"Gateway":"nonsense"}"#, "unable to parse Gateway \"nonsense\""),
            (r#"{"GatewayIPv6":"x"}"#, "unable to parse GatewayIPv6 \"x\""),
            (r#"{"StaticRoutes":[{"Destination":"x"}]}"#, "invalid CIDR address: x"),
            (r#"{"StaticRoutes":[{"Destination":"10.1.0.0/16","NextHop":"z"}]}"#, "failed to parse nexthop IP z"),
        ] {
            assert_eq!(read(body), Err(wanted.to_owned()), "{body}");
        }
    }
}
