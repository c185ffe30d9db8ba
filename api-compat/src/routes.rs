//! The whole API in one table: method, pattern, and who answers. What is not built yet stands here too and answers 501,
//! so this is also the list of what is missing.

use std::future::Future;
use std::pin::Pin;

use hyper::Method;

use crate::context::Context;
use crate::error::ApiError;
use crate::handlers::{archive, containers, events, exec, images, networks, registries, streams, system, volumes};
use crate::reply::Reply;
use crate::router;

type Answer = Pin<Box<dyn Future<Output = Result<Reply, ApiError>> + Send>>;
/// A handler: extract, convert, call one service, convert back.
pub(crate) type Handler = fn(Context) -> Answer;

enum To {
    Handler(Handler),
    NotBuilt(&'static str),
    /// Swarm mode is not built, so this node never is a manager.
    NoSwarm,
    /// Nor is it in a swarm.
    NotInSwarm,
}

/// What a path leads to.
pub(crate) enum Found {
    Handler(Handler, Vec<String>),
    NotBuilt(&'static str),
    NoSwarm,
    NotInSwarm,
    Nothing,
}

macro_rules! to {
    ($handler:path) => {
        To::Handler(|context| Box::pin($handler(context)))
    };
}

const fn not_built(what: &'static str) -> To {
    To::NotBuilt(what)
}

type Route = (&'static str, &'static str, To);

/// In order: the first that matches answers.
static ROUTES: &[Route] = &[
    ("GET", "/_ping", to!(system::ping)),
    ("HEAD", "/_ping", to!(system::ping)),
    ("GET", "/version", to!(system::version)),
    ("GET", "/info", to!(system::info)),
    ("GET", "/events", to!(events::events)),
    ("GET", "/system/df", to!(system::df)),
    ("POST", "/auth", to!(registries::login)),
    ("GET", "/containers/json", to!(containers::list)),
    ("POST", "/containers/create", to!(containers::create)),
    ("POST", "/containers/prune", to!(containers::prune)),
    ("GET", "/containers/{}/json", to!(containers::inspect)),
    ("GET", "/containers/{}/top", to!(containers::top)),
    ("GET", "/containers/{}/logs", to!(streams::logs)),
    ("GET", "/containers/{}/changes", to!(containers::changes)),
    ("GET", "/containers/{}/export", to!(archive::export)),
    ("GET", "/containers/{}/stats", to!(streams::stats)),
    ("POST", "/containers/{}/resize", to!(containers::resize)),
    ("POST", "/containers/{}/start", to!(containers::start)),
    ("POST", "/containers/{}/stop", to!(containers::stop)),
    ("POST", "/containers/{}/restart", to!(containers::restart)),
    ("POST", "/containers/{}/kill", to!(containers::kill)),
    ("POST", "/containers/{}/update", not_built("container update")),
    ("POST", "/containers/{}/rename", to!(containers::rename)),
    ("POST", "/containers/{}/pause", to!(containers::pause)),
    ("POST", "/containers/{}/unpause", to!(containers::unpause)),
    ("POST", "/containers/{}/attach", to!(streams::attach)),
    ("GET", "/containers/{}/attach/ws", not_built("attach over WebSocket")),
    ("POST", "/containers/{}/wait", to!(containers::wait)),
    ("HEAD", "/containers/{}/archive", to!(archive::stat)),
    ("GET", "/containers/{}/archive", to!(archive::get)),
    ("PUT", "/containers/{}/archive", to!(archive::put)),
    ("POST", "/containers/{}/exec", to!(exec::create)),
    ("GET", "/containers/{}/checkpoints", to!(system::experimental)),
    ("POST", "/containers/{}/checkpoints", to!(system::experimental)),
    ("DELETE", "/containers/{}/checkpoints/{}", to!(system::experimental)),
    ("DELETE", "/containers/{}", to!(containers::remove)),
    ("POST", "/commit", to!(images::commit)),
    ("POST", "/exec/{}/start", to!(exec::start)),
    ("POST", "/exec/{}/resize", to!(exec::resize)),
    ("GET", "/exec/{}/json", to!(exec::inspect)),
    ("GET", "/images/json", to!(images::list)),
    ("POST", "/images/create", to!(images::create)),
    ("POST", "/images/load", to!(images::load)),
    ("POST", "/images/prune", to!(images::prune)),
    ("GET", "/images/search", to!(registries::search)),
    ("GET", "/images/get", to!(images::save_many)),
    ("GET", "/images/{}/get", to!(images::save_one)),
    ("GET", "/images/{}/json", to!(images::inspect)),
    ("GET", "/images/{}/attestations", not_built("attestations")),
    ("GET", "/images/{}/history", to!(images::history)),
    ("POST", "/images/{}/push", to!(registries::push)),
    ("POST", "/images/{}/tag", to!(images::tag)),
    ("DELETE", "/images/{}", to!(images::remove)),
    ("POST", "/build", not_built("building images")),
    ("POST", "/build/prune", not_built("building images")),
    ("POST", "/build/cancel", not_built("building images")),
    ("GET", "/distribution/{}/json", to!(registries::inspect)),
    ("GET", "/volumes", to!(volumes::list)),
    ("POST", "/volumes/create", to!(volumes::create)),
    ("POST", "/volumes/prune", to!(volumes::prune)),
    ("GET", "/volumes/{}", to!(volumes::inspect)),
    ("PUT", "/volumes/{}", To::NoSwarm),
    ("DELETE", "/volumes/{}", to!(volumes::remove)),
    ("GET", "/networks", to!(networks::list)),
    ("GET", "/networks/", to!(networks::list)),
    ("POST", "/networks/create", to!(networks::create)),
    ("POST", "/networks/prune", to!(networks::prune)),
    ("POST", "/networks/{}/connect", to!(networks::connect)),
    ("POST", "/networks/{}/disconnect", to!(networks::disconnect)),
    ("GET", "/networks/{}", to!(networks::inspect)),
    ("DELETE", "/networks/{}", to!(networks::remove)),
    ("GET", "/plugins", to!(system::plugins)),
    ("GET", "/plugins/privileges", not_built("managed plugins")),
    ("POST", "/plugins/pull", not_built("managed plugins")),
    ("POST", "/plugins/create", not_built("managed plugins")),
    ("GET", "/plugins/{}/json", to!(system::no_plugin)),
    ("POST", "/plugins/{}/enable", to!(system::no_plugin)),
    ("POST", "/plugins/{}/disable", to!(system::no_plugin)),
    ("POST", "/plugins/{}/upgrade", to!(system::no_plugin)),
    ("POST", "/plugins/{}/push", to!(system::no_plugin)),
    ("POST", "/plugins/{}/set", to!(system::no_plugin)),
    ("DELETE", "/plugins/{}", to!(system::no_plugin)),
    ("POST", "/swarm/init", not_built("swarm mode")),
    ("POST", "/swarm/join", not_built("swarm mode")),
    ("GET", "/swarm", To::NoSwarm),
    ("POST", "/swarm/leave", To::NotInSwarm),
    ("POST", "/swarm/update", To::NoSwarm),
    ("GET", "/swarm/unlockkey", To::NoSwarm),
    ("POST", "/swarm/unlock", To::NoSwarm),
    ("GET", "/services", To::NoSwarm),
    ("POST", "/services/create", To::NoSwarm),
    ("POST", "/services/{}/update", To::NoSwarm),
    ("GET", "/services/{}/logs", To::NoSwarm),
    ("GET", "/services/{}", To::NoSwarm),
    ("DELETE", "/services/{}", To::NoSwarm),
    ("GET", "/nodes", To::NoSwarm),
    ("POST", "/nodes/{}/update", To::NoSwarm),
    ("GET", "/nodes/{}", To::NoSwarm),
    ("DELETE", "/nodes/{}", To::NoSwarm),
    ("GET", "/tasks", To::NoSwarm),
    ("GET", "/tasks/{}/logs", To::NoSwarm),
    ("GET", "/tasks/{}", To::NoSwarm),
    ("GET", "/secrets", To::NoSwarm),
    ("POST", "/secrets/create", To::NoSwarm),
    ("POST", "/secrets/{}/update", To::NoSwarm),
    ("GET", "/secrets/{}", To::NoSwarm),
    ("DELETE", "/secrets/{}", To::NoSwarm),
    ("GET", "/configs", To::NoSwarm),
    ("POST", "/configs/create", To::NoSwarm),
    ("POST", "/configs/{}/update", To::NoSwarm),
    ("GET", "/configs/{}", To::NoSwarm),
    ("DELETE", "/configs/{}", To::NoSwarm),
    ("POST", "/session", not_built("BuildKit sessions")),
    ("POST", "/grpc", not_built("BuildKit")),
    ("GET", "/debug/vars", not_built("debug variables")),
    ("GET", "/debug/pprof/", not_built("profiles")),
    ("GET", "/debug/pprof/{}", not_built("profiles")),
];

/// Who answers `method` on `path` (without its version prefix).
pub(crate) fn find(method: &Method, path: &str) -> Found {
    for (known, pattern, to) in ROUTES {
        if method.as_str() != *known {
            continue;
        }
        if let Some(names) = router::matches(pattern, path) {
            return match to {
                To::Handler(handler) => Found::Handler(*handler, names),
                To::NotBuilt(what) => Found::NotBuilt(what),
                To::NoSwarm => Found::NoSwarm,
                To::NotInSwarm => Found::NotInSwarm,
            };
        }
    }
    Found::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_paths_and_methods_lead_nowhere() {
        assert!(matches!(find(&Method::GET, "/nope"), Found::Nothing));
        assert!(matches!(find(&Method::PATCH, "/info"), Found::Nothing));
        assert!(matches!(find(&Method::GET, "/info"), Found::Handler(..)));
        assert!(matches!(find(&Method::POST, "/build"), Found::NotBuilt(_)));
        assert!(matches!(find(&Method::GET, "/containers/a/b/json"), Found::Handler(_, names) if names == ["a/b"]));
    }

    /// Every endpoint, one a line: method, path. Not here: `/metrics`, which has a listener of its own, and HTTP/2.
    const ENDPOINTS: &str = include_str!("endpoints.tsv");

    #[test]
    fn every_endpoint_of_the_api_has_its_route() {
        let mut missing = Vec::new();
        for line in ENDPOINTS.lines() {
            let (method, path) = line.split_once('\t').expect("method and path");
            // `{name:.*}` is any name.
            let concrete: String =
                path.split(['{', '}']).enumerate().map(|(i, part)| if i % 2 == 1 { "n" } else { part }).collect();
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            if matches!(find(&method, &concrete), Found::Nothing) {
                missing.push(line);
            }
        }
        assert_eq!(missing, Vec::<&str>::new());
        assert!(ENDPOINTS.lines().count() > 110, "the list is whole");
    }
}
