//! Images.

use dockerd_core::image::commit::CommitOrder;
use dockerd_core::image::import::{ImportNote, Source};
use dockerd_core::image::list::{FILTERS, ListOptions};
use dockerd_core::image::platform;
use dockerd_core::image::remove::PRUNE_FILTERS;
use dockerd_image::{ImportOptions, LoadProgress, Loaded, Platform, RemoveOptions};
use dockerd_types::Reference;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::compat;
use crate::context::Context;
use crate::convert::create::config;
use crate::convert::image as convert;
use crate::error::ApiError;
use crate::handlers::registries;
use crate::reply::{self, Reply};
use crate::stream::{feed, progress};
use crate::version::ApiVersion;

type Result = std::result::Result<Reply, ApiError>;

/// `platform` is asked for from these versions on.
const LOAD_PLATFORM: ApiVersion = ApiVersion(1, 48);
const INSPECT_PLATFORM: ApiVersion = ApiVersion(1, 49);
/// The old `filter` of lists ends here.
const NO_FILTER: ApiVersion = ApiVersion(1, 41);

fn wanted_platform(context: &Context, since: ApiVersion) -> std::result::Result<Option<Platform>, ApiError> {
    if context.version < since { Ok(None) } else { convert::platform(context.query.text("platform")) }
}

/// The same where clients may try to name several.
fn only_platform(context: &Context, since: ApiVersion) -> std::result::Result<Option<Platform>, ApiError> {
    if context.version >= since && context.query.all("platform").len() > 1 {
        return Err(ApiError::bad_request("multiple platform parameters not supported"));
    }
    wanted_platform(context, since)
}

pub(crate) async fn list(context: Context) -> Result {
    let mut filters = context.query.filters(&FILTERS)?;
    let old = context.query.text("filter");
    if context.version < NO_FILTER && !old.is_empty() {
        filters.insert("reference", old);
    }
    let options = ListOptions { all: context.query.flag("all"), shared_size: context.query.flag("shared-size") };
    let images = context.engine.images.list(&filters, options)?;
    let image = |item| compat::images::downgrade_summary(context.version, convert::summary(item));
    Ok(reply::ok(&images.iter().map(image).collect()))
}

pub(crate) async fn inspect(context: Context) -> Result {
    let platform = wanted_platform(&context, INSPECT_PLATFORM)?;
    if platform.is_some() && context.query.flag("manifests") {
        return Err(ApiError::bad_request("conflicting options: manifests and platform options cannot both be set"));
    }
    let image = context.engine.images.inspect_for(context.name(), platform.as_ref())?;
    let driver = context.engine.facts().storage_driver;
    let places = context.engine.images.places(&image);
    let described = convert::inspect(&image, &driver, places);
    Ok(reply::ok(&compat::images::downgrade_inspect(context.version, described)))
}

pub(crate) async fn history(context: Context) -> Result {
    let platform = wanted_platform(&context, LOAD_PLATFORM)?;
    let image = context.engine.images.inspect_for(context.name(), platform.as_ref())?;
    Ok(reply::ok(&context.engine.images.history(&image)?.iter().map(convert::history).collect()))
}

pub(crate) async fn tag(context: Context) -> Result {
    // Without a repository stock does nothing and says nothing.
    let Some(target) = convert::new_reference(context.query.text("repo"), context.query.text("tag"))? else {
        return Ok(reply::empty(StatusCode::OK));
    };
    context.engine.images.tag(context.name(), target).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

pub(crate) async fn remove(context: Context) -> Result {
    if context.name().trim().is_empty() {
        return Err(ApiError::bad_request("image name cannot be blank"));
    }
    let options = RemoveOptions { force: context.query.flag("force"), no_prune: context.query.flag("noprune") };
    let removed = context.engine.images.remove(context.name(), options).await?;
    Ok(reply::ok(&removed.iter().map(convert::removal).collect()))
}

pub(crate) async fn prune(context: Context) -> Result {
    let filters = context.query.filters(&PRUNE_FILTERS)?;
    let pruned = context.engine.images.prune(&filters).await?;
    let removed: Vec<Value> = pruned.removed.iter().map(convert::removal).collect();
    let removed = if removed.is_empty() { Value::Null } else { json!(removed) };
    Ok(reply::ok(&json!({"ImagesDeleted": removed, "SpaceReclaimed": pruned.space_reclaimed})))
}

pub(crate) async fn save_one(context: Context) -> Result {
    save(&context, vec![context.name().to_owned()]).await
}

pub(crate) async fn save_many(context: Context) -> Result {
    save(&context, context.query.all("names")).await
}

async fn save(context: &Context, names: Vec<String>) -> Result {
    let body = context.engine.images.save(&names, only_platform(context, LOAD_PLATFORM)?.as_ref()).await?;
    Ok(reply::stream("application/x-tar", body))
}

pub(crate) async fn load(context: Context) -> Result {
    let platform = only_platform(&context, LOAD_PLATFORM);
    let quiet = context.query.flag("quiet");
    let images = context.engine.images.clone();
    let (sender, body) = mpsc::channel(16);
    let (platform, input, drained) = context.into_stream_if(platform).await?;
    tokio::spawn(async move {
        // Work goes on when the client leaves: what it sent is whole by the time anything is added.
        let steps = sender.clone();
        let step = move |step: LoadProgress| {
            let LoadProgress::Layer { diff_id, current, total } = step;
            if !quiet {
                // A client that does not read in time misses a step, not the end.
                let _ = steps.try_send(progress::line(&progress::layer("Loading layer", &diff_id, current, total)));
            }
        };
        let lines = match images.load(input, platform, step).await {
            Ok(loaded) => loaded_lines(&loaded),
            Err(error) => {
                drained.wait().await;
                vec![progress::failure(&error)]
            }
        };
        for line in lines {
            let _ = sender.send(progress::line(&line)).await;
        }
    });
    Ok(reply::stream("application/json", body))
}

/// Names of what was loaded, with whom they were taken from; ids where the last image has no name, as stock tells them.
fn loaded_lines(loaded: &[Loaded]) -> Vec<Value> {
    let mut lines = Vec::new();
    for item in loaded {
        for reference in &item.references {
            let name = reference.clone().with_default_tag();
            if let Some((_, old)) = item.moved.iter().find(|(moved, _)| *moved == name) {
                let text = format!(
                    "The image {} already exists, renaming the old one with ID {old} to empty string\n",
                    name.familiar()
                );
                lines.push(json!({ "stream": text }));
            }
            lines.push(json!({"stream": format!("Loaded image: {}\n", name.familiar())}));
        }
    }
    if loaded.last().is_none_or(|item| item.references.is_empty()) {
        let ids: String = loaded.iter().map(|item| format!("Loaded image ID: {}\n", item.image.id)).collect();
        lines.push(if ids.is_empty() { json!({}) } else { json!({ "stream": ids }) });
    }
    lines
}

pub(crate) async fn commit(mut context: Context) -> Result {
    let body = context.json().await?;
    let query = &context.query;
    let config = if body.keys().next().is_some() { Some(config(&body)?) } else { None };
    let order = CommitOrder {
        container: query.text("container").to_owned(),
        reference: convert::new_reference(query.text("repo"), query.text("tag"))?,
        author: query.text("author").to_owned(),
        comment: query.text("comment").to_owned(),
        pause: query.text("pause").is_empty() || query.flag("pause"),
        changes: query.all("changes"),
        config,
    };
    let images = context.engine.images.clone();
    // A task of its own: a client that leaves does not leave the container paused.
    let id = tokio::spawn(async move { images.commit(order).await }).await;
    let id = id.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
    Ok(reply::json(StatusCode::CREATED, &json!({"Id": id.as_str()})))
}

pub(crate) async fn create(context: Context) -> Result {
    if !context.query.text("fromImage").is_empty() {
        return registries::pull(context).await;
    }
    if context.query.text("fromSrc") != "-" {
        return import_url(context).await;
    }
    let images = context.engine.images.clone();
    let options = import_target(&context).and_then(|(reference, platform)| {
        let options = import_options(&context, reference, "-");
        Ok(ImportOptions { platform: platform::linux(platform)?, ..options })
    });
    let (options, input, drained) = context.into_stream_if(options).await?;
    // A task of its own, which goes on when the client leaves; nothing is sent before its end, so errors have a status.
    let image = tokio::spawn(async move { images.import(input, options).await }).await;
    if !matches!(image, Ok(Ok(_))) {
        drained.wait().await;
    }
    let image = image.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
    let (sender, body) = mpsc::channel(1);
    let _ = sender.send(progress::line(&json!({"status": image.id.as_str()}))).await;
    Ok(reply::stream("application/json", body))
}

/// Ends with its client, as a pull does.
async fn import_url(context: Context) -> Result {
    let (reference, platform) = import_target(&context)?;
    let source = Source::parse(context.query.text("fromSrc"))?;
    let written = if context.query.text("fromSrc").contains("://") { "" } else { "http://" };
    let options = import_options(&context, reference, source.to_string().trim_start_matches(written));
    let images = context.engine.images.clone();
    feed::answer(|feed| async move {
        // Told once the server has answered, as by stock.
        let options = || Ok(ImportOptions { platform: platform::linux(platform)?, ..options });
        let tell = move |note| match note {
            ImportNote::Downloading(url) => feed.line(json!({"status": format!("Downloading from {url}")})),
            ImportNote::Importing(current, total) => feed.bar_alone("Importing", current, total),
            ImportNote::Done(image) => feed.line(json!({"status": image.id.as_str()})),
        };
        images.import_from(source, options, tell).await
    })
    .await
}

/// The name an import gives, and what the image is for.
fn import_target(context: &Context) -> std::result::Result<(Option<Reference>, Platform), ApiError> {
    let platform = platform::read(context.query.text("platform"))?;
    Ok((convert::new_reference(context.query.text("repo"), context.query.text("tag"))?, platform))
}

/// What else a client says of an import from `source`.
fn import_options(context: &Context, reference: Option<Reference>, source: &str) -> ImportOptions {
    let message = context.query.text("message");
    ImportOptions {
        reference,
        changes: context.query.all("changes"),
        message: if message.is_empty() { format!("Imported from {source}") } else { message.to_owned() },
        engine_version: context.engine.facts().config.version.clone(),
        platform: Platform::host(),
    }
}
