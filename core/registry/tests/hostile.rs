//! Registries that break off, lie, loop, stall and refuse.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod world;

use std::time::Duration;

use bytes::Bytes;
use dockerd_registry::{Access, DownloadRequest, RegistryError, Target, UploadRequest};
use dockerd_types::{ErrorKind, Kinded};
use world::{
    After, Asked, Memory, Server, answer, blob, body_of, config, digest, fetch, repository, repository_as, request,
    respond, user,
};

const JSON: (&str, &str) = ("content-type", "application/json");
const MANIFEST: (&str, &str) = ("content-type", "application/vnd.oci.image.manifest.v1+json");

/// Serves `bytes` as a blob, ranges included.
fn serve(asked: &Asked, bytes: &Bytes) -> hyper::Response<world::Body> {
    match asked.range() {
        None => answer(200, &[], bytes.clone()),
        Some((first, last)) => {
            let range = format!("bytes {first}-{last}/{}", bytes.len());
            let part = bytes.slice(usize::try_from(first).unwrap()..=usize::try_from(last).unwrap());
            answer(206, &[("content-range", &range)], part)
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_where_it_was() {
    let all = blob(300_000);
    let bytes = all.clone();
    let server = Server::start(move |asked| {
        let bytes = bytes.clone();
        Box::pin(async move {
            // The first is the ping, on which a connection with TLS has been tried before.
            match asked.count {
                0 => answer(200, &[], ""),
                1 => {
                    let length = bytes.len().to_string();
                    respond(200, &[("content-length", &length)], body_of(vec![bytes.slice(..100_000)], After::Cut))
                }
                2 => answer(500, &[], "not now"),
                _ => serve(&asked, &bytes),
            }
        })
    })
    .await;
    let repository = repository(config(), &format!("{}/a", server.host()), Access::Pull).await;
    let fetched = fetch(&repository, request(&all, 0), &[]).await;
    assert!(fetched.error.is_none(), "{:?}", fetched.error);
    assert!(fetched.bytes == all && fetched.restarts == 0);
    // Five seconds after the first failure, ten after the second, as stock.
    assert_eq!(fetched.retries, [5, 4, 3, 2, 1, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    let fetched = fetch(&repository, request(&all, 299_999), &all[..299_999]).await;
    assert!(fetched.error.is_none() && fetched.bytes == all);
    let fetched = fetch(&repository, request(&all, 300_000), &all).await;
    assert!(fetched.error.is_none() && fetched.bytes == all);
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up_and_goes_on_where_it_was() {
    let all = blob(50_000);
    for forever in [true, false] {
        let bytes = all.clone();
        let server = Server::start(move |asked| {
            let bytes = bytes.clone();
            Box::pin(async move {
                // The first two are the ping and its answer's way round TLS.
                if asked.path == "/v2/" || (asked.range().is_some() && !forever) {
                    return if asked.path == "/v2/" { answer(200, &[], "") } else { serve(&asked, &bytes) };
                }
                let trickle = After::Trickle(bytes.slice(10_000..10_001), Duration::from_millis(5));
                let length = (bytes.len() - asked.range().map_or(0, |(first, _)| first as usize)).to_string();
                let range = asked.range().map(|(first, last)| format!("bytes {first}-{last}/{}", bytes.len()));
                let mut headers = vec![("content-length", length.as_str())];
                headers.extend(range.iter().map(|range| ("content-range", range.as_str())));
                let status = if range.is_some() { 206 } else { 200 };
                let begin = if range.is_some() { Bytes::new() } else { bytes.slice(..10_000) };
                respond(status, &headers, body_of(vec![begin], trickle))
            })
        })
        .await;
        let mut config = config();
        (config.limits.idle, config.limits.least) = (Duration::from_millis(300), 1_000);
        config.max_download_attempts = 2;
        let repository = repository(config, &format!("{}/a", server.host()), Access::Pull).await;
        let begun = std::time::Instant::now();
        let fetched = fetch(&repository, request(&all, 0), &[]).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(fetched.retries, [5, 4, 3, 2, 1]);
        let error = fetched.error.map(|error| error.to_string()).unwrap_or_default();
        if forever {
            assert!(error.starts_with("only ") && error.ends_with(" bytes received in 0 seconds"), "{error}");
        } else {
            assert_eq!((error.as_str(), fetched.bytes.len()), ("", all.len()));
        }
    }
}

#[tokio::test]
async fn servers_without_ranges_start_again_and_say_so() {
    let all = blob(50_000);
    let bytes = all.clone();
    let server = Server::start(move |_| {
        let bytes = bytes.clone();
        Box::pin(async move { answer(200, &[], bytes) })
    })
    .await;
    let repository = repository(config(), &format!("{}/a", server.host()), Access::Pull).await;
    let fetched = fetch(&repository, request(&all, 1_000), &all[..1_000]).await;
    assert!(fetched.error.is_none() && fetched.restarts == 1 && fetched.bytes == all);
}

#[tokio::test]
async fn large_blobs_come_in_several_ranges_in_their_order() {
    let all = blob(3_000_000);
    for ranges in [true, false] {
        let bytes = all.clone();
        let server = Server::start(move |asked| {
            let bytes = bytes.clone();
            Box::pin(async move { if ranges { serve(&asked, &bytes) } else { answer(200, &[], bytes) } })
        })
        .await;
        let mut config = config();
        (config.limits.parallel_above, config.limits.part) = (500_000, 200_000);
        let repository = repository(config, &format!("{}/a", server.host()), Access::Pull).await;
        let fetched = fetch(&repository, request(&all, 0), &[]).await;
        assert!(fetched.error.is_none() && fetched.restarts == 0 && fetched.bytes == all);
        assert_eq!(server.requests("GET /v2/a/blobs/"), if ranges { 15 } else { 1 });
        let fetched = fetch(&repository, request(&all, 1_234_567), &all[..1_234_567]).await;
        assert!(fetched.error.is_none() && fetched.bytes == all, "{ranges}");
    }
}

#[tokio::test]
async fn a_part_that_breaks_off_is_fetched_again() {
    let all = blob(1_000_000);
    let bytes = all.clone();
    let once = std::sync::atomic::AtomicBool::new(true);
    let server = Server::start(move |asked| {
        let bytes = bytes.clone();
        let first_time = asked.range().is_some_and(|(first, _)| first == 400_000)
            && once.swap(false, std::sync::atomic::Ordering::SeqCst);
        Box::pin(async move {
            match asked.range() {
                Some((first, last)) if first_time => {
                    let range = format!("bytes {first}-{last}/1000000");
                    let piece = bytes.slice(400_000..450_000);
                    respond(206, &[("content-range", &range)], body_of(vec![piece], After::Cut))
                }
                _ => serve(&asked, &bytes),
            }
        })
    })
    .await;
    let mut config = config();
    (config.limits.parallel_above, config.limits.part) = (300_000, 200_000);
    let repository = repository(config, &format!("{}/a", server.host()), Access::Pull).await;
    let fetched = fetch(&repository, request(&all, 0), &[]).await;
    assert!(fetched.error.is_none(), "{:?}", fetched.error);
    assert!(fetched.bytes == all && fetched.restarts == 0 && fetched.retries.len() == 5);
}

#[tokio::test]
async fn blobs_of_another_length_are_refused() {
    let all = blob(10_000);
    for longer in [true, false] {
        let bytes = all.clone();
        let server = Server::start(move |asked| {
            let bytes = bytes.clone();
            Box::pin(async move {
                match (asked.path.contains("/blobs/"), longer) {
                    (false, _) => answer(200, &[], ""),
                    (true, true) => respond(200, &[], body_of(vec![bytes], After::More(blob(1_000)))),
                    (true, false) => respond(200, &[], body_of(vec![bytes.slice(..5_000)], After::End)),
                }
            })
        })
        .await;
        let mut config = config();
        config.max_download_attempts = 2;
        let repository = repository(config, &format!("{}/a", server.host()), Access::Pull).await;
        let fetched = fetch(&repository, request(&all, 0), &[]).await;
        let error = fetched.error.expect("an error");
        assert!(matches!(error, RegistryError::BlobSize { .. }), "{error}");
        assert!(fetched.bytes.len() <= all.len());
        // Too much is hopeless, too little may have been an accident.
        assert_eq!(fetched.retries.is_empty(), longer);
    }
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let all = blob(10_000);
    let bytes = all.clone();
    let server = Server::start(move |asked| {
        let bytes = bytes.clone();
        Box::pin(async move {
            if asked.path.contains("/blobs/") && asked.range().is_none() {
                respond(200, &[], body_of(vec![bytes.slice(..4_000)], After::Silence))
            } else {
                serve(&asked, &bytes)
            }
        })
    })
    .await;
    let mut config = config();
    config.limits.idle = Duration::from_millis(100);
    let repository = repository(config, &format!("{}/a", server.host()), Access::Pull).await;
    let fetched = fetch(&repository, request(&all, 0), &[]).await;
    assert!(fetched.error.is_none() && fetched.bytes == all && !fetched.retries.is_empty());
}

#[tokio::test]
async fn who_goes_leaves_no_connection_behind() {
    let (closed, mut gone) = tokio::sync::mpsc::channel::<()>(1);
    let server = Server::start(move |asked| {
        let closed = closed.clone();
        Box::pin(async move {
            if !asked.path.contains("/blobs/") {
                return answer(200, &[], "");
            }
            let (send, mut receive) = tokio::sync::mpsc::channel::<Result<_, std::io::Error>>(1);
            tokio::spawn(async move {
                while send.send(Ok(hyper::body::Frame::data(blob(1000)))).await.is_ok() {}
                let _ = closed.send(()).await;
            });
            use http_body_util::BodyExt;
            let stream = futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx));
            respond(200, &[], http_body_util::StreamBody::new(stream).boxed_unsync())
        })
    })
    .await;
    let repository = repository(config(), &format!("{}/a", server.host()), Access::Pull).await;
    let mut download =
        repository.download(DownloadRequest { digest: digest(b"x"), size: 1 << 30, offset: 0, urls: vec![] });
    let first = download.next().await;
    assert!(matches!(first, Some(Ok(dockerd_registry::DownloadEvent::Data(_)))), "{first:?}");
    drop(download);
    let seen = tokio::time::timeout(Duration::from_secs(10), gone.recv()).await;
    assert_eq!(seen.expect("the server sees the end"), Some(()));
}

async fn manifest_error(answer: fn(&Asked) -> hyper::Response<world::Body>) -> RegistryError {
    let server = Server::start(move |asked| {
        let response = if asked.path == "/v2/" { world::answer(200, &[], "") } else { answer(&asked) };
        Box::pin(async move { response })
    })
    .await;
    let repository = repository(config(), &format!("{}/a", server.host()), Access::Pull).await;
    let error = repository.manifest(Target::Tag("t")).await.expect_err("an error");
    // Addresses differ from run to run.
    match error {
        RegistryError::ManifestUnknown { cause, .. } => RegistryError::ManifestUnknown { reference: "X".into(), cause },
        other => other,
    }
}

#[tokio::test]
async fn manifests_that_are_none() {
    let error = manifest_error(|_| {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        answer(404, &[JSON], body)
    })
    .await;
    assert_eq!(error.to_string(), "manifest for X not found: manifest unknown: manifest unknown");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = manifest_error(|_| answer(401, &[], "")).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    let error = manifest_error(|_| answer(200, &[MANIFEST], "{")).await;
    assert_eq!(error.to_string(), "invalid manifest: unexpected end of JSON input");
    let error = manifest_error(|_| answer(200, &[MANIFEST, ("docker-content-digest", "md5:x")], "{}")).await;
    assert!(error.to_string().contains("invalid digest"), "{error}");
    let error = manifest_error(|_| {
        let wrong = format!("sha256:{}", "0".repeat(64));
        answer(200, &[MANIFEST, ("docker-content-digest", &wrong)], "{}")
    })
    .await;
    assert!(matches!(error, RegistryError::ManifestDigest(_)), "{error}");
    let error = manifest_error(|_| respond(200, &[MANIFEST], body_of(vec![], After::More(blob(60_000))))).await;
    assert!(error.to_string().contains("more than 4194304 bytes"), "{error}");
    let error = manifest_error(|asked| answer(302, &[("location", &asked.path)], "")).await;
    assert!(error.to_string().ends_with(": stopped after 10 redirects"), "{error}");
    let error = manifest_error(|asked| answer(302, &[("location", &format!("{}x", asked.path))], "")).await;
    assert!(error.to_string().ends_with(": stopped after 10 redirects"), "{error}");
    let error = manifest_error(|_| answer(302, &[("location", "ftp://x/")], "")).await;
    assert!(error.to_string().ends_with("invalid URL \"ftp://x/\""), "{error}");
    let error = manifest_error(|_| answer(503, &[], "busy")).await;
    assert_eq!(error.to_string(), "received unexpected HTTP status: 503 Service Unavailable");
}

#[tokio::test]
async fn nobody_there_and_no_tls() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let repository = repository(config(), &format!("{free}/a"), Access::Pull).await;
    let error = repository.manifest(Target::Tag("t")).await.unwrap_err().to_string();
    assert_eq!(error, format!("Get \"http://{free}/v2/\": dial tcp {free}: connect: connection refused"));
    let server = Server::start(|_| Box::pin(async { answer(200, &[], "") })).await;
    let registry = dockerd_registry::Registry::new(config()).unwrap();
    // Docker Hub's mirror must keep to its scheme.
    let mut mirrored = config();
    mirrored.mirrors = vec![format!("https://{}", server.host())];
    mirrored.proxies.https = format!("http://{free}");
    registry.set_config(mirrored).unwrap();
    let reference = dockerd_types::Reference::parse("alpine").unwrap();
    let hub = registry.repository(&reference, Access::Pull, None).await.unwrap();
    let error = hub.manifest(Target::Tag("t")).await.unwrap_err().to_string();
    let refused = format!("proxyconnect tcp: dial tcp {free}: connect: connection refused");
    assert_eq!(error, format!("Get \"https://registry-1.docker.io/v2/\": {refused}"));
}

#[tokio::test]
async fn storms_of_refusals_end() {
    let server = Server::start(|asked| {
        Box::pin(async move {
            let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", asked.header("host"));
            match asked.path.as_str() {
                "/token" => answer(200, &[JSON], r#"{"token":"t"}"#),
                _ => answer(401, &[JSON, ("www-authenticate", &realm)], "{}"),
            }
        })
    })
    .await;
    let repository = repository(config(), &format!("{}/a", server.host()), Access::Pull).await;
    let error = repository.manifest(Target::Tag("t")).await.unwrap_err();
    assert_eq!(error.to_string(), "unauthorized: authentication required");
    assert!(server.requests("GET /token") <= 4 && server.requests("HEAD") == 2);
}

#[tokio::test]
async fn credentials_stay_where_they_belong() {
    let all = blob(1_000);
    let bytes = all.clone();
    let store = Server::start(move |asked| {
        let bytes = bytes.clone();
        Box::pin(async move {
            assert_eq!(asked.header("authorization"), "");
            answer(200, &[], bytes)
        })
    })
    .await;
    let elsewhere = format!("http://{}/blob?sig=1", store.host());
    let server = Server::start(move |asked| {
        let elsewhere = elsewhere.clone();
        Box::pin(async move {
            if asked.header("authorization").is_empty() {
                return answer(401, &[("www-authenticate", "Basic realm=\"r\"")], "");
            }
            answer(307, &[("location", &elsewhere)], "")
        })
    })
    .await;
    let me = Some(user("me", "secret"));
    let repository = repository_as(config(), &format!("{}/a", server.host()), Access::Pull, me.clone()).await;
    let fetched = fetch(&repository, request(&all, 0), &[]).await;
    assert!(fetched.error.is_none() && fetched.bytes == all, "{:?}", fetched.error);
    // A mirror is not whom the password is for.
    let mirror = Server::start(|asked| {
        Box::pin(async move {
            assert_eq!(asked.header("authorization"), "");
            answer(401, &[("www-authenticate", "Basic realm=\"r\"")], "")
        })
    })
    .await;
    let mut mirrored = config();
    mirrored.mirrors = vec![format!("http://{}", mirror.host())];
    mirrored.proxies.https = "http://127.0.0.1:1".into();
    let hub = repository_as(mirrored, "alpine", Access::Pull, me).await;
    assert!(hub.manifest(Target::Tag("t")).await.is_err());
    assert_eq!(mirror.requests("GET /v2/"), 1);
}

#[tokio::test]
async fn foreign_layers_come_from_their_urls() {
    let all = blob(1_000);
    let bytes = all.clone();
    let server = Server::start(move |asked| {
        let bytes = bytes.clone();
        Box::pin(async move {
            match asked.path.as_str() {
                "/layer" => serve(&asked, &bytes),
                "/v2/" => answer(200, &[], ""),
                _ => answer(404, &[], ""),
            }
        })
    })
    .await;
    let repository = repository(config(), &format!("{}/a", server.host()), Access::Pull).await;
    let fetched = fetch(&repository, request(&all, 0), &[]).await;
    assert_eq!(fetched.error.expect("an error").to_string(), "unknown blob");
    let urls = vec!["ftp://x/".to_owned(), format!("http://{}/layer", server.host())];
    // Large or not.
    let mut config = config();
    (config.limits.parallel_above, config.limits.part) = (100, 100);
    let repository = world::repository(config, &format!("{}/a", server.host()), Access::Pull).await;
    let fetched = fetch(&repository, DownloadRequest { urls, ..request(&all, 10) }, &all[..10]).await;
    assert!(fetched.error.is_none() && fetched.bytes == all, "{:?}", fetched.error);
}

#[tokio::test]
async fn tags_come_in_pages_of_this_registry_only() {
    let server = Server::start(|asked| {
        Box::pin(async move {
            match (asked.path.as_str(), asked.query.as_str()) {
                ("/v2/a/tags/list", "") => {
                    answer(200, &[("link", "</v2/a/tags/list?last=b>; rel=\"next\"")], r#"{"tags":["a","b"]}"#)
                }
                ("/v2/a/tags/list", _) => answer(200, &[], r#"{"tags":["c"]}"#),
                ("/v2/b/tags/list", _) => {
                    answer(200, &[("link", "<http://127.0.0.1:1/x>; rel=\"next\"")], r#"{"tags":["a"]}"#)
                }
                ("/v2/c/tags/list", _) => {
                    answer(200, &[("link", "</v2/c/tags/list>; rel=\"next\"")], r#"{"tags":["a"]}"#)
                }
                _ => answer(200, &[], "{}"),
            }
        })
    })
    .await;
    let name = |path: &str| format!("{}/{path}", server.host());
    let tags = repository(config(), &name("a"), Access::Pull).await.tags().await.unwrap();
    assert_eq!(tags, ["a", "b", "c"]);
    assert!(repository(config(), &name("b"), Access::Pull).await.tags().await.is_err());
    let error = repository(config(), &name("c"), Access::Pull).await.tags().await.unwrap_err();
    assert!(error.to_string().starts_with("invalid tag list"), "{error}");
    assert!(repository(config(), &name("d"), Access::Pull).await.tags().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_upload_nobody_waits_for_is_cancelled() {
    let begun = std::sync::Arc::new(tokio::sync::Notify::new());
    let cancelled = std::sync::Arc::new(tokio::sync::Notify::new());
    let (starts, ends) = (begun.clone(), cancelled.clone());
    let server = Server::start(move |asked| {
        let (starts, ends) = (starts.clone(), ends.clone());
        Box::pin(async move {
            match (asked.method.as_str(), asked.path.as_str()) {
                ("GET", "/v2/") => answer(200, &[], ""),
                ("POST", _) => answer(202, &[("location", "/v2/a/blobs/uploads/one?state=x")], ""),
                ("DELETE", "/v2/a/blobs/uploads/one") if asked.query == "state=x" => {
                    ends.notify_one();
                    answer(204, &[], "")
                }
                // The bytes are here, and no answer comes.
                _ => {
                    starts.notify_one();
                    std::future::pending().await
                }
            }
        })
    })
    .await;
    let repository = repository(config(), &format!("{}/a", server.host()), Access::Push).await;
    for length in [5, 3 << 20] {
        let bytes = blob(length);
        let (of, source) = (digest(&bytes), Memory(bytes.clone()));
        let request = UploadRequest { digest: &of, size: bytes.len() as u64, source: &source };
        let mut events = |_| {};
        let upload = repository.upload(request, &mut events);
        tokio::select! {
            result = upload => panic!("it has ended: {result:?}"),
            () = begun.notified() => {}
        }
        let waited = tokio::time::timeout(Duration::from_secs(20), cancelled.notified()).await;
        assert!(waited.is_ok(), "{:?}", server.seen.lock().unwrap());
    }
}

/// All bytes of a part, or what went wrong.
async fn part(
    repository: &dockerd_registry::Repository,
    all: &Bytes,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, String> {
    let (of, size) = (digest(all), all.len() as u64);
    let mut part = repository.range(&of, size, range).await.map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    while let Some(piece) = part.next().await {
        out.extend_from_slice(&piece.map_err(|error| error.to_string())?);
    }
    Ok(out)
}

#[tokio::test]
async fn parts_of_blobs_are_what_was_asked_for_or_an_error() {
    let all = blob(300_000);
    let bytes = all.clone();
    let server = Server::start(move |asked| {
        let bytes = bytes.clone();
        Box::pin(async move {
            match asked.range() {
                // Breaks off, says too much, says where it does not begin, knows no ranges.
                Some((1_000, _)) => {
                    let headers = [("content-range", "bytes 1000-1999/300000"), ("content-length", "1000")];
                    respond(206, &headers, body_of(vec![bytes.slice(1_000..1_500)], After::Cut))
                }
                Some((2_000, _)) => {
                    answer(206, &[("content-range", "bytes 2000-2999/300000")], bytes.slice(2_000..4_000))
                }
                Some((3_000, _)) => answer(206, &[("content-range", "bytes 0-999/300000")], bytes.slice(..1_000)),
                Some((4_000, _)) => answer(200, &[], bytes),
                Some((5_000, _)) => answer(404, &[], ""),
                _ => serve(&asked, &bytes),
            }
        })
    })
    .await;
    let repository = repository(config(), &format!("{}/a", server.host()), Access::Pull).await;
    assert_eq!(part(&repository, &all, 0..300_000).await.unwrap(), all);
    for range in [0..1, 7..4_096, 299_999..300_000] {
        let expected = all.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
        assert_eq!(part(&repository, &all, range).await.unwrap(), expected);
    }
    let failed = |error: Result<Vec<u8>, String>, words: &str| {
        let error = error.unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    failed(part(&repository, &all, 1_000..2_000).await, "unexpected EOF");
    failed(part(&repository, &all, 2_000..3_000).await, "more than was asked for");
    failed(part(&repository, &all, 3_000..4_000).await, "is not 3000-3999");
    failed(part(&repository, &all, 4_000..5_000).await, "does not send parts");
    failed(part(&repository, &all, 5_000..6_000).await, "unknown");
    failed(part(&repository, &all, 9_000..9_000).await, "invalid range");
    failed(part(&repository, &all, 9_000..300_001).await, "invalid range");
}
