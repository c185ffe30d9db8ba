//! Networks. Only the predefined ones exist yet.

use dockerd_core::network::service::FILTERS;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::context::Context;
use crate::convert;
use crate::error::ApiError;
use crate::reply::{self, Reply};

type Result = std::result::Result<Reply, ApiError>;

pub(crate) async fn list(context: Context) -> Result {
    let filters = context.query.filters(&FILTERS)?;
    let networks: Vec<Value> = context.engine.networks.list(&filters).iter().map(convert::network::network).collect();
    Ok(reply::ok(&json!(networks)))
}

pub(crate) async fn inspect(context: Context) -> Result {
    let view = context.engine.networks.inspect(context.name())?;
    Ok(reply::ok(&convert::network::network(&view)))
}

pub(crate) async fn remove(context: Context) -> Result {
    context.engine.networks.remove(context.name())?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Predefined networks are never pruned.
pub(crate) async fn prune(context: Context) -> Result {
    context.query.filters(&["label", "label!", "until"])?;
    Ok(reply::ok(&json!({"NetworksDeleted": null})))
}
