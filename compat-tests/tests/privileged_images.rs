//! Images: `load`, `import`, `save`, `tag`, `rmi`, `images`, `history`, `commit`, `image prune`, and what is in an unpacked
//! layer. Archives are made here, so that each holds exactly what a test is about.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use compat_tests::{Case, Suite, tests};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

fn main() -> ExitCode {
    Suite {
        name: "images",
        flags: &[],
        tests: tests![
            loaded_names,
            loaded_twice,
            load_compressed,
            load_refused,
            layer_content,
            save_and_load,
            import_changes,
            import_refused,
            import_compressed,
            tag_rules,
            remove_rules,
            remove_in_use,
            filters,
            commit,
            commit_children,
            prune,
            loads_side_by_side,
        ],
    }
    .main()
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, content: &[u8], mode: u32) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    builder.append(&header, content).expect("written to memory");
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, content) in files {
        entry(&mut builder, EntryType::Regular, name, "", content, 0o644);
    }
    builder.into_inner().expect("written to memory")
}

/// A configuration of those layers that no other test has.
fn config(t: &Case<'_>, what: &str, layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hash(layer))).collect();
    json!({
        "architecture": "amd64",
        "os": "linux",
        "author": format!("{} {what}", t.prefix()),
        "created": "2020-01-02T03:04:05Z",
        "config": {"Cmd": ["sh"], "Labels": {"test": t.prefix()}},
        "history": layers.iter().map(|_| json!({"created": "2020-01-02T03:04:05Z", "created_by": what})).collect::<Vec<_>>(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

/// Names, layers, configuration.
type ArchiveImage<'a> = (&'a [String], &'a [&'a [u8]], &'a [u8]);

/// An archive as `docker save` made them for years.
fn archive(images: &[ArchiveImage<'_>]) -> Vec<u8> {
    let (mut files, mut manifest): (Vec<(String, Vec<u8>)>, Vec<Value>) = (Vec::new(), Vec::new());
    for (tags, layers, config) in images {
        let names: Vec<String> = layers.iter().map(|layer| format!("{}/layer.tar", hash(layer))).collect();
        manifest.push(json!({"Config": format!("{}.json", hash(config)), "RepoTags": tags, "Layers": names}));
        files.push((format!("{}.json", hash(config)), config.to_vec()));
        files.extend(names.into_iter().zip(layers.iter().map(|layer| layer.to_vec())));
    }
    files.push(("manifest.json".to_owned(), json!(manifest).to_string().into_bytes()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (name.as_str(), &content[..])).collect();
    tar_of(&files)
}

fn write(t: &Case<'_>, name: &str, content: &[u8]) -> Result<String> {
    // The CLI reads it: it need not be where the daemon sees it.
    let (_, here) = t.files(name)?;
    let path = here.join("archive");
    fs::write(&path, content)?;
    Ok(path.to_string_lossy().into_owned())
}

fn load(t: &Case<'_>, name: &str, content: &[u8]) -> Result<compat_tests::Ran> {
    Ok(t.docker(&["load", "-i", &write(t, name, content)?]))
}

/// The image of the suite as a tar for `docker import`.
fn root_tar(t: &Case<'_>) -> Result<Vec<u8>> {
    let name = t.create("root", &[], &["true"])?;
    let (_, here) = t.files("root")?;
    let path = here.join("root.tar");
    t.docker(&["export", "-o", &path.to_string_lossy(), &name]).ok()?;
    Ok(fs::read(path)?)
}

fn loaded_names(t: &Case<'_>) -> Result<()> {
    let (one, two) = (t.tag("one"), t.tag("two"));
    let layer = tar_of(&[("file", t.prefix().as_bytes())]);
    let (named, nameless) = (config(t, "named", &[&layer]), config(t, "nameless", &[&layer]));
    let both = archive(&[(&[one.clone(), two.clone()], &[&layer], &named), (&[], &[&layer], &nameless)]);
    // Ids are told where the last image has no name.
    let ids = format!("Loaded image ID: sha256:{}\nLoaded image ID: sha256:{}", hash(&named), hash(&nameless));
    assert_eq!(load(t, "both", &both)?.ok()?, format!("Loaded image: {one}\nLoaded image: {two}\n{ids}"));
    let id = t.docker(&["image", "inspect", "-f", "{{.Id}} {{.Size}} {{len .RootFS.Layers}}", &one]).ok()?;
    assert_eq!(id, format!("sha256:{} {} 1", hash(&named), t.prefix().len()));
    let alone = load(t, "alone", &archive(&[(&[], &[&layer], &nameless)]))?.ok()?;
    assert_eq!(alone, format!("Loaded image ID: sha256:{}", hash(&nameless)));
    assert_eq!(t.docker(&["rmi", &hash(&nameless)]).ok()?, format!("Deleted: sha256:{}", hash(&nameless)));
    Ok(())
}

fn loaded_twice(t: &Case<'_>) -> Result<()> {
    let tag = t.tag("same");
    let (a, b) = (tar_of(&[("a", t.prefix().as_bytes())]), tar_of(&[("b", t.prefix().as_bytes())]));
    let first = archive(&[(std::slice::from_ref(&tag), &[&a], &config(t, "first", &[&a]))]);
    let second = archive(&[(std::slice::from_ref(&tag), &[&a, &b], &config(t, "second", &[&a, &b]))]);
    for archive in [&first, &first] {
        assert_eq!(load(t, "twice", archive)?.ok()?, format!("Loaded image: {tag}"));
    }
    let moved = format!(
        "The image {tag} already exists, renaming the old one with ID sha256:{} to empty string\nLoaded image: {tag}",
        hash(&config(t, "first", &[&a]))
    );
    assert_eq!(load(t, "twice", &second)?.ok()?, moved);
    // The name has moved; what it named before is there without one.
    let filter = format!("label=test={}", t.prefix());
    let list = t.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", &filter]).ok()?;
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["<none>:<none>", &tag]);
    t.docker(&["image", "prune", "-f", "--filter", &filter]).ok()?;
    assert_eq!(t.docker(&["images", "-q", "--filter", &filter]).out.lines().count(), 1);
    Ok(())
}

fn load_compressed(t: &Case<'_>) -> Result<()> {
    let tag = t.tag("packed");
    let layer = tar_of(&[("file", t.prefix().as_bytes())]);
    let whole = archive(&[(std::slice::from_ref(&tag), &[&layer], &config(t, "packed", &[&layer]))]);
    let path = write(t, "plain", &whole)?;
    for program in ["gzip", "bzip2", "zstd"] {
        let packed = std::process::Command::new(program).args(["-c", &path]).output();
        let Ok(packed) = packed else { continue };
        assert_eq!(load(t, "packed", &packed.stdout)?.ok()?, format!("Loaded image: {tag}"), "{program}");
        let cut = load(t, "cut", &packed.stdout[..packed.stdout.len() / 2])?;
        assert_ne!(cut.code, 0, "{program}");
    }
    Ok(())
}

fn load_refused(t: &Case<'_>) -> Result<()> {
    let name = format!("{}-x:1", t.prefix());
    let tags = std::slice::from_ref(&name);
    let layer = tar_of(&[("file", t.prefix().as_bytes())]);
    let good = config(t, "good", &[&layer]);
    let evil = tar_of(&[("good", b"x"), ("../evil", t.prefix().as_bytes())]);
    let link = {
        let mut builder = Builder::new(Vec::new());
        entry(&mut builder, EntryType::Link, t.prefix(), "../../etc/passwd", b"", 0o644);
        builder.into_inner()?
    };
    let foreign = String::from_utf8(good.clone())?.replace("linux", "windows").into_bytes();
    let upper = format!("{}-X:1", t.prefix());
    let untagged = format!("{}-x", t.prefix());
    for (what, archive, words) in [
        ("no layers", archive(&[(tags, &[], &good)]), "invalid manifest, layers length mismatch: expected 0, got 1"),
        ("no root", archive(&[(tags, &[], b"{\"os\":\"linux\"}")]), "invalid image JSON, no RootFS key"),
        ("windows", archive(&[(tags, &[&layer], &foreign)]), "cannot load windows image on linux"),
        ("capital", archive(&[(&[upper], &[&layer], &good)]), "must be lowercase"),
        ("no tag", archive(&[(&[untagged], &[&layer], &good)]), "invalid tag"),
        ("above", archive(&[(tags, &[&evil], &config(t, "evil", &[&evil]))]), "invalid entry name \"../evil\""),
        (
            "link",
            archive(&[(tags, &[&link], &config(t, "link", &[&link]))]),
            "invalid hardlink target \"../../etc/passwd\"",
        ),
        ("cut", archive(&[(tags, &[&layer], &good)])[..3000].to_vec(), "unexpected EOF"),
        ("layer", archive(&[(tags, &[&layer], &config(t, "other", &[&evil]))]), "invalid diffID for layer 0"),
    ] {
        let refused = load(t, "refused", &archive)?;
        ensure!(refused.code == 1 && refused.err.contains(words), "{what}: {} {}", refused.code, refused.err);
        assert_ne!(t.docker(&["image", "inspect", &name]).code, 0, "{what} left an image");
        // Stock has made the image by the time it looks at the names.
        let left = t.docker(&["rmi", "-f", &hash(&good)]);
        assert!(!t.is_ours() || left.out.is_empty(), "{what} left an image");
    }
    Ok(())
}

fn layer_content(t: &Case<'_>) -> Result<()> {
    let mut builder = Builder::new(Vec::new());
    let mut add =
        |kind, name: &str, link: &str, content: &[u8], mode| entry(&mut builder, kind, name, link, content, mode);
    add(EntryType::Directory, "odd/", "", b"", 0o1777);
    add(EntryType::Regular, "odd/suid", "", b"content", 0o4755);
    add(EntryType::Link, "other", "odd/suid", b"", 0o4755);
    add(EntryType::Symlink, "odd/up", "../odd/suid", b"", 0o777);
    add(EntryType::Fifo, "odd/fifo", "", b"", 0o600);
    add(EntryType::Regular, "/absolute", "", b"x", 0o640);
    add(EntryType::Symlink, "through", "odd", b"", 0o777);
    add(EntryType::Regular, "through/file", "", b"y", 0o666);
    add(EntryType::Regular, "data/.wh.from-image", "", b"", 0o644);
    let top = builder.into_inner()?;
    // Upon the image of the suite, for its shell.
    let (_, here) = t.files("base")?;
    let saved = here.join("saved.tar");
    t.docker(&["save", "-o", &saved.to_string_lossy(), t.image()]).ok()?;
    let files = read_archive(&saved)?;
    let manifest: Value = serde_json::from_slice(&files["manifest.json"])?;
    let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let layers: Vec<&[u8]> =
        manifest[0]["Layers"].as_array().into_iter().flatten().map(|l| &files[&name(l)][..]).collect();
    let layers = [layers, vec![&top[..]]].concat();
    let tag = t.tag("content");
    let whole = archive(&[(std::slice::from_ref(&tag), &layers, &config(t, "content", &layers))]);
    load(t, "content", &whole)?.ok()?;
    let script = "stat -c '%n %a %F %s %h %Y' /odd /odd/suid /other /odd/up /odd/fifo /absolute /odd/file; readlink /odd/up; \
                  ls /data";
    let seen = t.docker(&["run", "--rm", "--network", "none", &tag, "sh", "-c", script]).ok()?;
    let mut lines: Vec<&str> = seen.lines().collect();
    let directory = lines.remove(0);
    assert!(directory.starts_with("/odd 1777 directory"), "{directory}");
    assert_eq!(
        lines,
        [
            "/odd/suid 4755 regular file 7 2 1000000000",
            "/other 4755 regular file 7 2 1000000000",
            "/odd/up 777 symbolic link 11 1 1000000000",
            "/odd/fifo 600 fifo 0 1 1000000000",
            "/absolute 640 regular file 1 1 1000000000",
            "/odd/file 666 regular file 1 1 1000000000",
            "../odd/suid",
        ]
    );
    Ok(())
}

fn read_archive(path: &Path) -> Result<std::collections::BTreeMap<String, Vec<u8>>> {
    let mut archive = tar::Archive::new(fs::File::open(path)?);
    let mut out = std::collections::BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content)?;
        out.insert(name, content);
    }
    Ok(out)
}

fn save_and_load(t: &Case<'_>) -> Result<()> {
    let (one, two) = (t.tag("one"), t.tag("two"));
    let layer = tar_of(&[("file", t.prefix().as_bytes())]);
    let raw = config(t, "saved", &[&layer]);
    load(t, "in", &archive(&[(&[one.clone(), two.clone()], &[&layer], &raw)]))?.ok()?;
    let (_, here) = t.files("out")?;
    let path = here.join("saved.tar").to_string_lossy().into_owned();
    t.docker(&["save", "-o", &path, &one, &two]).ok()?;
    let files = read_archive(Path::new(&path))?;
    let manifest: Value = serde_json::from_slice(&files["manifest.json"])?;
    assert_eq!(manifest[0]["RepoTags"], json!([one, two]));
    assert_eq!(manifest[0]["Config"], json!(format!("blobs/sha256/{}", hash(&raw))));
    assert_eq!(files[&format!("blobs/sha256/{}", hash(&layer))], layer);
    let index: Value = serde_json::from_slice(&files["index.json"])?;
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
    let digest = index["manifests"][0]["digest"].as_str().unwrap_or_default().replace("sha256:", "blobs/sha256/");
    let inner: Value = serde_json::from_slice(&files[&digest])?;
    assert_eq!(inner["layers"][0]["mediaType"], json!("application/vnd.oci.image.layer.v1.tar"));
    t.docker(&["rmi", &one, &two]).ok()?;
    assert_eq!(t.docker(&["load", "-i", &path]).ok()?, format!("Loaded image: {one}\nLoaded image: {two}"));
    assert_eq!(t.docker(&["images", "-q", "--no-trunc", &one]).out, format!("sha256:{}", hash(&raw)));
    // By id there are no names in it.
    t.docker(&["save", "-o", &path, &hash(&raw)[..12]]).ok()?;
    let manifest: Value = serde_json::from_slice(&read_archive(Path::new(&path))?["manifest.json"])?;
    assert_eq!(manifest[0]["RepoTags"], Value::Null);
    let missing = t.docker(&["save", "-o", &path, "missing-image"]);
    assert!(missing.err.contains("No such image: missing-image"), "{}", missing.err);
    Ok(())
}

const CHANGES: [&str; 12] = [
    "CMD [\"a\", \"b\"]",
    "ENTRYPOINT [\"/bin/sh\", \"-c\"]",
    "ENV A=1 B=\"2 3\" C=$A",
    "ENV D e f",
    "LABEL x=y z=\"1 2\"",
    "EXPOSE 80 90/udp",
    "VOLUME /v [\"/w\"]",
    "USER nobody",
    "WORKDIR /w",
    "WORKDIR x",
    "STOPSIGNAL SIGUSR1",
    "HEALTHCHECK --interval=5s --retries=3 CMD true",
];

fn import_changes(t: &Case<'_>) -> Result<()> {
    let (tag, path) = (t.tag("changed"), write(t, "tar", &tar_of(&[("file", t.prefix().as_bytes())]))?);
    let mut arguments = vec!["import", "--message", "why"];
    CHANGES.iter().for_each(|change| arguments.extend(["--change", change]));
    arguments.extend([path.as_str(), &tag]);
    let id = t.docker(&arguments).ok()?;
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let all: Value = serde_json::from_str(&t.docker(&["image", "inspect", &tag]).ok()?)?;
    let config = &all[0]["Config"];
    assert_eq!((&config["Cmd"], &config["Entrypoint"]), (&json!(["a", "b"]), &json!(["/bin/sh", "-c"])));
    assert_eq!(config["Env"], json!(["A=1", "B=2 3", "C=", "D=e f"]));
    assert_eq!(config["Labels"], json!({"x": "y", "z": "1 2"}));
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "90/udp": {}}));
    assert_eq!((&config["User"], &config["WorkingDir"]), (&json!("nobody"), &json!("/w/x")));
    assert_eq!(config["StopSignal"], json!("SIGUSR1"));
    assert_eq!(
        config["Healthcheck"],
        json!({"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_i64, "Retries": 3})
    );
    assert_eq!(all[0]["Comment"], json!("why"));
    Ok(())
}

fn import_refused(t: &Case<'_>) -> Result<()> {
    let path = write(t, "tar", &tar_of(&[("file", b"x")]))?;
    for (change, words) in [
        ("RUN x", "RUN is not a valid change command"),
        ("SHELL [\"a\"]", "SHELL is not a valid change command"),
        ("ENV x", "ENV must have two arguments"),
        ("EXPOSE x", "Invalid containerPort: x"),
        ("STOPSIGNAL FOO", "invalid signal: FOO"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("HEALTHCHECK FOO", "Unknown type \"FOO\" in HEALTHCHECK (try CMD)"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ("", "file with no instructions"),
    ] {
        let refused = t.docker(&["import", "--change", change, &path]);
        ensure!(refused.code == 1 && refused.err.contains(words), "{change}: {}", refused.err);
    }
    let junk = write(t, "junk", b"junk")?;
    assert!(t.docker(&["import", &junk]).err.contains("unexpected EOF"));
    let foreign = t.docker(&["import", "--platform", "windows/amd64", &path]);
    assert!(foreign.err.contains("operating system is not supported"), "{}", foreign.err);
    let unknown = t.docker(&["import", "--platform", "foo", &path]);
    assert!(unknown.err.contains("\"foo\": unknown operating system or architecture"), "{}", unknown.err);
    Ok(())
}

fn import_compressed(t: &Case<'_>) -> Result<()> {
    let (tag, root) = (t.tag("packed"), root_tar(t)?);
    let path = write(t, "root", &root)?;
    let gzip = std::process::Command::new("gzip").args(["-1c", &path]).output()?;
    let path = write(t, "root", &gzip.stdout)?;
    t.docker(&["import", "--platform", "linux/arm64", "--change", "CMD [\"cat\", \"/data/from-image\"]", &path, &tag])
        .ok()?;
    let inspect = ["image", "inspect", "-f", "{{.Os}}/{{.Architecture}} {{index .RootFS.Layers 0}}", &tag];
    assert_eq!(t.docker(&inspect).ok()?, format!("linux/arm64 sha256:{}", hash(&root)));
    Ok(())
}

fn tag_rules(t: &Case<'_>) -> Result<()> {
    let tag = t.tag("a");
    t.docker(&["tag", t.image(), &tag]).ok()?;
    assert!(t.docker(&["tag", "missing-image", &tag]).err.contains("No such image: missing-image:latest"));
    let bad = |query: &str| t.http("POST", &format!("/v1.51/images/{}/tag?{query}", t.image()));
    let digest = "a".repeat(64);
    for (query, status, words) in [
        ("repo=UP", 400, "must be lowercase"),
        ("repo=x&tag=b@d", 400, "invalid tag format"),
        (&format!("repo=x@sha256:{digest}"), 400, "cannot import digest reference"),
        ("repo=", 200, ""),
    ] {
        let answer = bad(query)?;
        ensure!(
            answer.status == status && answer.text().contains(words),
            "{query}: {} {}",
            answer.status,
            answer.text()
        );
    }
    Ok(())
}

fn remove_rules(t: &Case<'_>) -> Result<()> {
    let (one, two) = (t.tag("one"), t.tag("two"));
    let layer = tar_of(&[("file", t.prefix().as_bytes())]);
    let raw = config(t, "removed", &[&layer]);
    let whole = archive(&[(&[one.clone(), two.clone()], &[&layer], &raw)]);
    load(t, "rules", &whole)?.ok()?;
    let (id, short) = (hash(&raw), hash(&raw)[..12].to_owned());
    let refused = t.docker(&["rmi", &short]);
    let text =
        format!("conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories");
    assert!(refused.err.contains(&text), "{}", refused.err);
    assert_eq!(t.docker(&["rmi", &one]).ok()?, format!("Untagged: {one}"));
    let gone = format!("Untagged: {two}\nDeleted: sha256:{id}\nDeleted: sha256:{}", hash(&layer));
    assert_eq!(t.docker(&["rmi", &short]).ok()?, gone);
    load(t, "rules", &whole)?.ok()?;
    let forced = t.docker(&["rmi", "-f", &id]).ok()?;
    assert_eq!(forced.lines().filter(|line| line.starts_with("Untagged: ")).count(), 2, "{forced}");
    let missing = t.docker(&["rmi", &one]);
    assert_eq!((missing.code, missing.err.contains(&format!("No such image: {one}"))), (1, true));
    assert_eq!(t.docker(&["rmi", "-f", &one]).code, 0);
    Ok(())
}

fn remove_in_use(t: &Case<'_>) -> Result<()> {
    let (tag, root) = (t.tag("used"), root_tar(t)?);
    let path = write(t, "root", &root)?;
    // An id of its own.
    let command = "CMD [\"sh\", \"-c\", \"cat /data/from-image; exec sleep 1000\"]";
    t.docker(&["import", "--message", t.prefix(), "--change", command, &path, &tag]).ok()?;
    let id = t.docker(&["images", "-q", &tag]).out;
    let name = t.container("user");
    t.docker(&["run", "-d", "--network", "none", "--name", &name, &tag]).ok()?;
    let short = t.inspect(&name, "{{.Id}}")[..12].to_owned();
    let refused = |arguments: &[&str], words: &str| -> Result<()> {
        let refused = t.docker(&[&["rmi"], arguments].concat());
        ensure!(refused.err.contains(words), "{arguments:?}: {}", refused.err);
        Ok(())
    };
    let by_name = format!(
        "conflict: unable to remove repository reference \"{tag}\" (must force) - container {short} is using its referenced \
         image {id}"
    );
    let running = format!(
        "conflict: unable to delete {id} (cannot be forced) - image is being used by running container {short}"
    );
    refused(&[&tag], &by_name)?;
    refused(&["-f", &id], &running)?;
    assert_eq!(t.docker(&["rmi", "-f", &tag]).ok()?, format!("Untagged: {tag}"));
    refused(&["-f", &id], &running)?;
    t.docker(&["kill", &name]).ok()?;
    t.docker(&["wait", &name]).ok()?;
    let stopped =
        format!("conflict: unable to delete {id} (must be forced) - image is being used by stopped container {short}");
    refused(&[&id], &stopped)?;
    assert!(t.docker(&["rmi", "-f", &id]).ok()?.starts_with("Deleted: sha256:"));
    // The container has its files all the same.
    t.docker(&["start", &name]).ok()?;
    t.wait_for(&["logs", &name], "copied\ncopied")?;
    t.docker(&["rm", "-f", &name]).ok()?;
    Ok(())
}

fn filters(t: &Case<'_>) -> Result<()> {
    let (one, two) = (t.tag("one"), t.tag("two"));
    let layer = tar_of(&[("file", t.prefix().as_bytes())]);
    let young = String::from_utf8(config(t, "young", &[&layer]))?.replace("\"2020-", "\"2021-").into_bytes();
    let old = config(t, "old", &[&layer]);
    let whole =
        archive(&[(std::slice::from_ref(&one), &[&layer], &old), (std::slice::from_ref(&two), &[&layer], &young)]);
    load(t, "filters", &whole)?.ok()?;
    let list = |filters: &[&str]| {
        let mut arguments = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        filters.iter().for_each(|filter| arguments.extend(["--filter", filter]));
        t.docker(&arguments).out
    };
    let label = format!("label=test={}", t.prefix());
    let both = format!("{two}\n{one}");
    let pattern = |text: &str| format!("reference={}-{text}", t.prefix());
    for (filters, wanted) in [
        (vec![label.clone()], both.as_str()),
        (vec![label.clone(), format!("before={two}")], &one),
        (vec![label.clone(), format!("since={one}")], &two),
        (vec![label.clone(), "until=2020-06-01".to_owned()], &one),
        (vec![label.clone(), "dangling=true".to_owned()], ""),
        (vec![pattern("o?e")], &one),
        (vec![pattern("*:tag")], &both),
        (vec![pattern("[a-s]*")], &one),
        (vec![pattern("t*:other")], ""),
    ] {
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        assert_eq!(list(&filters), wanted, "{filters:?}");
    }
    for (filter, words) in [
        ("nope=x", "invalid filter 'nope'"),
        ("dangling=x", "invalid filter 'dangling=[x]'"),
        ("before=missing-image", "No such image: missing-image:latest"),
        ("reference=[a", "syntax error in pattern"),
        ("until=x", "failed to parse value as time or duration: \"x\""),
    ] {
        let refused = t.docker(&["images", "--filter", filter]);
        ensure!(refused.err.contains(words), "{filter}: {}", refused.err);
    }
    Ok(())
}

fn commit(t: &Case<'_>) -> Result<()> {
    let script =
        "echo new > /new && ln /new /hard && rm /data/from-image && mkdir -m 1750 /dir && echo x > /etc/hosts2";
    let name = t.container("maker");
    t.docker(&["run", "--network", "none", "--name", &name, "-e", "A=1", t.image(), "sh", "-c", script]).ok()?;
    let tag = t.tag("made");
    let id = t
        .docker(&["commit", "-a", "me", "-m", "why", "-c", "ENV B=2", "-c", "CMD [\"cat\", \"/new\"]", &name, &tag])
        .ok()?;
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(t.docker(&["run", "--rm", "--network", "none", &tag]).ok()?, "new");
    let look = "ls /data; stat -c '%a %h' /dir /hard | head -1; stat -c %h /hard; echo $A $B";
    assert_eq!(t.docker(&["run", "--rm", "--network", "none", &tag, "sh", "-c", look]).ok()?, "1750 2\n2\n1 2");
    let line = t.docker(&["history", "--format", "{{.CreatedBy}}|{{.Comment}}", "--no-trunc", &tag]).ok()?;
    assert_eq!(line.lines().next(), Some(format!("sh -c {script}|why").as_str()));
    let parent = t.docker(&["image", "inspect", "-f", "{{.Id}}", t.image()]).out;
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Parent}} {{.Author}}", &tag]).out, format!("{parent} me"));
    let refused = t.docker(&["commit", "-c", "RUN x", &name]);
    assert!(refused.err.contains("RUN is not a valid change command"), "{}", refused.err);
    assert!(t.docker(&["commit", "missing-container"]).err.contains("No such container: missing-container"));
    Ok(())
}

fn commit_children(t: &Case<'_>) -> Result<()> {
    let (base, child) = (t.tag("base"), t.tag("child"));
    let path = write(t, "root", &root_tar(t)?)?;
    t.docker(&["import", "--message", t.prefix(), &path, &base]).ok()?;
    let id = t.docker(&["images", "-q", "--no-trunc", &base]).out;
    let name = t.container("c");
    t.docker(&["run", "--network", "none", "--name", &name, &base, "touch", "/x"]).ok()?;
    t.docker(&["commit", &name, &child]).ok()?;
    t.docker(&["rm", &name]).ok()?;
    assert_eq!(t.docker(&["rmi", &base]).ok()?, format!("Untagged: {base}"), "it has a child");
    let short = &id[7..19];
    let refused = t.docker(&["rmi", "-f", short]);
    let text = format!("conflict: unable to delete {short} (cannot be forced) - image has dependent child images");
    assert!(refused.err.contains(&text), "{}", refused.err);
    let gone = t.docker(&["rmi", &child]).ok()?;
    assert!(gone.contains(&format!("Deleted: {id}")), "the parent goes with its last child: {gone}");
    Ok(())
}

fn prune(t: &Case<'_>) -> Result<()> {
    let tag = t.tag("kept");
    let layer = tar_of(&[("file", t.prefix().as_bytes())]);
    let (named, nameless) = (config(t, "named", &[&layer]), config(t, "nameless", &[&layer]));
    let whole = archive(&[(std::slice::from_ref(&tag), &[&layer], &named), (&[], &[&layer], &nameless)]);
    load(t, "prune", &whole)?.ok()?;
    let filter = format!("label=test={}", t.prefix());
    let out = t.docker(&["image", "prune", "-f", "--filter", &filter]).ok()?;
    assert_eq!(out, format!("Deleted Images:\ndeleted: sha256:{}\n\nTotal reclaimed space: 0B", hash(&nameless)));
    assert_eq!(t.docker(&["image", "prune", "-f", "--filter", &filter]).ok()?, "Total reclaimed space: 0B");
    let all = t.docker(&["image", "prune", "-af", "--filter", &filter]).ok()?;
    let wanted = format!("untagged: {tag}\ndeleted: sha256:{}\ndeleted: sha256:{}\n", hash(&named), hash(&layer));
    assert!(all.contains(&wanted), "{all}");
    assert!(all.ends_with(&format!("Total reclaimed space: {}B", t.prefix().len())), "{all}");
    Ok(())
}

fn loads_side_by_side(t: &Case<'_>) -> Result<()> {
    let tag = t.tag("same");
    let content: Vec<u8> = t.prefix().bytes().cycle().take(3 << 20).collect();
    let (a, b) = (tar_of(&[("a", &content)]), tar_of(&[("b", &content)]));
    let raw = config(t, "same", &[&a, &b]);
    let path = write(t, "same", &archive(&[(std::slice::from_ref(&tag), &[&a, &b], &raw)]))?;
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| t.docker(&["load", "-i", &path]).ok())).collect();
        loads.into_iter().try_for_each(|load| match load.join() {
            Ok(done) => done.map(drop),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let gone = format!("Untagged: {tag}\nDeleted: sha256:{}", hash(&raw));
    assert!(t.docker(&["rmi", &tag]).ok()?.starts_with(&gone));
    Ok(())
}
