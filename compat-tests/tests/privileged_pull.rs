//! `docker pull`: what it prints and answers, what it leaves, what it asks a registry for. The registry is Debian's where
//! only the outcome matters, and one in memory where the requests do.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::check::until;
use compat_tests::golden::Golden;
use compat_tests::hostile::Hostile;
use compat_tests::network::Network;
use compat_tests::progress::Progress;
use compat_tests::seed::{self, Blob, Family, Form, Image, Layer, Packed};
use compat_tests::server::{Answer, Body, Gate};
use compat_tests::{Case, Suite, http, tests};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

mod registries;

use registries::{Fixture, nothing_is_left, shorts, untagged};

fn main() -> ExitCode {
    Suite {
        name: "pull",
        flags: &[],
        tests: tests![
            by_tag,
            stream_of_a_new_image,
            layers_are_shared,
            by_digest,
            all_tags,
            moved_tag,
            digests_are_untagged,
            platforms,
            attestations_are_left_alone,
            other_single_platform,
            sha512,
            layer_forms,
            foreign_layers,
            not_found,
            bad_names,
            events,
            run_pulls,
            create_pulls,
            what_is_asked,
            two_pulls_at_once,
            the_client_goes,
            distribution,
            search,
            manifest_commands,
        ],
    }
    .main()
}

fn by_tag(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = Image::of_layers(Family::Docker, t.prefix(), 2).packed();
    let name = t.reference(fixture.registry.put("one", "v1", &image)?);
    let repository = name.trim_end_matches(":v1");
    let digest = &image.manifest.digest;
    let pulled = t.docker(&["pull", &name]).ok()?;
    let lines: Vec<&str> = pulled.lines().collect();
    assert_eq!(lines[0], "v1: Pulling from one");
    let last = [format!("Digest: {digest}"), format!("Status: Downloaded newer image for {name}"), name.clone()];
    assert_eq!(lines[lines.len() - 3..], last);
    for layer in &image.layers {
        assert!(pulled.contains(&format!("{}: Pull complete", layer.short())), "{pulled}");
    }
    let again = format!("v1: Pulling from one\nDigest: {digest}\nStatus: Image is up to date for {name}\n{name}");
    assert_eq!(t.docker(&["pull", &name]).ok()?, again);
    assert_eq!(t.docker(&["pull", "-q", &name]).ok()?, name);
    let seen: Value = t.http("GET", &format!("/images/{name}/json"))?.json().context("inspect of what was pulled")?;
    assert_eq!(seen["Id"], image.id());
    assert_eq!(seen["RepoTags"], json!([name]));
    assert_eq!(seen["RepoDigests"], json!([format!("{repository}@{digest}")]));
    assert_eq!(seen["RootFS"]["Layers"], json!(image.diff_ids));
    assert_eq!(seen["Os"], "linux");
    // Only `docker tag` sets it.
    assert_eq!(seen["Metadata"]["LastTagTime"], "0001-01-01T00:00:00Z");
    let list = t.docker(&["images", "--digests", "--no-trunc", "--format", "{{.Tag}} {{.Digest}} {{.ID}}", repository]);
    assert_eq!(list.ok()?, format!("v1 {digest} {}", image.id()));
    Ok(())
}

fn stream_of_a_new_image(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    // More layers than are fetched at once, the largest too large for one piece.
    let mut layers: Vec<Layer> =
        (0..5).map(|i| Layer::file(&format!("f{i}"), format!("{} {i}", t.prefix()).as_bytes())).collect();
    layers.push(Layer::file("large", &seed::noise(t.prefix(), 300_000)));
    let image = Image::new(Family::Oci, t.prefix(), layers).packed();
    let name = t.reference(fixture.registry.put("many", "v1", &image)?);
    let repository = name.trim_end_matches(":v1");
    let progress = Progress::of_pull(t.host(), repository, "v1")?;
    progress.check_pull(&shorts(&image))?;
    let digest = &image.manifest.digest;
    let status = format!("Status: Downloaded newer image for {name}");
    assert_eq!(progress.lines(&shorts(&image)), ["v1: Pulling from many", &format!("Digest: {digest}"), &status]);
    let large = image.layers[5].short();
    let of_large = progress.documents.iter().filter(|document| document["id"] == *large);
    let with_total = of_large.filter(|document| document["progressDetail"]["total"].is_u64());
    for document in with_total {
        assert_eq!(document["progressDetail"]["total"], image.layers[5].bytes.len(), "{document}");
    }
    // The name of a tag may be part of `fromImage`, and `latest` is not meant where there is none: all are.
    for path in [format!("fromImage={name}"), format!("fromImage={repository}&tag=v1")] {
        let again = Progress::of(t.host(), &format!("/images/create?{path}"), None)?;
        let status = format!("Status: Image is up to date for {name}");
        assert_eq!(again.lines(&[]), ["v1: Pulling from many", &format!("Digest: {digest}"), &status]);
    }
    let all = Progress::of(t.host(), &format!("/images/create?fromImage={repository}"), None)?;
    let status = format!("Status: Image is up to date for {repository}");
    assert_eq!(all.lines(&[]), ["v1: Pulling from many", &format!("Digest: {digest}"), &status]);
    Ok(())
}

fn layers_are_shared(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let layer = |what: &str| Layer::file("f", format!("{} {what}", t.prefix()).as_bytes());
    let small = Image::new(Family::Docker, t.prefix(), vec![layer("a"), layer("b")]).packed();
    // The same below, then the same layer twice, then an empty one.
    let empty = Layer { tar: seed::tar_of(&[]), form: Form::Gzip };
    let twice = vec![layer("a"), layer("b"), layer("c"), layer("c"), empty];
    let large = Image::new(Family::Docker, t.prefix(), twice).packed();
    let twin = Image::new(Family::Docker, "another label", vec![layer("a"), layer("b")]).packed();
    let small_name = t.reference(fixture.registry.put("r", "small", &small)?);
    let large_name = t.reference(fixture.registry.put("r", "large", &large)?);
    let twin_name = t.reference(fixture.registry.put("twin", "v1", &twin)?);
    t.docker(&["pull", "-q", &small_name]).ok()?;
    let progress = Progress::of_pull(t.host(), large_name.trim_end_matches(":large"), "large")?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    let shared = &shorts(&large)[..2];
    assert_eq!(progress.order_of("Already exists"), shared);
    for (id, seen) in progress.of_layers(&shorts(&large)) {
        let is_new = !shared.contains(&id);
        assert_eq!(is_new, seen.contains(&"Pull complete".to_owned()), "{id}: {seen:?}");
        assert!(is_new || seen == ["Already exists"], "{id}: {seen:?}");
    }
    let progress = Progress::of_pull(t.host(), twin_name.trim_end_matches(":v1"), "v1")?;
    assert_eq!(progress.order_of("Already exists"), shorts(&twin));
    let layers = t.docker(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", &large_name]).ok()?;
    assert_eq!(serde_json::from_str::<Value>(&layers)?, json!(large.diff_ids));
    Ok(())
}

fn by_digest(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = Image::of_layers(Family::Docker, t.prefix(), 1).packed();
    let tagged = t.reference(fixture.registry.put("d", "v1", &image)?);
    let repository = tagged.trim_end_matches(":v1").to_owned();
    let name = t.reference(format!("{repository}@{}", image.manifest.digest));
    let pulled = t.docker(&["pull", &name]).ok()?;
    assert!(pulled.starts_with(&format!("{name}: Pulling from d\n")), "{pulled}");
    let end = format!("Digest: {}\nStatus: Downloaded newer image for {name}\n{name}", image.manifest.digest);
    assert!(pulled.ends_with(&end), "{pulled}");
    let names = "{{json .RepoTags}} {{json .RepoDigests}}";
    assert_eq!(t.docker(&["image", "inspect", "-f", names, &name]).ok()?, format!("[] [\"{name}\"]"));
    let list = ["images", "--digests", "--format", "{{.Tag}} {{.Digest}}", &repository];
    assert_eq!(t.docker(&list).ok()?, format!("<none> {}", image.manifest.digest));
    // A tag beside the digest is read and not used.
    let both = format!("{tagged}@{}", image.manifest.digest);
    let again = t.docker(&["pull", &both]).ok()?;
    let up_to_date = format!("Status: Image is up to date for {name}\n{both}");
    assert!(again.starts_with(&format!("{name}: Pulling from d\n")) && again.ends_with(&up_to_date), "{again}");
    assert_eq!(t.docker(&["image", "inspect", "-f", names, &name]).ok()?, format!("[] [\"{name}\"]"));
    for path in [format!("{repository}&tag={}", image.manifest.digest), name.clone()] {
        let progress = Progress::of(t.host(), &format!("/images/create?fromImage={path}"), None)?;
        assert_eq!(progress.documents[0], json!({"status": "Pulling from d", "id": name}));
    }
    // The tag is new, the image is not.
    let newer = t.docker(&["pull", &tagged]).ok()?;
    assert!(newer.ends_with(&format!("Status: Downloaded newer image for {tagged}\n{tagged}")), "{newer}");
    assert_eq!(newer.lines().count(), 4, "{newer}");
    Ok(())
}

fn all_tags(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let one = Image::of_layers(Family::Docker, t.prefix(), 1).packed();
    let two = Image::of_layers(Family::Oci, t.prefix(), 2).packed();
    let first = t.reference(fixture.registry.put("all", "a", &one)?);
    t.reference(fixture.registry.put("all", "b", &two)?);
    let repository = first.trim_end_matches(":a");
    let pulled = t.docker(&["pull", "-a", repository]).ok()?;
    let outside: Vec<&str> =
        pulled.lines().filter(|line| line.split(':').next().is_none_or(|id| id.len() != 12)).collect();
    // In the order in which the registry lists them.
    let tags = fixture.registry.request("GET", "/v2/all/tags/list", &[], b"")?.json()?;
    let tags = tags["tags"].as_array().context("tags")?.iter().filter_map(Value::as_str);
    let of_tag = |tag: &str| {
        let image = if tag == "a" { &one } else { &two };
        [format!("{tag}: Pulling from all"), format!("Digest: {}", image.manifest.digest)]
    };
    let lines: Vec<String> = tags.flat_map(of_tag).collect();
    let with =
        |status: &str| [&lines[..], &[format!("Status: {status} for {repository}"), repository.to_owned()]].concat();
    assert_eq!(outside, with("Downloaded newer image"));
    let again = t.docker(&["pull", "-a", repository]).ok()?;
    assert_eq!(again.lines().collect::<Vec<_>>(), with("Image is up to date"));
    assert_eq!(t.docker(&["pull", "-q", "-a", repository]).ok()?, repository);
    let refused = t.docker(&["pull", "-a", &first]);
    assert_eq!((refused.code, refused.err.as_str()), (1, "tag can't be used with --all-tags/-a"));
    Ok(())
}

fn moved_tag(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let old = Image::of_layers(Family::Docker, t.prefix(), 1).packed();
    let new = Image::of_layers(Family::Docker, t.prefix(), 2).packed();
    let name = t.reference(fixture.registry.put("moves", "v1", &old)?);
    let repository = name.trim_end_matches(":v1");
    t.docker(&["pull", "-q", &name]).ok()?;
    fixture.registry.put("moves", "v1", &new)?;
    let pulled = t.docker(&["pull", &name]).ok()?;
    assert!(pulled.contains(&format!("Status: Downloaded newer image for {name}")), "{pulled}");
    assert!(pulled.contains(&format!("{}: Already exists", old.layers[0].short())), "{pulled}");
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?, new.id());
    // The one before keeps its digest and lost its tag.
    let by_digest = t.reference(format!("{repository}@{}", old.manifest.digest));
    let names = t.docker(&["image", "inspect", "-f", "{{.Id}} {{json .RepoTags}} {{json .RepoDigests}}", &by_digest]);
    assert_eq!(names.ok()?, format!("{} [] [\"{by_digest}\"]", old.id()));
    let dangling = t.docker(&["images", "-q", "--no-trunc", "--filter", "dangling=true", repository]).ok()?;
    assert_eq!(dangling, old.id());
    Ok(())
}

fn digests_are_untagged(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = Image::of_layers(Family::Docker, t.prefix(), 2).packed();
    let name = t.reference(fixture.registry.put("gone", "v1", &image)?);
    let by_digest = t.reference(format!("{}@{}", name.trim_end_matches(":v1"), image.manifest.digest));
    t.docker(&["pull", "-q", &name]).ok()?;
    let removed = t.docker(&["rmi", &name]).ok()?;
    let lines: Vec<&str> = removed.lines().collect();
    let untagged = [format!("Untagged: {name}"), format!("Untagged: {by_digest}"), format!("Deleted: {}", image.id())];
    assert_eq!(lines[..3], untagged);
    // Then the layers by their chain ids, top first.
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[4], format!("Deleted: {}", image.diff_ids[0]));
    let gone = t.docker(&["rmi", &by_digest]);
    assert_eq!(gone.err, format!("Error response from daemon: No such image: {by_digest}"));
    // A digest alone is taken off, and the tag stays.
    t.docker(&["pull", "-q", &name]).ok()?;
    assert_eq!(t.docker(&["rmi", &by_digest]).ok()?, format!("Untagged: {by_digest}"));
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", &name]).ok()?, "[]");
    let removed = t.docker(&["rmi", &name]).ok()?;
    assert!(removed.starts_with(&format!("Untagged: {name}\nDeleted: {}", image.id())), "{removed}");
    // One tag of two: the digest stays with the other.
    t.docker(&["pull", "-q", &name]).ok()?;
    let other = t.reference(format!("{}:other", name.trim_end_matches(":v1")));
    t.docker(&["tag", &name, &other]).ok()?;
    assert_eq!(t.docker(&["rmi", &other]).ok()?, format!("Untagged: {other}"));
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{index .RepoDigests 0}}", &name]).ok()?, by_digest);
    // By digest where a tag in the same repository is left, in use by nothing else.
    let elsewhere = t.tag("elsewhere");
    t.docker(&["tag", &name, &elsewhere]).ok()?;
    assert_eq!(t.docker(&["rmi", &name]).ok()?, format!("Untagged: {name}\nUntagged: {by_digest}"));
    Ok(())
}

/// Images for two architectures beside each other, in an index.
fn of_two_platforms(t: &Case<'_>, family: Family) -> (Packed, Packed) {
    let host = Image::of_layers(family, &format!("{} {family:?} here", t.prefix()), 1);
    let foreign = if host.platform.1 == "arm64" { "amd64" } else { "arm64" };
    let other = Image::of_layers(family, &format!("{} {family:?} there", t.prefix()), 1).architecture(foreign);
    (host.packed(), other.packed())
}

fn platforms(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    for (family, repository) in [(Family::Docker, "list"), (Family::Oci, "index")] {
        let (here, there) = of_two_platforms(t, family);
        for image in [&here, &there] {
            fixture.registry.put(repository, &image.platform.1, image)?;
        }
        let index = seed::index(family, &[there.entry(&[]), here.entry(&[])]);
        let name = t.reference(fixture.registry.put_manifest(repository, "v1", &index)?);
        let pulled = t.docker(&["pull", &name]).ok()?;
        // The digest is that of the index.
        assert!(pulled.contains(&format!("Digest: {}\n", index.digest)), "{pulled}");
        let seen = ["image", "inspect", "-f", "{{.Id}} {{.Architecture}}", &name];
        let by_digest = t.reference(format!("{}@{}", untagged(&name), index.digest));
        let digests = t.docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", &name]).ok()?;
        assert_eq!(digests, format!("[\"{by_digest}\"]"));
        assert_eq!(t.docker(&seen).ok()?, format!("{} {}", here.id(), here.platform.1));
        let platform = format!("linux/{}", there.platform.1);
        let pulled = t.docker(&["pull", "--platform", &platform, &name]).ok()?;
        assert!(pulled.contains(&format!("Status: Downloaded newer image for {name}")), "{pulled}");
        assert_eq!(t.docker(&seen).ok()?, format!("{} {}", there.id(), there.platform.1));
        // Which of the two images the index's digest now names is left open: the stock daemon logs an error and lets it
        // name the first one.
        // Pulled anew, it is again the one for this machine.
        t.docker(&["rmi", "-f", here.id(), there.id()]).ok()?;
        t.docker(&["pull", "-q", &by_digest]).ok()?;
        let id = t.docker(&["image", "inspect", "-f", "{{.Id}}", &by_digest]).ok()?;
        assert_eq!(id, here.id());
        let absent = t.docker(&["pull", "--platform", "linux/riscv64", &name]);
        let text = match family {
            Family::Docker => "no matching manifest for linux/riscv64 in the manifest list entries",
            Family::Oci => "no matching manifest for linux/riscv64 in the manifest list entries",
        };
        assert_eq!((absent.code, absent.err), (1, text.to_owned()));
    }
    Ok(())
}

fn attestations_are_left_alone(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = Image::of_layers(Family::Oci, t.prefix(), 1).packed();
    let attested = seed::attestation(&image);
    fixture.registry.put("attested", "image", &image)?;
    fixture.registry.put("attested", "attestation", &attested)?;
    let annotations = [
        ("vnd.docker.reference.digest", image.manifest.digest.as_str()),
        ("vnd.docker.reference.type", "attestation-manifest"),
    ];
    // First in the index, where it would be taken by whoever takes the first.
    let index = seed::index(Family::Oci, &[attested.entry(&annotations), image.entry(&[])]);
    let name = t.reference(fixture.registry.put_manifest("attested", "v1", &index)?);
    t.docker(&["pull", "-q", &name]).ok()?;
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?, image.id());
    Ok(())
}

/// Layers named by another algorithm than usual, which the OCI image specification allows.
fn sha512(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let registry = Hostile::tame(&network)?;
    for (what, is_right) in [("right", true), ("wrong", false)] {
        let mut image = Image::of_layers(Family::Oci, &format!("{} sha512 {what}", t.prefix()), 2).packed();
        for layer in &mut image.layers {
            let mut named = layer.bytes.clone();
            named.extend_from_slice(if is_right { b"" } else { b"more" });
            layer.digest = format!("sha512:{}", hex::encode(Sha512::digest(&named)));
        }
        let layers = image.layers.iter().map(Blob::descriptor).collect();
        image.manifest = seed::manifest(seed::OCI_MANIFEST, image.config.descriptor(), layers);
        let name = t.reference(registry.put("some", what, &image));
        let progress = Progress::of_pull(t.host(), untagged(&name), what)?;
        if is_right {
            ensure!(progress.error().is_empty(), "{progress:?}");
            let id = t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?;
            ensure!(id == image.id(), "{id}");
            let again = Progress::of_pull(t.host(), untagged(&name), what)?;
            ensure!(again.error().is_empty(), "{again:?}");
        } else {
            ensure!(
                progress.error().contains("filesystem layer verification failed for digest sha512:"),
                "{progress:?}"
            );
        }
    }
    Ok(())
}

fn other_single_platform(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = Image::of_layers(Family::Docker, t.prefix(), 1).architecture("s390x").packed();
    let name = t.reference(fixture.registry.put("other", "v1", &image)?);
    // A manifest that is no index is taken as it is.
    let pulled = t.docker(&["pull", &name]);
    ensure!(pulled.code == 0, "{pulled:?}");
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Architecture}}", &name]).ok()?, "s390x");
    let again = t.docker(&["pull", "--platform", "linux/riscv64", &name]);
    let warning = format!(
        "WARNING: image with reference {name} was found but its platform (linux/s390x) does not match the specified \
         platform (linux/riscv64)"
    );
    assert!(again.code == 0 && again.out.contains(&warning), "{again:?}");
    t.docker(&["rmi", &name]).ok()?;
    let refused = t.docker(&["pull", "--platform", "linux/riscv64", &name]);
    // It is fetched all the same, and the client is warned.
    assert!(refused.code == 0 && refused.out.contains(&warning), "{refused:?}");
    Ok(())
}

fn layer_forms(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    for (family, forms) in
        [(Family::Docker, vec![Form::Plain, Form::Gzip]), (Family::Oci, vec![Form::Plain, Form::Gzip, Form::Zstd])]
    {
        let layer = |(index, form): (usize, &Form)| {
            Layer::file(&format!("f{index}"), format!("{} {family:?} {index}", t.prefix()).as_bytes())
                .form(form.clone())
        };
        let image = Image::new(family, t.prefix(), forms.iter().enumerate().map(layer).collect()).packed();
        let repository = format!("forms-{family:?}").to_lowercase();
        let name = t.reference(fixture.registry.put(&repository, "v1", &image)?);
        t.docker(&["pull", "-q", &name]).ok()?;
        let layers = t.docker(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", &name]).ok()?;
        assert_eq!(serde_json::from_str::<Value>(&layers)?, json!(image.diff_ids));
        let container = t.container(&repository);
        t.docker(&["create", "--name", &container, &name, "x"]).ok()?;
        for index in 0..forms.len() {
            let (_, here) = t.files(&format!("out-{repository}"))?;
            let to = here.join(format!("f{index}"));
            t.docker(&["cp", &format!("{container}:/f{index}"), &to.to_string_lossy()]).ok()?;
            assert_eq!(std::fs::read_to_string(to)?, format!("{} {family:?} {index}", t.prefix()));
        }
    }
    Ok(())
}

fn foreign_layers(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let elsewhere = Hostile::tame(&fixture.network)?;
    let image = |urls: Vec<String>| {
        let layers = vec![Layer::file("f", t.prefix().as_bytes()).form(Form::Foreign(urls))];
        Image::new(Family::Docker, t.prefix(), layers).packed()
    };
    let blob = image(Vec::new()).layers[0].clone();
    elsewhere.put_blob("files", &blob);
    let image = image(vec![format!("http://{}/v2/files/blobs/{}", elsewhere.address(), blob.digest)]);
    // Not at the registry.
    fixture.registry.put_blob("foreign", &image.config)?;
    let name = t.reference(fixture.registry.put_manifest("foreign", "v1", &image.manifest)?);
    // On Linux the stock daemon asks the registry alone. One that goes where the manifest says is as good.
    let pulled = t.docker(&["pull", &name]);
    if pulled.code == 0 {
        assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?, image.id());
    } else {
        assert_eq!((pulled.code, pulled.err.as_str()), (1, "unknown blob"));
        nothing_is_left(t, untagged(&name))?;
    }
    // Kept at the registry too, it is an ordinary layer.
    fixture.registry.put_blob("foreign", &blob)?;
    t.docker(&["pull", "-q", &name]).ok()?;
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?, image.id());
    Ok(())
}

fn not_found(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = Image::of_layers(Family::Docker, t.prefix(), 1).packed();
    let name = fixture.registry.put("here", "v1", &image)?;
    let here = untagged(&name);
    let absent = format!("sha256:{}", "0".repeat(64));
    for (name, separator, reference) in [
        (here.to_owned(), ":", "nope"),
        (here.to_owned(), "@", &absent),
        (format!("{}/nowhere", fixture.registry.address()), ":", "v1"),
    ] {
        let whole = format!("{name}{separator}{reference}");
        let text = format!("manifest for {whole} not found: manifest unknown: manifest unknown");
        let pulled = t.docker(&["pull", &whole]);
        let err = format!("Error response from daemon: {text}");
        assert_eq!((pulled.code, pulled.out.as_str(), pulled.err), (1, "", err));
        let progress = Progress::of_pull(t.host(), &name, reference)?;
        assert_eq!((progress.status, progress.error()), (404, text.as_str()));
    }
    let latest = t.docker(&["pull", here]);
    assert_eq!((latest.code, latest.out.as_str()), (1, "Using default tag: latest"));
    let all = t.docker(&["pull", "-a", &format!("{}/nowhere", fixture.registry.address())]);
    let text = format!("repository {}/nowhere not found", fixture.registry.address());
    let text = format!("Error response from daemon: {text}: name unknown: repository name not known to registry");
    assert_eq!((all.code, all.err), (1, text));
    // Nobody listens at port 1.
    let refused = Progress::of_pull(t.host(), "127.0.0.1:1/x", "y")?;
    assert_eq!(refused.status, 500);
    let text = "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused";
    assert_eq!(refused.error(), text);
    Ok(())
}

fn bad_names(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let base = fixture.registry.address();
    for (query, status, text) in [
        (format!("fromImage={base}/UPPER"), 400, "invalid reference format: repository name (UPPER) must be lowercase"),
        (format!("fromImage={base}/a&tag=bad!tag"), 400, "invalid tag format"),
        (
            format!("fromImage={base}/a&tag=x&platform=a/b/c/d"),
            400,
            "\"a/b/c/d\": cannot parse platform specifier: invalid argument",
        ),
        (
            format!("fromImage={base}/a&tag=x&platform=bogus"),
            400,
            "\"bogus\": unknown operating system or architecture: invalid argument",
        ),
        ("fromImage=scratch".to_owned(), 403, "'scratch' is a reserved name"),
    ] {
        let progress = Progress::of(t.host(), &format!("/images/create?{query}"), None)?;
        assert_eq!((progress.status, progress.error()), (status, text), "{query}");
    }
    Ok(())
}

fn events(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = Image::of_layers(Family::Docker, t.prefix(), 1).packed();
    let name = t.reference(fixture.registry.put("events", "v1", &image)?);
    let by_digest = t.reference(format!("{}@{}", untagged(&name), image.manifest.digest));
    let begin = t.now();
    for name in [&name, &name, &by_digest] {
        t.docker(&["pull", "-q", name]).ok()?;
    }
    t.docker(&["rmi", &name]).ok()?;
    let label = format!("label=test={}", t.prefix());
    let format = "{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}";
    let until = t.now();
    let seen = ["events", "--since", &begin, "--until", &until, "--filter", &label, "--format", format];
    let repository = untagged(&name);
    let wanted = [
        format!("image pull {name} {repository}"),
        format!("image pull {name} {repository}"),
        format!("image pull {by_digest} {repository}"),
        format!("image untag {id} {id}", id = image.id()),
    ];
    // `delete` has no labels any more.
    assert_eq!(t.docker(&seen).ok()?, wanted.join("\n"));
    Ok(())
}

/// An image that can run, as large as busybox.
fn runnable(t: &Case<'_>) -> Result<Packed> {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| std::path::Path::new(path).exists());
    let program = std::fs::read(busybox.context("busybox-static is not installed")?)?;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    builder.append_data(&mut header, "bin/busybox", &program[..])?;
    let layer = Layer { tar: builder.into_inner()?, form: Form::Gzip };
    let mut image = Image::new(Family::Oci, t.prefix(), vec![layer]);
    image.command = ["/bin/busybox", "echo", "pulled and run"].map(str::to_owned).to_vec();
    Ok(image.packed())
}

fn run_pulls(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = runnable(t)?;
    let name = t.reference(fixture.registry.put("run", "v1", &image)?);
    let run = |policy: &str| t.docker(&["run", "--rm", "--network", "none", "--pull", policy, &name]);
    let never = run("never");
    assert_eq!((never.code, never.out.as_str()), (125, ""));
    assert!(never.err.contains(&format!("No such image: {name}")), "{}", never.err);
    let missing = run("missing");
    assert_eq!((missing.code, missing.out.as_str()), (0, "pulled and run"));
    assert!(missing.err.starts_with(&format!("Unable to find image '{name}' locally\nv1: Pulling from run")));
    assert!(missing.err.ends_with(&format!("Status: Downloaded newer image for {name}")), "{}", missing.err);
    let missing = run("missing");
    assert_eq!((missing.code, missing.out.as_str(), missing.err.as_str()), (0, "pulled and run", ""));
    let always = run("always");
    assert_eq!((always.code, always.out.as_str()), (0, "pulled and run"));
    assert!(always.err.ends_with(&format!("Status: Image is up to date for {name}")), "{}", always.err);
    Ok(())
}

fn create_pulls(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = Image::of_layers(Family::Docker, t.prefix(), 1).packed();
    let name = t.reference(fixture.registry.put("create", "v1", &image)?);
    let container = t.container("made");
    let body = json!({"Image": name, "Cmd": ["x"]});
    let refused = t.http_json("POST", &format!("/containers/create?name={container}"), &body)?;
    assert_eq!((refused.status, refused.message()), (404, format!("No such image: {name}")));
    let made = t.docker(&["create", "--name", &container, &name]);
    assert!(made.code == 0 && made.err.contains("Unable to find image"), "{made:?}");
    let absent = format!("{}:absent", untagged(&name));
    let made = t.docker(&["create", &absent]);
    let text =
        format!("Unable to find image '{absent}' locally\nError response from daemon: manifest for {absent} not found");
    assert!(made.code == 1 && made.err.starts_with(&text), "{made:?}");
    let ran = t.docker(&["run", &absent]);
    assert!(ran.code == 125, "{ran:?}");
    Ok(())
}

fn what_is_asked(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let registry = Hostile::tame(&network)?;
    let image = Image::of_layers(Family::Oci, t.prefix(), 2).packed();
    let name = t.reference(registry.put("asked", "v1", &image));
    t.docker(&["pull", "-q", &name]).ok()?;
    let requests = registry.server().requests();
    for request in &requests {
        assert!(request.header("user-agent").starts_with("docker/"), "{request:?}");
    }
    let accepted: Vec<String> = requests
        .iter()
        .filter(|request| request.path.contains("/manifests/"))
        .map(|request| request.header("accept").to_owned())
        .collect();
    for media_type in [seed::DOCKER_MANIFEST, seed::DOCKER_LIST, seed::OCI_MANIFEST, seed::OCI_INDEX] {
        assert!(!accepted.is_empty() && accepted.iter().all(|list| list.contains(media_type)), "{accepted:?}");
    }
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(registry.asked_for(blob), ["GET"]);
    }
    // What is there already is not fetched again, nor is the manifest's body where its digest is known.
    registry.server().taken_lines();
    t.docker(&["pull", "-q", &name]).ok()?;
    let lines = registry.server().taken_lines();
    assert!(!lines.iter().any(|line| line.contains("/blobs/")), "{lines:?}");
    assert_eq!(lines, ["GET /v2/", "HEAD /v2/asked/manifests/v1"]);
    Ok(())
}

fn two_pulls_at_once(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let gate = Gate::default();
    let held = gate.clone();
    let image = Image::of_layers(Family::Docker, t.prefix(), 2).packed();
    let first = image.layers[0].clone();
    let registry = Hostile::start(&network, move |request, _| {
        let is_first = request.method == "GET" && request.path.ends_with(&first.digest);
        let body = Body::Held { bytes: first.bytes.clone(), before: 10, gate: held.clone() };
        is_first.then(|| Answer::new(200, "").body(body))
    })?;
    let name = t.reference(registry.put("both", "v1", &image));
    let other = t.reference(registry.put("both", "v2", &image));
    let results: Vec<Result<Progress>> = std::thread::scope(|scope| {
        let pull = |tag: &'static str| {
            let repository = untagged(&name).to_owned();
            let host = t.host();
            scope.spawn(move || Progress::of_pull(host, &repository, tag))
        };
        let threads = vec![pull("v1"), pull("v1"), pull("v2")];
        let asked = |count: usize| {
            until("the manifests' requests", || {
                let requests = registry.server().requests();
                requests.iter().filter(|request| request.path.contains("/manifests/")).count() >= count
            })
        };
        let waited = gate.wait_for(1).and_then(|()| asked(3));
        gate.open();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        waited.expect("the pulls began");
        results
    });
    for progress in results {
        let progress = progress?;
        ensure!(progress.error().is_empty(), "{progress:?}");
    }
    for layer in &image.layers {
        assert_eq!(registry.asked_for(layer), ["GET"]);
    }
    for name in [&name, &other] {
        assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", name]).ok()?, image.id());
    }
    Ok(())
}

fn the_client_goes(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let gate = Gate::default();
    let held = gate.clone();
    let image = Image::of_layers(Family::Docker, t.prefix(), 2).packed();
    let last = image.layers[1].clone();
    // The stock daemon notices when more comes, so more comes: far less than the manifest says, and no end of it.
    let descriptors = vec![
        image.layers[0].descriptor(),
        json!({
            "mediaType": last.media_type, "digest": last.digest, "size": 1_u64 << 40,
        }),
    ];
    let claim = seed::manifest(seed::DOCKER_MANIFEST, image.config.descriptor(), descriptors);
    let registry = Hostile::start(&network, move |request, before| {
        let is_last = request.method == "GET" && request.path.ends_with(&last.digest) && before == 0;
        let body = Body::Endless { bytes: seed::noise("x", 1000), gate: held.clone() };
        is_last.then(|| Answer::new(200, "").body(body))
    })?;
    let name = t.reference(registry.put("gone", "v1", &image));
    registry.put_manifest("gone", "v1", &claim);
    let path = format!("/images/create?fromImage={}&tag=v1", untagged(&name));
    let pull = http::open(&t.host().socket, "POST", &path, &[], b"")?;
    gate.wait_for(1)?;
    drop(pull);
    gate.wait_for_given_up(1)?;
    nothing_is_left(t, untagged(&name))?;
    registry.put_manifest("gone", "v1", &image.manifest);
    t.docker(&["pull", "-q", &name]).ok()?;
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?, image.id());
    Ok(())
}

fn distribution(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let (here, there) = of_two_platforms(t, Family::Oci);
    for image in [&here, &there] {
        fixture.registry.put("dist", &image.platform.1, image)?;
    }
    let index = seed::index(Family::Oci, &[here.entry(&[]), there.entry(&[])]);
    let name = fixture.registry.put_manifest("dist", "index", &index)?;
    let seen = t.http("GET", &format!("/distribution/{name}/json"))?;
    let platform = |image: &Packed| json!({"architecture": image.platform.1, "os": "linux"});
    let wanted = |blob: &seed::Blob, platforms: Value| json!({"Descriptor": blob.descriptor(), "Platforms": platforms});
    assert_eq!(seen.status, 200);
    assert_eq!(seen.json()?, wanted(&index, json!([platform(&here), platform(&there)])));
    let one = format!("{}@{}", untagged(&name), here.manifest.digest);
    let seen = t.http("GET", &format!("/distribution/{one}/json"))?;
    // The stock daemon reads the platform of Docker's manifests alone; an OCI manifest's configuration tells it as well.
    let seen = seen.json()?;
    let known = [wanted(&here.manifest, json!([platform(&here)])), wanted(&here.manifest, Value::Null)];
    assert!(known.contains(&seen), "{seen}");
    let docker = Image::of_layers(Family::Docker, t.prefix(), 1).packed();
    let of_docker = fixture.registry.put("dist", "docker", &docker)?;
    let seen = t.http("GET", &format!("/distribution/{of_docker}/json"))?.json()?;
    assert_eq!(seen, wanted(&docker.manifest, json!([platform(&docker)])));
    let base = fixture.registry.address();
    let id = "0".repeat(64);
    for (name, status, text) in [
        (format!("{base}/dist:nope"), 404, "manifest unknown: manifest unknown"),
        // No tag is `latest`.
        (format!("{base}/dist"), 404, "manifest unknown: manifest unknown"),
        (format!("{base}/nowhere"), 404, "manifest unknown: manifest unknown"),
        (format!("{base}/UPPER"), 400, "invalid reference format: repository name (UPPER) must be lowercase"),
        (id.clone(), 500, "no manifest found for full image ID"),
        (format!("sha256:{id}"), 500, "no manifest found for full image ID"),
    ] {
        let refused = t.http("GET", &format!("/distribution/{name}/json"))?;
        assert_eq!((refused.status, refused.message().as_str()), (status, text), "{name}");
    }
    Ok(())
}

fn search(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let registry = Hostile::start(&network, |request, _| match request.path.as_str() {
        "/v1/_ping" => Some(Answer::new(200, "true").header("X-Docker-Registry-Version", "0.9")),
        "/v1/search" => {
            let result = |name: &str, official: bool, stars: u64| json!({"name": name, "description": "d", "is_official": official, "is_automated": false, "star_count": stars});
            let results = [result("tools/few", false, 1), result("tools/many", true, 20)];
            let body = json!({"num_results": 2, "query": "tools", "results": results});
            Some(Answer::new(200, body.to_string()).header("Content-Type", "application/json"))
        }
        _ => None,
    })?;
    let term = format!("{}/tools", registry.address());
    let found = t.docker(&["search", "--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}} {{.Description}}", &term]);
    assert_eq!(found.ok()?, "tools/few 1  d\ntools/many 20 [OK] d");
    // A registry that may speak plain HTTP is asked which version it speaks; one that needs no question may be left alone.
    let asked = registry.server().taken_lines();
    assert_eq!(
        asked.iter().filter(|line| *line != "GET /v1/_ping").collect::<Vec<_>>(),
        ["GET /v1/search?q=tools&n=25"]
    );
    t.docker(&["search", "--limit", "7", &term]).ok()?;
    assert!(registry.server().taken_lines().contains(&"GET /v1/search?q=tools&n=7".to_owned()));
    let http = |query: &str| t.http("GET", &format!("/images/search?{query}"));
    let all = http(&format!("term={term}"))?;
    assert_eq!((all.status, all.json()?[1]["star_count"].clone()), (200, json!(20)));
    // Filters are applied by the daemon.
    let names = |list: Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|item| Some(item["name"].as_str()?.to_owned())).collect()
    };
    let filtered =
        |filters: &str| Ok::<_, anyhow::Error>(names(http(&format!("term={term}&filters={filters}"))?.json()?));
    assert_eq!(filtered("%7B%22stars%22:%5B%225%22%5D%7D")?, ["tools/many"]);
    assert_eq!(filtered("%7B%22is-official%22:%5B%22false%22%5D%7D")?, ["tools/few"]);
    let mut refusals = serde_json::Map::new();
    for query in
        ["limit=101", "limit=x", "filters=%7B%22nope%22:%5B%221%22%5D%7D", "filters=%7B%22stars%22:%5B%22x%22%5D%7D"]
    {
        let refused = http(&format!("term={term}&{query}"))?;
        refusals.insert(query.to_owned(), json!({"status": refused.status, "message": refused.message()}));
    }
    Golden::new(t).replacing(&term, "<term>").check(t, "search-errors", &Value::Object(refusals))?;
    let nobody = t.docker(&["search", "127.0.0.1:1/x"]);
    assert!(
        nobody.code == 1 && nobody.err.contains("invalid registry endpoint \"http://127.0.0.1:1/v1/\""),
        "{nobody:?}"
    );
    assert!(nobody.err.ends_with("connection refused"), "{nobody:?}");
    Ok(())
}

fn manifest_commands(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let (here, there) = of_two_platforms(t, Family::Docker);
    let names: Vec<String> = [&here, &there]
        .iter()
        .map(|image| fixture.registry.put("m", &image.platform.1, image))
        .collect::<Result<_>>()?;
    let seen = fixture.docker(t, &["manifest", "inspect", "--insecure", &names[0]]).ok()?;
    assert_eq!(serde_json::from_str::<Value>(&seen)?, serde_json::from_slice::<Value>(&here.manifest.bytes)?);
    let list = format!("{}:list", untagged(&names[0]));
    let absent = fixture.docker(t, &["manifest", "inspect", "--insecure", &list]);
    assert_eq!((absent.code, absent.err), (1, format!("no such manifest: {list}")));
    let made = fixture.docker(t, &["manifest", "create", "--insecure", &list, &names[0], &names[1]]).ok()?;
    assert_eq!(made, format!("Created manifest list {list}"));
    let pushed = fixture.docker(t, &["manifest", "push", "--insecure", &list]).ok()?;
    let digest = pushed.lines().last().context("a digest")?.to_owned();
    assert_eq!(fixture.registry.manifest("m", "list")?.digest, digest);
    // The daemon finds its image in it.
    t.reference(&list);
    let pulled = t.docker(&["pull", &list]).ok()?;
    assert!(pulled.contains(&format!("Digest: {digest}")), "{pulled}");
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &list]).ok()?, here.id());
    Ok(())
}
