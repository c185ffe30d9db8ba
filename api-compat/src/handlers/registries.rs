//! Registries: pull, push, login, search, and what a registry has under a name.

use base64::Engine as _;
use dockerd_core::image::pull::{Credentials, RemotePlatform, SearchResult};
use dockerd_core::image::pull::{PullNote, PullOrder, RemoteImage};
use dockerd_core::image::push::{PushNote, PushOrder};
use dockerd_image::{LayerStep, PullStep, PushError, PushStep};
use dockerd_types::{Digest, Reference};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::convert::image as convert;
use crate::error::ApiError;
use crate::extract::{Object, Target};
use crate::reply::{self, Reply};
use crate::stream::feed::{self, Feed};
use crate::stream::progress;
use crate::version::ApiVersion;

type Result = std::result::Result<Reply, ApiError>;

/// A push may name a platform from this version on.
const PUSH_PLATFORM: ApiVersion = ApiVersion(1, 46);
/// Filters of a search.
const SEARCH_FILTERS: [&str; 3] = ["is-automated", "is-official", "stars"];

/// `AuthConfig` of the API.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct AuthConfig {
    username: String,
    password: String,
    #[serde(rename = "serveraddress")]
    server: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
    #[serde(rename = "registrytoken")]
    registry_token: String,
}

impl AuthConfig {
    fn credentials(self) -> Credentials {
        let Self { username, password, server: _, identity_token, registry_token } = self;
        Credentials { username, password, identity_token, registry_token }
    }
}

/// What `X-Registry-Auth` says; what is not understood counts as nothing said, as under stock.
fn credentials(context: &Context) -> Option<Credentials> {
    let header = context.request.headers().get("x-registry-auth")?;
    let text = header.as_bytes().trim_ascii_end();
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let decode = |engine: &base64::engine::GeneralPurpose| engine.decode(text).ok();
    let json = decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD)
        .or_else(|| decode(&base64::engine::general_purpose::STANDARD_NO_PAD))?;
    let found: AuthConfig = serde_json::from_slice(&json).ok()?;
    Some(found.credentials())
}

fn with_tag(reference: Reference, tag: &str) -> std::result::Result<Reference, ApiError> {
    if tag.is_empty() {
        return Ok(reference);
    }
    if tag.contains(':') {
        let digest = Digest::parse(tag).map_err(|error| ApiError::bad_request(error.to_string()))?;
        return Ok(reference.with_digest(digest));
    }
    reference.with_tag(tag).map_err(|_| ApiError::bad_request("invalid tag format"))
}

pub(crate) async fn pull(context: Context) -> Result {
    let query = &context.query;
    let reference = Reference::parse(query.text("fromImage")).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let platform = Some(query.text("platform")).filter(|text| !text.is_empty());
    let order = PullOrder {
        reference: with_tag(reference, query.text("tag"))?,
        platform: platform.map(dockerd_core::image::platform::parse).transpose()?,
        credentials: credentials(&context),
    };
    let images = context.engine.images.clone();
    feed::answer(|feed| async move { images.pull(order, move |note| tell_pull(&feed, note)).await }).await
}

fn tell_pull(feed: &Feed, note: PullNote) {
    match note {
        PullNote::Pulling { path, id } => feed.line(json!({"status": format!("Pulling from {path}"), "id": id})),
        PullNote::Step(PullStep::Manifest) => {}
        PullNote::Step(PullStep::Digest(digest)) => feed.line(json!({"status": format!("Digest: {digest}")})),
        PullNote::Step(PullStep::Layer(layer, step)) => tell_layer(feed, &layer, &step),
        PullNote::Done { name, is_newer } => {
            let what = if is_newer { "Downloaded newer image" } else { "Image is up to date" };
            feed.line(json!({"status": format!("Status: {what} for {name}")}));
        }
        PullNote::OtherPlatform { name, found, wanted } => feed.line(json!({
            "status": format!(
                "WARNING: image with reference {name} was found but its platform ({found}) does not match the specified \
                 platform ({wanted})"
            )
        })),
    }
}

fn tell_layer(feed: &Feed, layer: &Digest, step: &LayerStep) {
    let status = match step {
        LayerStep::Exists => "Already exists",
        LayerStep::Planned => "Pulling fs layer",
        LayerStep::Waiting => "Waiting",
        LayerStep::Downloading(current, total) => return feed.bar("Downloading", layer, *current, *total),
        LayerStep::Extracting(current, total) => return feed.bar("Extracting", layer, *current, *total),
        LayerStep::Retrying(seconds) => return feed.line(progress::step(&retrying(*seconds), layer.short())),
        LayerStep::Verifying => "Verifying Checksum",
        LayerStep::Downloaded => "Download complete",
        LayerStep::Done => "Pull complete",
    };
    feed.line(progress::step(status, layer.short()));
}

fn retrying(seconds: u64) -> String {
    format!("Retrying in {seconds} second{}", if seconds == 1 { "" } else { "s" })
}

pub(crate) async fn push(context: Context) -> Result {
    let query = &context.query;
    let reference = Reference::parse(context.name()).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let platform = if context.version < PUSH_PLATFORM { None } else { convert::platform(query.text("platform"))? };
    let reference = with_tag(reference, query.text("tag"))?;
    let order = PushOrder { all: reference.tag().is_none(), reference, credentials: credentials(&context) };
    let images = context.engine.images.clone();
    if platform.is_some() {
        images.inspect_for(&order.reference.to_string(), platform.as_ref())?;
    }
    feed::answer(|feed| async move {
        let repository = format!("{}/{}", order.reference.domain(), order.reference.path());
        feed.line(json!({"status": format!("The push refers to repository [{repository}]")}));
        if order.reference.digest().is_some() {
            return Err(PushError::ByDigest.into());
        }
        images.push(order, move |note| tell_push(&feed, note)).await
    })
    .await
}

fn tell_push(feed: &Feed, note: PushNote) {
    let (layer, step) = match note {
        PushNote::Layer(layer, step) => (layer, step),
        PushNote::Done { tag, pushed } => {
            let (digest, size) = (pushed.digest, pushed.size);
            feed.line(json!({"status": format!("{tag}: digest: {digest} size: {size}")}));
            let aux = json!({"Tag": tag, "Digest": digest.as_str(), "Size": size});
            return feed.line(json!({"progressDetail": {}, "aux": aux}));
        }
    };
    let status = match step {
        PushStep::Pushing(current, total) => return feed.bar("Pushing", &layer, current, total),
        PushStep::Preparing => "Preparing".to_owned(),
        PushStep::Waiting => "Waiting".to_owned(),
        PushStep::Retrying(seconds) => retrying(seconds),
        PushStep::Pushed => "Pushed".to_owned(),
        PushStep::Exists => "Layer already exists".to_owned(),
        PushStep::Mounted(from) => format!("Mounted from {from}"),
        PushStep::Skipped => "Skipped foreign layer".to_owned(),
    };
    feed.line(progress::step(&status, layer.short()));
}

pub(crate) async fn login(mut context: Context) -> Result {
    let body = context.bytes().await?;
    // Stock answers 500 to whatever is wrong with the body, in the words of Go's decoder.
    let internal = |text: String| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text);
    if body.trim_ascii().is_empty() {
        return Err(internal("EOF".to_owned()));
    }
    Object::parse_into(&body, Target::ANY).map_err(|error| internal(error.message))?;
    let auth: AuthConfig = serde_json::from_slice(&body).map_err(|error| internal(error.to_string()))?;
    let server = auth.server.clone();
    let outcome = context.engine.images.login(&server, auth.credentials()).await?;
    Ok(reply::ok(&json!({"IdentityToken": outcome.identity_token, "Status": outcome.status})))
}

pub(crate) async fn inspect(context: Context) -> Result {
    let found = context.engine.images.remote(context.name(), credentials(&context)).await?;
    let RemoteImage { manifest, platforms } = found;
    let platforms: Vec<Value> = platforms.iter().map(platform).collect();
    Ok(reply::ok(&json!({
        "Descriptor": {
            "mediaType": manifest.media_type,
            "digest": manifest.digest.as_str(),
            "size": manifest.bytes.len(),
        },
        "Platforms": platforms,
    })))
}

/// A platform as the OCI index has it.
fn platform(platform: &RemotePlatform) -> Value {
    let mut out = json!({"architecture": platform.architecture, "os": platform.os});
    if let Some(version) = &platform.os_version {
        out["os.version"] = json!(version);
    }
    if !platform.os_features.is_empty() {
        out["os.features"] = json!(platform.os_features);
    }
    if let Some(variant) = platform.variant.as_ref().filter(|variant| !variant.is_empty()) {
        out["variant"] = json!(variant);
    }
    out
}

pub(crate) async fn search(context: Context) -> Result {
    let query = &context.query;
    let filters = query.filters(&SEARCH_FILTERS)?;
    let limit = match query.text("limit") {
        "" => 0,
        text => text.parse().map_err(|_| {
            ApiError::bad_request(format!("invalid limit specified: strconv.Atoi: parsing {text:?}: invalid syntax"))
        })?,
    };
    let official = filters.boolean("is-official").map_err(|error| ApiError::bad_request(error.to_string()))?;
    let automated = filters.boolean("is-automated").map_err(|error| ApiError::bad_request(error.to_string()))?;
    let mut least = None;
    for text in filters.values("stars") {
        let stars = text.parse::<i64>().map_err(|_| {
            ApiError::bad_request(format!(
                "invalid filter 'stars={text}': strconv.Atoi: parsing {text:?}: invalid syntax"
            ))
        })?;
        least = least.max(Some(stars));
    }
    let found = context.engine.images.search(query.text("term"), limit, credentials(&context)).await?;
    let passes = |item: &&SearchResult| {
        official.is_none_or(|wanted| wanted == item.is_official)
            // Nothing is built automatically any more.
            && automated != Some(true)
            && least.is_none_or(|least| item.star_count >= least)
    };
    let found: Vec<Value> = found.iter().filter(passes).map(result).collect();
    Ok(reply::ok(&Value::Array(found)))
}

fn result(item: &SearchResult) -> Value {
    json!({
        "star_count": item.star_count,
        "is_official": item.is_official,
        "name": item.name,
        "is_automated": false,
        "description": item.description,
    })
}
