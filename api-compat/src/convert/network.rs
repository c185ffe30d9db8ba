//! Requests about networks, from the API's words.

use dockerd_core::network::{CreateNetwork, CreatePool};
use dockerd_types::network::EndpointConfig;

use super::create::endpoint;
use crate::error::ApiError;
use crate::extract::Object;

/// The body of `POST /networks/create`.
pub(crate) fn create(body: &Object) -> Result<CreateNetwork, ApiError> {
    let ipam = body.object("IPAM")?;
    Ok(CreateNetwork {
        name: body.text("Name")?,
        driver: body.text("Driver")?,
        scope: body.text("Scope")?,
        enable_ipv4: body.optional_flag("EnableIPv4")?,
        enable_ipv6: body.optional_flag("EnableIPv6")?,
        internal: body.flag("Internal")?,
        attachable: body.flag("Attachable")?,
        ingress: body.flag("Ingress")?,
        config_only: body.flag("ConfigOnly")?,
        config_from: body.object("ConfigFrom")?.text("Network")?,
        ipam_driver: ipam.text("Driver")?,
        ipam_options: ipam.has("Options").then(|| ipam.map("Options")).transpose()?,
        pools: ipam.objects("Config")?.iter().map(create_pool).collect::<Result<_, _>>()?,
        options: body.map("Options")?,
        labels: body.map("Labels")?,
    })
}

fn create_pool(pool: &Object) -> Result<CreatePool, ApiError> {
    Ok(CreatePool {
        subnet: pool.text("Subnet")?,
        range: pool.text("IPRange")?,
        gateway: pool.text("Gateway")?,
        auxiliary: pool.map("AuxiliaryAddresses")?,
    })
}

/// The body of `POST /networks/{id}/connect`: the container, and what it asks.
pub(crate) fn connect(body: &Object) -> Result<(String, EndpointConfig), ApiError> {
    Ok((body.text("Container")?, endpoint(&body.object("EndpointConfig")?)?))
}
