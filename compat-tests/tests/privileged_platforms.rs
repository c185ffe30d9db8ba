//! Images for several platforms: what save, load, push, inspect and the lists make of a wished platform. Every answer is
//! compared with what stock, whose own store keeps one platform per name, said to the same request.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::golden::Golden;
use compat_tests::progress::Progress;
use compat_tests::seed::{Family, Image, Packed, index};
use compat_tests::{Case, Suite, http, tests};
use serde_json::{Map, Value, json};

mod registries;

use registries::{Fixture, untagged};

fn main() -> ExitCode {
    Suite { name: "platforms", flags: &[], tests: tests![inspected, saved, loaded, pushed, pulled_in_turn] }.main()
}

/// An image for this machine and one for another; their architectures.
fn two(t: &Case<'_>) -> (Packed, Packed) {
    let image = |what: &str| Image::of_layers(Family::Oci, &format!("{} {what}", t.prefix()), 2);
    let here = image("here").packed();
    let foreign = if here.platform.1 == "arm64" { "amd64" } else { "arm64" };
    (here, image("there").architecture(foreign).packed())
}

/// The same two in a registry under one name.
fn at_registry(t: &Case<'_>, fixture: &Fixture, repository: &str) -> Result<(Packed, Packed, String)> {
    let (here, there) = two(t);
    for image in [&here, &there] {
        fixture.registry.put(repository, &image.platform.1, image)?;
    }
    let list = index(Family::Oci, &[here.entry(&[]), there.entry(&[])]);
    let name = t.reference(fixture.registry.put_manifest(repository, "v1", &list)?);
    Ok((here, there, name))
}

/// A platform as the API takes it, for a query.
fn wish(image: &Packed) -> String {
    let wish = json!({"os": image.platform.0, "architecture": image.platform.1}).to_string();
    wish.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn golden(t: &Case<'_>, fixture: &Fixture, here: &Packed, there: &Packed) -> Golden<'static> {
    let golden = Golden::new(t).replacing(fixture.registry.address(), "<registry>");
    let golden = golden.replacing(&here.platform.1, "<here>").replacing(&there.platform.1, "<there>");
    golden.replacing("riscv64", "<neither>")
}

/// An answer to compare: members of a body where there are some, else the whole.
fn seen(answer: &http::Response, members: &[&str]) -> Result<Value> {
    if answer.status != 200 || members.is_empty() {
        return Ok(json!({"status": answer.status, "message": answer.message()}));
    }
    let body = answer.json()?;
    let picked =
        |body: &Value| members.iter().map(|name| ((*name).to_owned(), body[*name].clone())).collect::<Map<_, _>>();
    Ok(
        json!({"status": 200, "body": picked(&body), "has": members.iter().filter(|name| body.get(name).is_some()).collect::<Vec<_>>()}),
    )
}

fn inspected(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let (here, there, name) = at_registry(t, &fixture, "inspected")?;
    t.docker(&["pull", "-q", &name]).ok()?;
    let neither = Image::of_layers(Family::Oci, "neither", 1).architecture("riscv64").packed();
    let mut all = Map::new();
    for (what, query) in [
        ("alone", String::new()),
        ("manifests", "?manifests=1".to_owned()),
        ("here", format!("?platform={}", wish(&here))),
        ("there", format!("?platform={}", wish(&there))),
        ("both", format!("?manifests=1&platform={}", wish(&here))),
        ("neither", format!("?platform={}", wish(&neither))),
    ] {
        for version in ["", "/v1.48", "/v1.47"] {
            let answer = t.http("GET", &format!("{version}/images/{name}/json{query}"))?;
            let seen = seen(&answer, &["Architecture", "Id", "Manifests", "Descriptor", "RepoTags"])?;
            all.insert(format!("inspect {what} {version}"), seen);
        }
        let answer = t.http("GET", &format!("/images/{name}/history{query}"))?;
        let seen =
            if answer.status == 200 { json!(answer.json()?.as_array().map(Vec::len)) } else { seen(&answer, &[])? };
        all.insert(format!("history {what}"), seen);
    }
    let filter: String =
        json!({"reference": [untagged(&name)]}).to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    for (what, more) in [("alone", ""), ("with manifests", "&manifests=1")] {
        let list = t.http("GET", &format!("/images/json?filters={filter}{more}"))?.json()?;
        let item = &list[0];
        all.insert(
            format!("list {what}"),
            json!({"Id": item["Id"], "Manifests": item.get("Manifests"), "Descriptor": item.get("Descriptor")}),
        );
    }
    let golden = golden(t, &fixture, &here, &there);
    golden.check(t, "platforms-inspected", &Value::Object(all))
}

/// Names in a tar, sorted.
fn names_in(tar: &[u8]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in tar::Archive::new(tar).entries()? {
        names.push(entry?.path()?.to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// A file in a tar.
fn file_in(tar: &[u8], name: &str) -> Result<Value> {
    for entry in tar::Archive::new(tar).entries()? {
        let entry = entry?;
        if entry.path()?.to_string_lossy() == name {
            return Ok(serde_json::from_reader(entry)?);
        }
    }
    Ok(Value::Null)
}

/// What an archive says of its images: names and ids.
fn images_in(tar: &[u8]) -> Result<Value> {
    let manifest = file_in(tar, "manifest.json")?;
    let images = manifest.as_array().into_iter().flatten();
    let images =
        images.map(|image| json!({"tags": image["RepoTags"], "layers": image["Layers"].as_array().map(Vec::len)}));
    let index = file_in(tar, "index.json")?;
    let entries = index["manifests"].as_array().into_iter().flatten();
    let entries = entries.map(|entry| json!({"annotations": entry["annotations"], "platform": entry.get("platform")}));
    // Stock has them in any order.
    let sorted = |list: &mut dyn Iterator<Item = Value>| {
        let mut list: Vec<Value> = list.collect();
        list.sort_by_key(Value::to_string);
        list
    };
    Ok(json!({"images": sorted(&mut images.into_iter()), "entries": sorted(&mut entries.into_iter())}))
}

fn saved(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let (here, there, _) = at_registry(t, &fixture, "saved")?;
    let neither = Image::of_layers(Family::Oci, "neither", 1).architecture("riscv64").packed();
    let (mine, other) = (t.tag("mine"), t.tag("other"));
    for (image, name) in [(&here, &mine), (&there, &other)] {
        let from = t.reference(format!("{}/saved:{}", fixture.registry.address(), image.platform.1));
        t.docker(&["pull", "-q", "--platform", &format!("linux/{}", image.platform.1), &from]).ok()?;
        t.docker(&["tag", &from, name]).ok()?;
        t.docker(&["rmi", &from]).ok()?;
    }
    let mut all = Map::new();
    for (what, names) in [
        ("mine", vec![&mine]),
        ("other", vec![&other]),
        ("mine and other", vec![&mine, &other]),
        ("mine twice", vec![&mine, &mine]),
        ("nothing", vec![]),
    ] {
        let names: String = names.iter().map(|name| format!("&names={name}")).collect();
        for (which, platform) in [
            ("any", String::new()),
            ("here", format!("&platform={}", wish(&here))),
            ("there", format!("&platform={}", wish(&there))),
            ("neither", format!("&platform={}", wish(&neither))),
            ("here and there", format!("&platform={}&platform={}", wish(&here), wish(&there))),
            ("nonsense", "&platform=linux%2Famd64".to_owned()),
        ] {
            for version in ["", "/v1.47"] {
                let answer = t.http("GET", &format!("{version}/images/get?x=1{names}{platform}"))?;
                let seen = match answer.status {
                    200 => images_in(&answer.body)?,
                    _ => seen(&answer, &[])?,
                };
                all.insert(format!("{what} for {which} {version}"), seen);
            }
        }
    }
    golden(t, &fixture, &here, &there).check(t, "platforms-saved", &Value::Object(all))?;
    // By the CLI, and what it wrote can be loaded.
    let (_, dir) = t.files("saved")?;
    let file = format!("{}/both.tar", dir.display());
    t.docker(&["save", "-o", &file, &mine, &other]).ok()?;
    let tar = std::fs::read(&file)?;
    ensure!(
        names_in(&tar)?.iter().filter(|name| name.starts_with("blobs/sha256/")).count() >= 8,
        "{:?}",
        names_in(&tar)?
    );
    t.docker(&["rmi", &mine, &other]).ok()?;
    t.docker(&["load", "-i", &file]).ok()?;
    let ids = t.docker(&["image", "inspect", "-f", "{{.Id}} {{.Architecture}}", &mine, &other]).ok()?;
    let wanted = format!("{} {}\n{} {}", here.id(), here.platform.1, there.id(), there.platform.1);
    ensure!(ids == wanted, "{ids}");
    Ok(())
}

fn loaded(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let (here, there, _) = at_registry(t, &fixture, "loaded")?;
    let neither = Image::of_layers(Family::Oci, "neither", 1).architecture("riscv64").packed();
    let (mine, other) = (t.tag("mine"), t.tag("other"));
    for (image, name) in [(&here, &mine), (&there, &other)] {
        let from = t.reference(format!("{}/loaded:{}", fixture.registry.address(), image.platform.1));
        t.docker(&["pull", "-q", "--platform", &format!("linux/{}", image.platform.1), &from]).ok()?;
        t.docker(&["tag", &from, name]).ok()?;
        t.docker(&["rmi", &from]).ok()?;
    }
    let both = t.http("GET", &format!("/images/get?names={mine}&names={other}"))?;
    ensure!(both.status == 200, "{}", both.message());
    let mut all = Map::new();
    for (which, platform) in [
        ("any", String::new()),
        ("here", format!("?platform={}", wish(&here))),
        ("there", format!("?platform={}", wish(&there))),
        ("neither", format!("?platform={}", wish(&neither))),
        ("here and there", format!("?platform={}&platform={}", wish(&here), wish(&there))),
        ("nonsense", "?platform=x".to_owned()),
    ] {
        for name in [&mine, &other] {
            t.docker(&["rmi", "-f", name]);
        }
        let path = format!("/images/load{platform}");
        let answer =
            http::request(&t.host().socket, "POST", &path, &[("Content-Type", "application/x-tar")], &both.body)?;
        let text = answer.text();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut told: Vec<Value> = lines.filter(|line| line.get("progressDetail").is_none()).collect();
        // Stock saves them in any order.
        told.sort_by_key(Value::to_string);
        let there_now = [&mine, &other].map(|name| t.docker(&["image", "inspect", name]).code == 0);
        all.insert(which.to_owned(), json!({"status": answer.status, "told": told, "mine and other": there_now}));
    }
    golden(t, &fixture, &here, &there).check(t, "platforms-loaded", &Value::Object(all))
}

fn pushed(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let (here, there, name) = at_registry(t, &fixture, "pushed")?;
    t.docker(&["pull", "-q", &name]).ok()?;
    let target = t.reference(format!("{}/target:v1", fixture.registry.address()));
    t.docker(&["tag", &name, &target]).ok()?;
    let mut all = Map::new();
    for (what, platform) in [("here", wish(&here)), ("there", wish(&there)), ("nonsense", "x".to_owned())] {
        for version in ["", "/v1.45"] {
            let path = format!("{version}/images/{}/push?tag=v1&platform={platform}", untagged(&target));
            let progress = Progress::of(t.host(), &path, Some("e30="))?;
            let lines = progress.lines(&[]);
            let refers = lines.iter().filter(|line| line.starts_with("The push refers")).count();
            let seen = json!({"status": progress.status, "error": progress.error(), "refers": refers});
            all.insert(format!("{what} {version}"), seen);
        }
    }
    fixture.registry.manifest("target", "v1").context("nothing was pushed")?;
    golden(t, &fixture, &here, &there).check(t, "platforms-pushed", &Value::Object(all))
}

/// One name, pulled for one platform after the other: the name goes along, and the image of before stays without it.
fn pulled_in_turn(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let (here, there, name) = at_registry(t, &fixture, "turns")?;
    for image in [&here, &there, &here] {
        t.docker(&["pull", "-q", "--platform", &format!("linux/{}", image.platform.1), &name]).ok()?;
        let id = t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?;
        ensure!(id == image.id(), "{id}");
    }
    let seen = "{{.Id}} {{len .RepoTags}} {{len .RepoDigests}}";
    let left = t.docker(&["image", "inspect", "-f", seen, there.id()]).ok()?;
    t.docker(&["rmi", there.id()]).ok().context("the other image can be removed")?;
    ensure!(left == format!("{} 0 0", there.id()), "{left}");
    let tree = t.docker(&["image", "ls", "--tree", untagged(&name)]).ok()?;
    ensure!(tree.contains(&here.id()["sha256:".len()..][..12]), "{tree}");
    Ok(())
}
