//! `docker cp` and `docker export`.

use dockerd_core::container::copy::{ExtractOptions, PathStat};
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::json;

use crate::context::Context;
use crate::error::ApiError;
use crate::reply::{self, Reply};

type Result = std::result::Result<Reply, ApiError>;

const STAT_HEADER: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// The path asked for.
fn path(context: &Context) -> std::result::Result<String, ApiError> {
    match context.query.text("path") {
        // The missing space is the stock daemon's.
        "" => Err(ApiError::bad_request("bad parameter: pathcannot be empty")),
        path => Ok(path.to_owned()),
    }
}

pub(crate) async fn stat(context: Context) -> Result {
    let found = context.engine.containers.stat_path(context.name(), &path(&context)?).await?;
    with_stat(reply::empty(StatusCode::OK), &found)
}

pub(crate) async fn get(context: Context) -> Result {
    let (found, body) = context.engine.containers.archive(context.name(), &path(&context)?).await?;
    with_stat(reply::stream("application/x-tar", body), &found)
}

pub(crate) async fn put(context: Context) -> Result {
    let path = path(&context);
    let options = ExtractOptions {
        no_overwrite_dir_non_dir: context.query.flag("noOverwriteDirNonDir"),
        copy_uid_gid: context.query.flag("copyUIDGID"),
    };
    let (engine, name) = (context.engine.clone(), context.name().to_owned());
    let (path, body, drained) = context.into_stream_if(path).await?;
    let extracted = engine.containers.extract(&name, &path, options, body).await;
    drained.wait().await;
    extracted?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn export(context: Context) -> Result {
    let body = context.engine.containers.export(context.name()).await?;
    Ok(reply::stream("application/octet-stream", body))
}

fn with_stat(mut reply: Reply, stat: &PathStat) -> Result {
    use base64::Engine;
    let text = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": go_mode(stat.mode),
        "mtime": stat.mtime.rfc3339_nano(),
        "linkTarget": stat.link_target,
    });
    let encoded = base64::engine::general_purpose::STANDARD.encode(text.to_string());
    let value = HeaderValue::from_str(&encoded).map_err(|error| ApiError::bad_request(error.to_string()))?;
    reply.headers_mut().insert(STAT_HEADER, value);
    Ok(reply)
}

/// `st_mode` as Go's `os.FileMode`, whose bits are its own.
fn go_mode(mode: u32) -> u32 {
    const KIND: u32 = 0o170_000;
    let kind = match mode & KIND {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    special.iter().filter(|(bit, _)| mode & bit != 0).fold(mode & 0o777 | kind, |all, (_, go)| all | go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_go_has_them() {
        for (mode, go) in [
            (0o100_644, 420),
            (0o040_755, 2_147_484_141),
            (0o120_777, 134_218_239),
            (0o041_777, 2_148_532_735),
            (0o104_755, 8_389_101),
            (0o020_666, 69_206_454),
        ] {
            assert_eq!(go_mode(mode), go, "{mode:o}");
        }
    }
}
