//! Debian's registry: plain, by TLS, with passwords and with tokens. Needs no privilege but the program, which
//! `cargo xtask test` installs.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dockerd_registry::{
    Access, Credentials, Document, Mounting, Registry, RegistryError, Repository, Target, UploadEvent, UploadRequest,
};
use dockerd_types::{ErrorKind, Kinded};
use world::{Memory, Real, Server, answer, blob, config, digest, fetch, repository, repository_as, request, user};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

async fn send(repository: &Repository, bytes: &Bytes) -> Result<Vec<UploadEvent>, RegistryError> {
    let mut events = Vec::new();
    let source = Memory(bytes.clone());
    let of = digest(bytes);
    let request = UploadRequest { digest: &of, size: bytes.len() as u64, source: &source };
    repository.upload(request, &mut |event| events.push(event)).await.map(|()| events)
}

/// Sends an image of one layer; its manifest.
async fn send_image(repository: &Repository, layer: &Bytes, tag: &str) -> Bytes {
    let configuration = Bytes::from_static(b"{}");
    send(repository, layer).await.unwrap();
    send(repository, &configuration).await.unwrap();
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        digest(&configuration),
        digest(layer),
        layer.len()
    ));
    let put = repository.put_manifest(Target::Tag(tag), OCI, manifest.clone()).await.unwrap();
    assert_eq!(put, digest(&manifest));
    manifest
}

#[tokio::test]
async fn privileged_what_is_pushed_is_pulled() {
    let Some(real) = Real::start(|_| String::new()).await else { return };
    let mut config = config();
    (config.limits.parallel_above, config.limits.part, config.limits.chunk) = (2_000_000, 700_000, 1_000_000);
    let name = format!("{}/team/app", real.host);
    let push = repository(config.clone(), &name, Access::Push).await;
    let layer = blob(3_456_789);
    assert_eq!(push.blob_size(&digest(&layer)).await.unwrap(), None);
    let manifest = send_image(&push, &layer, "v1").await;
    assert_eq!(push.blob_size(&digest(&layer)).await.unwrap(), Some(3_456_789));
    send_image(&push, &layer, "v2").await;
    let pull = repository(config.clone(), &name, Access::Pull).await;
    let got = pull.manifest(Target::Tag("v1")).await.unwrap();
    assert_eq!((&got.bytes, got.media_type.as_str()), (&manifest, OCI));
    let Document::Image(image) = got.parse().unwrap() else { panic!("an image") };
    assert_eq!(image.layers[0].size, 3_456_789);
    let of = digest(&manifest);
    assert_eq!(pull.manifest(Target::Digest(&of)).await.unwrap().bytes, manifest);
    let head = pull.head_manifest(Target::Tag("v1")).await.unwrap();
    assert_eq!((head.digest, head.size), (Some(of), Some(manifest.len() as u64)));
    assert_eq!(pull.tags().await.unwrap(), ["v1", "v2"]);
    for offset in [0, 1, 2_000_000] {
        let fetched = fetch(&pull, request(&layer, offset as u64), &layer[..offset]).await;
        assert!(fetched.error.is_none() && fetched.restarts == 0 && fetched.bytes == layer, "{:?}", fetched.error);
    }
    let other = repository(config.clone(), &format!("{}/other", real.host), Access::Push).await;
    assert_eq!(other.mount(&digest(&layer), "team/app").await.unwrap(), Mounting::Mounted);
    assert_eq!(other.blob_size(&digest(&layer)).await.unwrap(), Some(3_456_789));
    assert_eq!(other.mount(&digest(b"not there"), "team/app").await.unwrap(), Mounting::Absent);
    // The unwanted upload of the failed mount is gone; the registry keeps no more than what it noted of its sum.
    let uploads = real.dir.path().join("data/docker/registry/v2/repositories/other/_uploads");
    let left = |dir: std::fs::DirEntry| std::fs::read_dir(dir.path()).unwrap().flatten().map(|file| file.path());
    let left: Vec<_> = std::fs::read_dir(uploads).unwrap().flatten().flat_map(left).collect();
    assert!(left.iter().all(|path| path.ends_with("hashstates")), "{left:?}");
    send(&other, &Bytes::new()).await.unwrap();
    let wrong = Memory(Bytes::from_static(b"abc"));
    let of = digest(b"abd");
    let refused = other.upload(UploadRequest { digest: &of, size: 3, source: &wrong }, &mut |_| {}).await.unwrap_err();
    assert!(refused.to_string().starts_with("digest invalid: provided digest did not match"), "{refused}");
    let error = pull.manifest(Target::Tag("none")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("manifest for {name}:none not found: manifest unknown: manifest unknown"));
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let fetched = fetch(&pull, request(b"nothing", 0), &[]).await;
    assert_eq!(fetched.error.unwrap().to_string(), "unknown blob");
}

#[tokio::test]
async fn privileged_uploads_go_on_where_they_broke_off() {
    let Some(real) = Real::start(|_| String::new()).await else { return };
    // Between us and the registry: takes the first chunk, loses the second.
    let target = real.host.clone();
    let lost = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&lost);
    let proxy = Server::start(move |asked| {
        let (target, counter) = (target.clone(), Arc::clone(&counter));
        Box::pin(async move {
            if asked.method == "PATCH" && counter.fetch_add(1, Ordering::SeqCst) == 1 {
                return answer(500, &[], "");
            }
            world::forward(&target, asked).await
        })
    })
    .await;
    let mut config = config();
    config.limits.chunk = 400_000;
    let repository = repository(config, &format!("{}/a", proxy.host()), Access::Push).await;
    let layer = blob(1_200_000);
    let events = send(&repository, &layer).await.unwrap();
    assert!(events.contains(&UploadEvent::Retrying { seconds: 5 }), "{events:?}");
    assert_eq!(events.last(), Some(&UploadEvent::Sent(1_200_000)));
    assert_eq!(proxy.requests("PATCH"), 4);
    assert_eq!(proxy.requests("POST"), 1);
    let fetched = fetch(&repository, request(&layer, 0), &[]).await;
    assert!(fetched.error.is_none() && fetched.bytes == layer);
}

#[tokio::test]
async fn privileged_passwords() {
    let access = |dir: &std::path::Path| {
        // `secret` of the user `me`, by bcrypt.
        let line = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
        std::fs::write(dir.join("htpasswd"), line).unwrap();
        format!("auth:\n  htpasswd: {{realm: r, path: {}/htpasswd}}\n", dir.display())
    };
    let Some(real) = Real::start(access).await else { return };
    let name = format!("{}/a", real.host);
    let nobody = repository(config(), &name, Access::Pull).await;
    let error = nobody.manifest(Target::Tag("x")).await.unwrap_err().to_string();
    assert_eq!(error, format!("Head \"http://{}/v2/a/manifests/x\": no basic auth credentials", real.host));
    let me = repository_as(config(), &name, Access::Push, Some(user("me", "secret"))).await;
    send_image(&me, &blob(1000), "x").await;
    me.manifest(Target::Tag("x")).await.unwrap();
    let registry = Registry::new(config()).unwrap();
    let outcome = registry.login(&real.host, &user("me", "secret")).await.unwrap();
    assert_eq!((outcome.status, outcome.identity_token.as_str()), ("Login Succeeded", ""));
    let error = registry.login(&real.host, &user("me", "wrong")).await.unwrap_err();
    let expected = format!("login attempt to http://{}/v2/ failed with status: 401 Unauthorized", real.host);
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn privileged_tls_with_a_private_authority() {
    let ca = world::authority();
    let server = ca.issue("127.0.0.1");
    let client = ca.issue("client");
    let text = server.clone();
    let authority = ca.pem.clone();
    let Some(real) = Real::start(move |dir| {
        std::fs::write(dir.join("s.crt"), &text.0).unwrap();
        std::fs::write(dir.join("s.key"), &text.1).unwrap();
        std::fs::write(dir.join("ca.crt"), &authority).unwrap();
        let dir = dir.display();
        format!("---\n  tls:\n    certificate: {dir}/s.crt\n    key: {dir}/s.key\n    clientcas: [{dir}/ca.crt]\n")
    })
    .await
    else {
        return;
    };
    // Loopback is insecure by definition; a proxy makes a name of it.
    let name = "registry.example:5000";
    let tunnel = world::tunnel(real.host.clone()).await;
    let mut config = config();
    config.proxies.https = format!("http://{}", tunnel.address);
    let error = repository(config.clone(), &format!("{name}/a"), Access::Pull).await.manifest(Target::Tag("x")).await;
    let unknown = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert_eq!(error.unwrap_err().to_string(), format!("Get \"https://{name}/v2/\": {unknown}"));
    let certs = tempfile::tempdir().unwrap();
    let dir = certs.path().join(name);
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("ca.crt"), &ca.pem).unwrap();
    config.certs_dirs = vec![certs.path().to_owned()];
    // Without its certificate the registry does not talk to us.
    let error = repository(config.clone(), &format!("{name}/a"), Access::Pull).await.manifest(Target::Tag("x")).await;
    assert!(matches!(error, Err(RegistryError::Request { .. })), "{error:?}");
    std::fs::write(dir.join("me.cert"), &client.0).unwrap();
    std::fs::write(dir.join("me.key"), &client.1).unwrap();
    let push = repository(config.clone(), &format!("{name}/a"), Access::Push).await;
    send_image(&push, &blob(100_000), "x").await;
    push.manifest(Target::Tag("x")).await.unwrap();
    assert!(tunnel.requests("CONNECT registry.example:5000") > 0);
    // By loopback: not verified, but `certs.d` is not looked at either; the registry's port without TLS says what is wrong.
    let plain = repository(world::config(), &format!("{}/a", real.host), Access::Pull).await;
    let error = plain.manifest(Target::Tag("x")).await.unwrap_err().to_string();
    assert!(error.starts_with("unknown: Client sent an HTTP request to an HTTPS server."), "{error}");
}

#[tokio::test]
async fn privileged_a_certificate_that_is_its_own_authority() {
    let both = world::authority_for(&["registry.example"]);
    let (pem, key) = (both.pem.clone(), both.key());
    let Some(real) = Real::start(move |dir| {
        std::fs::write(dir.join("s.crt"), &pem).unwrap();
        std::fs::write(dir.join("s.key"), &key).unwrap();
        format!("---\n  tls: {{certificate: {0}/s.crt, key: {0}/s.key}}\n", dir.display())
    })
    .await
    else {
        return;
    };
    let tunnel = world::tunnel(real.host.clone()).await;
    let certs = tempfile::tempdir().unwrap();
    let mut config = config();
    config.proxies.https = format!("http://{}", tunnel.address);
    config.certs_dirs = vec![certs.path().to_owned()];
    for (name, good) in [("registry.example", true), ("other.example", false)] {
        let repository = repository(config.clone(), &format!("{name}/a"), Access::Pull).await;
        assert!(repository.manifest(Target::Tag("x")).await.unwrap_err().to_string().contains("x509: "));
        std::fs::create_dir(certs.path().join(name)).unwrap();
        std::fs::write(certs.path().join(name).join("ca.crt"), &both.pem).unwrap();
        let repository = world::repository(config.clone(), &format!("{name}/a"), Access::Pull).await;
        let error = repository.manifest(Target::Tag("x")).await.unwrap_err();
        let valid = "x509: certificate is valid for registry.example, not other.example";
        assert!(matches!(error, RegistryError::ManifestUnknown { .. }) == good, "{error}");
        assert!(error.to_string().contains(valid) != good, "{error}");
    }
}

#[tokio::test]
async fn tokens_are_fetched_once_and_renewed() {
    let server = Server::start(|asked| {
        Box::pin(async move {
            let json = ("content-type", "application/json");
            let host = asked.header("host").to_owned();
            let realm = format!("Bearer realm=\"http://{host}/token\",service=\"the service\"");
            let challenge = [json, ("www-authenticate", realm.as_str())];
            let body = String::from_utf8_lossy(&asked.body).into_owned();
            match (asked.path.as_str(), asked.method.as_str()) {
                ("/token", "GET") if asked.header("authorization") == "Basic bWU6d3Jvbmc=" => {
                    answer(401, &[json], r#"{"details":"incorrect username or password"}"#)
                }
                ("/token", "GET") => {
                    assert!(asked.query.contains("service=the+service"), "{}", asked.query);
                    let offline = asked.query.contains("offline_token=true");
                    let refresh = if offline { r#","refresh_token":"refresh""# } else { "" };
                    answer(200, &[json], format!(r#"{{"token":"{}"{refresh}}}"#, asked.count))
                }
                ("/token", _) => {
                    assert!(body.contains("grant_type=refresh_token&refresh_token=identity"), "{body}");
                    answer(200, &[json], r#"{"access_token":"by-identity","expires_in":900}"#)
                }
                ("/v2/", _) if asked.header("authorization").is_empty() => answer(401, &challenge, "{}"),
                ("/v2/a/tags/list", _) if asked.header("authorization").is_empty() => answer(401, &challenge, "{}"),
                // The third answer with a token is that it is no longer good.
                ("/v2/a/tags/list", _) if asked.count == 4 => answer(401, &challenge, "{}"),
                ("/v2/a/tags/list", _) => {
                    answer(200, &[], format!(r#"{{"tags":["{}"]}}"#, asked.header("authorization")))
                }
                _ => answer(200, &[], "{}"),
            }
        })
    })
    .await;
    let name = format!("{}/a", server.host());
    let anonymous = repository(config(), &name, Access::Pull).await;
    for expected in ["Bearer 1", "Bearer 1", "Bearer 5", "Bearer 5"] {
        assert_eq!(anonymous.tags().await.unwrap(), [expected]);
    }
    let text = |text: &str| text.to_owned();
    let identity = Credentials { username: text("me"), identity_token: text("identity"), ..Credentials::default() };
    let by_identity = repository_as(config(), &name, Access::Pull, Some(identity)).await;
    assert_eq!(by_identity.tags().await.unwrap(), ["Bearer by-identity"]);
    let direct = Credentials { registry_token: text("direct"), ..Credentials::default() };
    let by_token = repository_as(config(), &name, Access::Pull, Some(direct)).await;
    assert_eq!(by_token.tags().await.unwrap(), ["Bearer direct"]);
    let registry = Registry::new(config()).unwrap();
    let outcome = registry.login(&server.host(), &user("me", "secret")).await.unwrap();
    assert_eq!(outcome.identity_token, "refresh");
    let error = registry.login(&server.host(), &user("me", "wrong")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    let expected = format!("Get \"http://{}/v2/\": unauthorized: incorrect username or password", server.host());
    assert_eq!(error.to_string(), expected);
    assert!(!format!("{error:?}").contains("wrong"));
}

#[tokio::test]
async fn search_asks_the_first_api() {
    let server = Server::start(|asked| {
        Box::pin(async move {
            match (asked.path.as_str(), asked.query.as_str()) {
                ("/v1/_ping", _) => answer(200, &[], "true"),
                ("/v1/search", "q=team%2Fapp&n=25") => {
                    assert_eq!(asked.header("x-docker-token"), "true");
                    let body =
                        r#"{"num_results":1,"results":[{"name":"team/app","star_count":3,"is_automated":true}]}"#;
                    answer(200, &[], body)
                }
                _ => answer(404, &[], ""),
            }
        })
    })
    .await;
    let registry = Registry::new(config()).unwrap();
    let found = registry.search(&format!("{}/team/app", server.host()), 0, None).await.unwrap();
    assert_eq!((found.len(), found[0].star_count, found[0].is_automated), (1, 3, false));
    let error = registry.search(&format!("{}/other", server.host()), 10, None).await.unwrap_err();
    assert_eq!(error.to_string(), "Unexpected status code 404");
}
