//! Volumes.

use dockerd_core::volumes::{FILTERS, PRUNE_FILTERS, Volume};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::ApiError;
use crate::extract::Target;
use crate::reply::{self, Reply};
use crate::version::ApiVersion;

type Result = std::result::Result<Reply, ApiError>;

/// Before this version prune took named volumes too.
const PRUNES_ANONYMOUS_SINCE: ApiVersion = ApiVersion(1, 42);

pub(crate) fn describe(volume: &Volume) -> Value {
    let null_if_empty = |map: &std::collections::BTreeMap<String, String>| {
        if map.is_empty() { Value::Null } else { json!(map) }
    };
    json!({
        "CreatedAt": format!("{}Z", volume.created.rfc3339_nano().split(['.', 'Z']).next().unwrap_or_default()),
        "Driver": "local",
        "Labels": null_if_empty(&volume.labels),
        "Mountpoint": volume.mountpoint.to_string_lossy(),
        "Name": volume.name,
        "Options": null_if_empty(&volume.options),
        "Scope": "local",
    })
}

pub(crate) async fn list(context: Context) -> Result {
    let filters = context.query.filters(&FILTERS)?;
    let volumes = context.engine.volumes.list(&filters)?;
    let volumes: Vec<Value> = volumes.iter().map(|volume| describe(volume)).collect();
    Ok(reply::ok(&json!({"Volumes": volumes, "Warnings": null})))
}

pub(crate) async fn create(mut context: Context) -> Result {
    let body = context.json_into(Target { name: "volume.CreateOptions", members_of: "CreateOptions" }).await?;
    let (name, driver) = (body.text("Name")?, body.text("Driver")?);
    let (options, labels) = (body.map("DriverOpts")?, body.map("Labels")?);
    let volumes = context.engine.volumes.clone();
    let made = tokio::task::spawn_blocking(move || volumes.create(Some(&name), &driver, options, labels)).await;
    let volume = made.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
    Ok(reply::json(StatusCode::CREATED, &describe(&volume)))
}

pub(crate) async fn inspect(context: Context) -> Result {
    Ok(reply::ok(&describe(&*context.engine.volumes.inspect(context.name())?)))
}

pub(crate) async fn remove(context: Context) -> Result {
    let (volumes, name, force) =
        (context.engine.volumes.clone(), context.name().to_owned(), context.query.flag("force"));
    let removed = tokio::task::spawn_blocking(move || volumes.remove(&name, force)).await;
    removed.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn prune(context: Context) -> Result {
    let filters = context.query.filters(&PRUNE_FILTERS)?;
    let all = context.version < PRUNES_ANONYMOUS_SINCE;
    let volumes = context.engine.volumes.clone();
    let pruned = tokio::task::spawn_blocking(move || volumes.prune(&filters, all)).await;
    let (names, bytes) =
        pruned.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
    Ok(reply::ok(&json!({"VolumesDeleted": names, "SpaceReclaimed": bytes})))
}
