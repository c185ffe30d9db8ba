//! The daemon itself.

use dockerd_core::EngineFacts;
use dockerd_core::system::df::DiskUsageOptions;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderValue, PRAGMA};
use serde_json::json;

use crate::compat;
use crate::context::Context;
use crate::convert;
use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::version::{NEWEST, OLDEST};

/// What `df` can be asked for.
const DF_TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

type Result = std::result::Result<Reply, ApiError>;

pub(crate) async fn ping(context: Context) -> Result {
    let head = context.request.method() == hyper::Method::HEAD;
    let mut response = reply::text(if head { "" } else { "OK" });
    let headers = response.headers_mut();
    if head {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    // The classic builder until BuildKit is there: clients choose by this.
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    Ok(response)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) async fn version(context: Context) -> Result {
    let EngineFacts { config, .. } = context.engine.facts();
    let kernel = context.engine.host().await?.kernel;
    let details = json!({
        "ApiVersion": NEWEST.to_string(),
        "Arch": architecture(),
        "BuildTime": config.build_time,
        "Experimental": config.experimental.to_string(),
        "GitCommit": config.git_commit,
        "GoVersion": "none (Rust)",
        "KernelVersion": kernel,
        "MinAPIVersion": OLDEST.to_string(),
        "Os": "linux",
    });
    Ok(reply::ok(&json!({
        "Platform": {"Name": "dockerd-rs"},
        "Components": [{"Name": "Engine", "Version": config.version, "Details": details}],
        "Version": config.version,
        "ApiVersion": NEWEST.to_string(),
        "MinAPIVersion": OLDEST.to_string(),
        "GitCommit": config.git_commit,
        "GoVersion": "none (Rust)",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
        "BuildTime": config.build_time,
    })))
}

pub(crate) async fn info(context: Context) -> Result {
    let host = context.engine.host().await?;
    let info = convert::info::info(&context.engine.facts(), &host);
    Ok(reply::ok(&compat::system::downgrade_info(context.version, info)))
}

pub(crate) async fn df(context: Context) -> Result {
    let asked = context.query.all("type");
    if let Some(unknown) = asked.iter().find(|kind| !DF_TYPES.contains(&kind.as_str())) {
        return Err(ApiError::bad_request(format!("unknown object type: {unknown}")));
    }
    let wants = |kind: &str| asked.is_empty() || asked.iter().any(|asked| asked == kind);
    let options = DiskUsageOptions { images: wants("image"), containers: wants("container"), volumes: wants("volume") };
    let usage = context.engine.disk_usage(options).await?;
    Ok(reply::ok(&convert::df::disk_usage(&usage, wants("build-cache"), context.version)))
}

/// There are no managed plugins.
/// Checkpoints are there with experimental features only, which this daemon never has on.
pub(crate) async fn experimental(_context: Context) -> Result {
    let message = "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it.";
    Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, message))
}

/// Managed plugins cannot be installed yet, so none is there under any name.
pub(crate) async fn no_plugin(context: Context) -> Result {
    Err(ApiError::new(StatusCode::NOT_FOUND, format!("plugin {:?} not found", context.name())))
}

pub(crate) async fn plugins(_context: Context) -> Result {
    Ok(reply::ok(&json!([])))
}
