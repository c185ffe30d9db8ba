//! Networks: the predefined ones without a bridge, until `dockerd-network` has more.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::ApiError;
use crate::reply::{self, Reply};

type Result = std::result::Result<Reply, ApiError>;

fn predefined() -> Vec<Value> {
    let network = |name: &str, driver: &str| {
        json!({
            "Name": name, "Id": name, "Created": "0001-01-01T00:00:00Z", "Scope": "local", "Driver": driver,
            "EnableIPv4": true, "EnableIPv6": false, "IPAM": {"Driver": "default", "Options": null, "Config": null},
            "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": {"Network": ""},
            "ConfigOnly": false, "Containers": {}, "Options": {}, "Labels": {},
        })
    };
    vec![network("host", "host"), network("none", "null")]
}

pub(crate) async fn list(_context: Context) -> Result {
    Ok(reply::ok(&json!(predefined())))
}

pub(crate) async fn inspect(context: Context) -> Result {
    let name = context.name();
    let found = predefined().into_iter().find(|network| network["Name"] == name);
    found
        .map(|network| reply::ok(&network))
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, format!("network {name} not found")))
}
