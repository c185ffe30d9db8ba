//! Networks.

use dockerd_core::network::service::{FILTERS, PRUNE_FILTERS};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::context::Context;
use crate::convert;
use crate::error::ApiError;
use crate::extract::Target;
use crate::model::network::network;
use crate::reply::{self, Reply};

type Result = std::result::Result<Reply, ApiError>;

const CREATE: Target = Target { name: "network.CreateRequest", members_of: "CreateRequest" };
const CONNECT: Target = Target { name: "network.ConnectOptions", members_of: "ConnectOptions" };
const DISCONNECT: Target = Target { name: "network.DisconnectOptions", members_of: "DisconnectOptions" };

pub(crate) async fn list(context: Context) -> Result {
    let filters = context.query.filters(&FILTERS)?;
    let networks = context.engine.networks.list(&filters)?;
    Ok(reply::ok_list(&networks.iter().map(network).collect::<Vec<_>>()))
}

pub(crate) async fn create(mut context: Context) -> Result {
    let body = context.json_into(CREATE).await?;
    let id = context.engine.networks.create(convert::network::create(&body)?).await?;
    Ok(reply::json(StatusCode::CREATED, &json!({"Id": id.as_str(), "Warning": ""})))
}

pub(crate) async fn connect(mut context: Context) -> Result {
    let body = context.json_into(CONNECT).await?;
    let (container, endpoint) = convert::network::connect(&body)?;
    named(&container)?;
    context.engine.networks.connect(context.name(), &container, endpoint).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn disconnect(mut context: Context) -> Result {
    let body = context.json_into(DISCONNECT).await?;
    let (container, force) = (body.text("Container")?, body.flag("Force")?);
    if container.is_empty() {
        return Err(ApiError::bad_request("invalid name: name is empty"));
    }
    context.engine.networks.disconnect(context.name(), &container, force).await?;
    Ok(reply::empty(StatusCode::OK))
}

fn named(container: &str) -> std::result::Result<(), ApiError> {
    if container.is_empty() {
        return Err(ApiError::bad_request("invalid name or ID supplied: \"\""));
    }
    Ok(())
}

pub(crate) async fn inspect(context: Context) -> Result {
    let view = context.engine.networks.inspect(context.name())?;
    Ok(reply::ok_ordered(&network(&view)))
}

pub(crate) async fn remove(context: Context) -> Result {
    context.engine.networks.remove(context.name()).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn prune(context: Context) -> Result {
    let filters = context.query.filters(&PRUNE_FILTERS)?;
    let names = context.engine.networks.prune(&filters).await?;
    let deleted = if names.is_empty() { Value::Null } else { json!(names) };
    Ok(reply::ok(&json!({"NetworksDeleted": deleted})))
}
