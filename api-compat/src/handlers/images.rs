//! Images.

use bytes::Bytes;
use dockerd_core::image::list::{FILTERS, ImageSummary};
use dockerd_image::{Image, ImportOptions, Removal};
use dockerd_types::Reference;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::compat;
use crate::context::Context;
use crate::convert::container::config;
use crate::error::ApiError;
use crate::reply::{self, Reply};

type Result = std::result::Result<Reply, ApiError>;

fn tags(image: &Image) -> Vec<String> {
    image.references.iter().filter(|r| r.tag().is_some()).map(Reference::familiar).collect()
}

pub(crate) fn summary(item: &ImageSummary) -> Value {
    let image = &item.image;
    let labels = image.config.container_config().labels;
    json!({
        "Containers": item.containers,
        "Created": image.created.unix_seconds(),
        "Id": image.id.as_str(),
        "Labels": if labels.is_empty() { Value::Null } else { json!(labels) },
        "ParentId": image.parent.as_ref().map_or("", |id| id.as_str()),
        "RepoDigests": [],
        "RepoTags": tags(image),
        "SharedSize": -1,
        "Size": image.size(),
    })
}

pub(crate) async fn list(context: Context) -> Result {
    let filters = context.query.filters(&FILTERS)?;
    let images = context.engine.images.list(&filters)?;
    let image = |item| compat::images::downgrade_summary(context.version, summary(item));
    Ok(reply::ok(&images.iter().map(image).collect()))
}

pub(crate) async fn inspect(context: Context) -> Result {
    let image = context.engine.images.inspect(context.name())?;
    let layers: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let described = json!({
        "Id": image.id.as_str(),
        "RepoTags": tags(&image),
        "RepoDigests": [],
        "Parent": image.parent.as_ref().map_or("", |id| id.as_str()),
        "Comment": image.config.comment,
        "Created": image.created.rfc3339_nano(),
        "DockerVersion": image.config.docker_version,
        "Author": image.config.author,
        "Config": config(&image.config.container_config()),
        "Architecture": image.config.architecture,
        "Os": image.config.os,
        "Size": image.size(),
        "GraphDriver": {"Data": null, "Name": context.engine.facts().storage_driver},
        "RootFS": {"Type": "layers", "Layers": layers},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    });
    Ok(reply::ok(&compat::images::downgrade_inspect(context.version, described)))
}

pub(crate) async fn history(context: Context) -> Result {
    let lines = context.engine.images.history(context.name())?;
    let line = |line: &dockerd_core::image::list::HistoryLine| {
        json!({
            "Id": line.id.as_ref().map_or("<missing>", |id| id.as_str()),
            "Created": line.created.map_or(0, dockerd_types::Timestamp::unix_seconds),
            "CreatedBy": line.created_by,
            "Tags": if line.tags.is_empty() { Value::Null } else { json!(line.tags) },
            "Size": line.size,
            "Comment": line.comment,
        })
    };
    Ok(reply::ok(&lines.iter().map(line).collect()))
}

fn reference(repository: &str, tag: &str) -> std::result::Result<Reference, ApiError> {
    let invalid = |error: dockerd_types::reference::InvalidReference| ApiError::bad_request(error.to_string());
    let parsed = Reference::parse(repository).map_err(invalid)?;
    if tag.is_empty() { Ok(parsed.with_default_tag()) } else { parsed.with_tag(tag).map_err(invalid) }
}

pub(crate) async fn tag(context: Context) -> Result {
    let target = reference(context.query.text("repo"), context.query.text("tag"))?;
    context.engine.images.tag(context.name(), target).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

pub(crate) async fn remove(context: Context) -> Result {
    let removed = context.engine.images.remove(context.name(), context.query.flag("force")).await?;
    let entry = |removal: &Removal| match removal {
        Removal::Untagged(name) => json!({"Untagged": name}),
        Removal::Deleted(digest) => json!({"Deleted": digest.as_str()}),
    };
    Ok(reply::ok(&removed.iter().map(entry).collect()))
}

pub(crate) async fn save_one(context: Context) -> Result {
    let body = context.engine.images.save(vec![context.name().to_owned()])?;
    Ok(reply::stream("application/x-tar", body))
}

pub(crate) async fn save_many(context: Context) -> Result {
    let body = context.engine.images.save(context.query.all("names"))?;
    Ok(reply::stream("application/x-tar", body))
}

/// One JSON object of a progress stream.
fn progress(value: &Value) -> std::io::Result<Bytes> {
    Ok(Bytes::from(format!("{value}\r\n")))
}

fn failure(error: &dyn std::fmt::Display) -> Value {
    json!({"errorDetail": {"message": error.to_string()}, "error": error.to_string()})
}

pub(crate) async fn load(context: Context) -> Result {
    let images = context.engine.images.clone();
    let (sender, body) = mpsc::channel(16);
    let input = context.into_stream();
    tokio::spawn(async move {
        // Work goes on when the client leaves: what it sent is whole by the time anything is added.
        match images.load(input, |_| {}).await {
            Ok(loaded) => {
                for item in loaded {
                    let id = json!({"stream": format!("Loaded image ID: {}\n", item.image.id)});
                    let names = item.references.iter().map(
                        |r| json!({"stream": format!("Loaded image: {}\n", r.clone().with_default_tag().familiar())}),
                    );
                    let lines: Vec<Value> = if item.references.is_empty() { vec![id] } else { names.collect() };
                    for line in lines {
                        let _ = sender.send(progress(&line)).await;
                    }
                }
            }
            Err(error) => _ = sender.send(progress(&failure(&error))).await,
        }
    });
    Ok(reply::stream("application/json", body))
}

pub(crate) async fn create(context: Context) -> Result {
    let query = &context.query;
    if query.text("fromSrc").is_empty() {
        return Err(ApiError::not_built("pulling from a registry"));
    }
    if query.text("fromSrc") != "-" {
        return Err(ApiError::not_built("importing from a URL"));
    }
    let repository = query.text("repo");
    let reference = if repository.is_empty() { None } else { Some(reference(repository, query.text("tag"))?) };
    let architecture = query.text("platform").split('/').nth(1).map(str::to_owned);
    let message = query.text("message").to_owned();
    let options = ImportOptions { reference, changes: query.all("changes"), message, architecture };
    let images = context.engine.images.clone();
    let input = context.into_stream();
    let (sender, body) = mpsc::channel(1);
    tokio::spawn(async move {
        let line = match images.import(input, options).await {
            Ok(image) => json!({"status": image.id.as_str()}),
            Err(error) => failure(&error),
        };
        let _ = sender.send(progress(&line)).await;
    });
    Ok(reply::stream("application/json", body))
}
