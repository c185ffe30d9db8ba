//! Containers, but for their streams.

use bytes::Bytes;
use dockerd_core::container::{ListOptions, RemoveOptions, StopOptions, WaitCondition, list};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::compat;
use crate::context::Context;
use crate::convert::{container, create as convert_create};
use crate::error::ApiError;
use crate::extract::Target;
use crate::model::summary::Summary;
use crate::reply::{self, Reply};
use crate::version::ApiVersion;

type Result = std::result::Result<Reply, ApiError>;

/// What a description is decoded into; its members are told without a name before them.
const CREATE: Target = Target { name: "container.CreateRequest", members_of: "" };
/// Members of a description beside the container's own configuration.
const NO_CONFIG: [&str; 2] = ["HostConfig", "NetworkingConfig"];

fn no_content() -> Result {
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn list(context: Context) -> Result {
    let query = &context.query;
    let limit = query.number::<i64>("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let filters = query.filters(&list::FILTERS)?;
    let options = ListOptions { all: query.flag("all"), limit, size: query.flag("size"), filters };
    let found = context.engine.containers.list(options).await?;
    Ok(reply::ok_list(&found.iter().map(Summary::new).collect::<Vec<_>>()))
}

pub(crate) async fn create(mut context: Context) -> Result {
    let body = context.json_into(CREATE).await?;
    if body.is_missing() {
        return Err(ApiError::bad_request("invalid JSON: got EOF while reading request body"));
    }
    let (name, platform) = (context.query.text("name").to_owned(), context.query.text("platform").to_owned());
    let mut command = convert_create::create(&body, &name, &platform)?;
    if body.keys().all(|key| NO_CONFIG.iter().any(|known| known.eq_ignore_ascii_case(key))) {
        return Err(ApiError::bad_request("config cannot be empty in order to create a container"));
    }
    compat::containers::upgrade_create(context.version, &mut command);
    let created = context.engine.containers.create(command).await?;
    Ok(reply::json(StatusCode::CREATED, &json!({"Id": created.id.as_str(), "Warnings": created.warnings})))
}

pub(crate) async fn inspect(context: Context) -> Result {
    let found = context.engine.containers.inspect(context.name(), context.query.flag("size")).await?;
    Ok(reply::ok(&container::inspect(&found)))
}

pub(crate) async fn top(context: Context) -> Result {
    let asked = context.query.text("ps_args");
    let args = if asked.is_empty() { "-ef" } else { asked };
    let table = context.engine.containers.top(context.name(), args).await?;
    Ok(reply::ok(&json!({"Titles": table.titles, "Processes": table.processes})))
}

pub(crate) async fn changes(context: Context) -> Result {
    let changes = context.engine.containers.changes(context.name()).await?;
    let list: Vec<Value> = changes.iter().map(|c| json!({"Path": c.path, "Kind": c.kind as u8})).collect();
    Ok(reply::ok(&if list.is_empty() { Value::Null } else { json!(list) }))
}

pub(crate) async fn start(mut context: Context) -> Result {
    // Seven bytes are what old clients send for an empty description.
    if context.bytes().await?.len() > 7 {
        return Err(ApiError::bad_request(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    context.engine.containers.start(context.name()).await?;
    no_content()
}

fn stop_options(context: &Context) -> std::result::Result<StopOptions, ApiError> {
    let signal = context.query.text("signal");
    let signal = (!signal.is_empty()).then(|| signal.to_owned());
    // The stock daemon takes what is no number for its own failure.
    let timeout =
        context.query.number("t").map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.message))?;
    Ok(StopOptions { timeout, signal })
}

pub(crate) async fn stop(context: Context) -> Result {
    context.engine.containers.stop(context.name(), stop_options(&context)?).await?;
    no_content()
}

pub(crate) async fn restart(context: Context) -> Result {
    context.engine.containers.restart(context.name(), stop_options(&context)?).await?;
    no_content()
}

pub(crate) async fn kill(context: Context) -> Result {
    let signal = context.query.text("signal");
    let killed = context.engine.containers.kill(context.name(), (!signal.is_empty()).then_some(signal)).await;
    killed.map_err(|error| {
        let ApiError { status, message } = ApiError::from(error);
        ApiError::new(status, format!("cannot kill container: {}: {message}", context.name()))
    })?;
    no_content()
}

pub(crate) async fn pause(context: Context) -> Result {
    context.engine.containers.pause(context.name()).await?;
    no_content()
}

pub(crate) async fn unpause(context: Context) -> Result {
    context.engine.containers.unpause(context.name()).await?;
    no_content()
}

pub(crate) async fn rename(context: Context) -> Result {
    context.engine.containers.rename(context.name(), context.query.text("name")).await?;
    no_content()
}

pub(crate) async fn resize(context: Context) -> Result {
    let (height, width) = size(&context)?;
    context.engine.containers.resize(context.name(), height, width).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// The mandatory `h` and `w`.
pub(crate) fn size(context: &Context) -> std::result::Result<(u16, u16), ApiError> {
    Ok((context.query.size("h", "height")?, context.query.size("w", "width")?))
}

pub(crate) async fn remove(context: Context) -> Result {
    let query = &context.query;
    let options = RemoveOptions { force: query.flag("force"), volumes: query.flag("v"), link: query.flag("link") };
    context.engine.containers.remove(context.name(), options).await?;
    no_content()
}

pub(crate) async fn prune(context: Context) -> Result {
    let filters = context.query.filters(&list::PRUNE_FILTERS)?;
    let report = context.engine.containers.prune(filters).await?;
    let deleted: Vec<&str> = report.deleted.iter().map(|id| id.as_str()).collect();
    let deleted = if deleted.is_empty() { Value::Null } else { json!(deleted) };
    Ok(reply::ok(&json!({"ContainersDeleted": deleted, "SpaceReclaimed": report.space_reclaimed})))
}

/// The status line goes out at once, the body when the container has ended: clients wait before they start.
pub(crate) async fn wait(context: Context) -> Result {
    // Before conditions there was one.
    let known = context.version >= ApiVersion(1, 30);
    let condition = match context.query.text("condition") {
        _ if !known => WaitCondition::NotRunning,
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::bad_request(format!("invalid condition: {other:?}"))),
    };
    let handle = context.engine.containers.wait(context.name(), condition)?;
    let (sender, body) = mpsc::channel(1);
    tokio::spawn(async move {
        let gone = sender.clone();
        tokio::select! {
            result = handle.result() => {
                let mut out = json!({"StatusCode": result.status_code});
                if let Some(error) = result.error {
                    out["Error"] = json!({"Message": error});
                }
                let _ = sender.send(Ok(Bytes::from(format!("{out}\n")))).await;
            }
            () = gone.closed() => {}
        }
    });
    Ok(reply::stream("application/json", body))
}
