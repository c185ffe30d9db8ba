//! The resolver of containers asked by programs people use: dig, with everything it can ask for, and the C libraries of
//! nearly all images, glibc and musl, in an image made for that.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::dns::{MANY, MANY_ADDRESSES, UPSTREAM_ANSWER, Upstream, ZONE};
use compat_tests::network::Network;
use compat_tests::{Case, Suite, tests};

/// Where a server of the test's own listens, in the container.
const SERVER: &str = "127.0.0.99";
/// The server's zone, without the dot at the end.
const SEARCH: &str = "upstream.test";

fn main() -> ExitCode {
    Suite {
        name: "resolvers",
        flags: &[],
        tests: tests![
            by_datagram_and_by_stream,
            extensions,
            other_types_and_classes,
            other_operations,
            truncated_responses,
            glibc,
            musl,
            search_domains,
        ],
    }
    .main()
}

fn network(case: &Case<'_>, what: &str, options: &[&str]) -> Result<String> {
    let name = case.network(what);
    case.docker(&[&["network", "create"], options, &[&name]].concat()).ok()?;
    Ok(name)
}

/// What is asked about: a container of both families, and from where.
struct Scene {
    net: String,
    web: String,
    ipv4: String,
    ipv6: String,
    from: Network,
    _upstream: Upstream,
}

/// A container `web` with the alias `alias`, and one beside it that asks, and has a server of its own.
fn scene(case: &Case<'_>) -> Result<Scene> {
    let net = network(case, "net", &["--ipv6"])?;
    let web = case.sleeper("web", &["--network", &net, "--network-alias", "alias"])?;
    let client = case.sleeper("client", &["--network", &net, "--dns", SERVER])?;
    let at = |field: &str| case.inspect(&web, &format!("{{{{(index .NetworkSettings.Networks {net:?}).{field}}}}}"));
    let (ipv4, ipv6) = (at("IPAddress"), at("GlobalIPv6Address"));
    let from = inside(case, &client)?;
    let _upstream = Upstream::start(&from, SERVER.parse()?)?;
    Ok(Scene { net, web, ipv4, ipv6, from, _upstream })
}

/// The namespace a running container's programs are in.
fn inside(case: &Case<'_>, container: &str) -> Result<Network> {
    Network::of_process(case.inspect(container, "{{.State.Pid}}").parse().context("no process")?)
}

/// What dig made of a response.
#[derive(Debug)]
struct Dug {
    status: String,
    flags: Vec<String>,
    answers: Vec<String>,
    text: String,
}

impl Dug {
    fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }
}

/// dig(1) asking from a container; the last response it shows.
fn dig(from: &Network, arguments: &[&str]) -> Result<Dug> {
    let mut command = from.command("dig");
    command.args(["@127.0.0.11", "+tries=1", "+time=10"]).args(arguments);
    let output = command.output().context("dig")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {text}");
    let header = text.lines().rfind(|line| line.contains("->>HEADER<<-")).with_context(|| text.clone())?;
    let status = header.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned();
    let flags = text.lines().rfind(|line| line.starts_with(";; flags: ")).unwrap_or_default();
    let flags = flags.trim_start_matches(";; flags: ").split(';').next().unwrap_or_default();
    let flags = flags.split_whitespace().map(str::to_owned).collect();
    let records =
        text.lines().skip_while(|line| *line != ";; ANSWER SECTION:").skip(1).take_while(|line| !line.is_empty());
    let answers = records.filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect();
    Ok(Dug { status, flags, answers, text })
}

/// Success with this one answer.
fn answers(from: &Network, arguments: &[&str], wanted: &str) -> Result<Dug> {
    let dug = dig(from, arguments)?;
    let is_right = dug.status == "NOERROR" && dug.answers == [wanted] && dug.has_flag("qr") && dug.has_flag("ra");
    ensure!(is_right && !dug.has_flag("tc") && !dug.text.contains("malformed"), "{arguments:?}: {}", dug.text);
    Ok(dug)
}

fn by_datagram_and_by_stream(case: &Case<'_>) -> Result<()> {
    let Scene { net, web, ipv4, ipv6, from, .. } = &scene(case)?;
    let own_name = format!("{web}.{net}.");
    for way in ["+notcp", "+tcp"] {
        for name in [web, "alias", "ALIAS", &format!("{web}."), &format!("alias.{net}")] {
            answers(from, &[way, name, "A"], ipv4)?;
            answers(from, &[way, name, "AAAA"], ipv6)?;
        }
        answers(from, &[way, "-x", ipv4], &own_name)?;
        answers(from, &[way, "-x", ipv6], &own_name)?;
        answers(from, &[way, &format!("www.{ZONE}"), "A"], &UPSTREAM_ANSWER.to_string())?;
        for unknown in [&["nobody", "A"][..], &["nobody", "AAAA"], &["-x", "192.0.2.9"], &["nobody.example", "TXT"]] {
            let dug = dig(from, &[&[way], unknown].concat())?;
            ensure!(dug.status == "NXDOMAIN" && dug.answers.is_empty(), "{unknown:?}: {}", dug.text);
        }
    }
    // As it was asked for, letter by letter.
    has(&answers(from, &["aLiAs", "A"], ipv4)?.text, "\naLiAs.\t")
}

fn extensions(case: &Case<'_>) -> Result<()> {
    let Scene { web, ipv4, from, .. } = &scene(case)?;
    for option in [
        "+noedns",
        "+edns=0",
        "+edns=1",
        "+bufsize=512",
        "+bufsize=4096",
        "+dnssec",
        "+cookie",
        "+nsid",
        "+subnet=10.0.0.0/8",
    ] {
        let dug = answers(from, &[option, web, "A"], ipv4)?;
        // Who does not use them is not bothered with them; stock never answers with them.
        if case.is_ours() {
            equal(dug.text.contains("OPT PSEUDOSECTION"), option != "+noedns")?;
        }
        answers(from, &[option, &format!("www.{ZONE}"), "A"], &UPSTREAM_ANSWER.to_string())?;
    }
    ensure!(!answers(from, &["+norecurse", web, "A"], ipv4)?.has_flag("rd"), "recursion was not desired");
    ensure!(answers(from, &["+recurse", web, "A"], ipv4)?.has_flag("rd"), "recursion was desired");
    // Set in a query they mean nothing.
    let dug = answers(from, &["+aaflag", "+adflag", web, "A"], ipv4)?;
    ensure!(!dug.has_flag("ad"), "{}", dug.text);
    Ok(())
}

fn other_types_and_classes(case: &Case<'_>) -> Result<()> {
    let Scene { web, from, .. } = &scene(case)?;
    // Of a container's name there are addresses only; for other types somebody else is asked, who knows nothing of it.
    for kind in ["ANY", "TXT", "SRV", "CNAME", "SOA", "NS", "HTTPS", "PTR"] {
        let dug = dig(from, &[web, kind])?;
        ensure!(dug.status == "NXDOMAIN" && dug.answers.is_empty(), "{kind}: {}", dug.text);
    }
    // Mailers take a host without such a record for its own.
    let dug = dig(from, &[web, "MX"])?;
    ensure!(dug.status == "NOERROR" && dug.answers.is_empty(), "{}", dug.text);
    let dug = dig(from, &[&format!("www.{ZONE}"), "ANY"])?;
    ensure!(dug.status == "NOERROR" && dug.answers.is_empty(), "{}", dug.text);
    for class in ["CH", "HS"] {
        let dug = dig(from, &["-c", class, "-q", web, "-t", "A"])?;
        if case.is_ours() {
            // Stock answers with addresses of the class IN, which dig takes for malformed.
            ensure!(dug.status == "NXDOMAIN" && dug.answers.is_empty(), "{class}: {}", dug.text);
        }
    }
    Ok(())
}

fn other_operations(case: &Case<'_>) -> Result<()> {
    let Scene { web, ipv4, from, .. } = &scene(case)?;
    for operation in ["STATUS", "UPDATE"] {
        equal(dig(from, &[&format!("+opcode={operation}"), web])?.status.as_str(), "NOTIMP")?;
    }
    equal(dig(from, &["+header-only"])?.status.as_str(), "FORMERR")?;
    // It goes on.
    answers(from, &[web, "A"], ipv4).map(drop)
}

/// A response that does not fit is told to be cut off, and the client comes back by a stream.
fn truncated_responses(case: &Case<'_>) -> Result<()> {
    let Scene { from, .. } = &scene(case)?;
    let cut = dig(from, &["+ignore", "+noedns", MANY, "A"])?;
    ensure!(cut.status == "NOERROR" && cut.has_flag("tc"), "{}", cut.text);
    for arguments in [&["+noedns"][..], &["+bufsize=512"], &["+bufsize=4096"], &["+tcp"], &["+tcp", "+noedns"]] {
        let dug = dig(from, &[arguments, &[MANY, "A"]].concat())?;
        let mut found = dug.answers.clone();
        found.sort();
        found.dedup();
        ensure!(dug.status == "NOERROR" && !dug.has_flag("tc"), "{arguments:?}: {}", dug.text);
        equal(found.len(), usize::from(MANY_ADDRESSES))?;
    }
    // Cut off again, though the whole response is known by now.
    let cut = dig(from, &["+ignore", "+noedns", MANY, "A"])?;
    ensure!(cut.has_flag("tc") && cut.answers.len() < usize::from(MANY_ADDRESSES), "{}", cut.text);
    Ok(())
}

/// Gives the daemon an image with glibc's `getent` and musl's `lookup`.
fn image(case: &Case<'_>) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("root");
    for name in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.context("busybox-static is not installed")?, root.join("bin/busybox"))?;
    for applet in ["sh", "sleep", "cat"] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::copy("/usr/bin/getent", root.join("bin/getent")).context("getent")?;
    let libraries = Command::new("ldd").arg("/usr/bin/getent").output().context("ldd")?;
    for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        let to: PathBuf = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a folder")?)?;
        fs::copy(word, to).with_context(|| word.to_owned())?;
    }
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/resolvers/lookup.c");
    let mut compiler = Command::new("musl-gcc");
    let built = compiler.args(["-static", "-O1", "-o"]).arg(root.join("bin/lookup")).arg(source).status();
    ensure!(built.context("musl-gcc (musl-tools) is not installed")?.success(), "musl-gcc failed");
    let tar = dir.path().join("image.tar");
    ensure!(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status()?.success(), "tar failed");
    let name = case.tag("libraries");
    case.docker(&["import", &tar.to_string_lossy(), &name]).ok()?;
    Ok(name)
}

/// A container of that image, with a server of its own.
fn client(case: &Case<'_>, what: &str, image: &str, options: &[&str]) -> Result<(String, Upstream)> {
    let name = case.container(what);
    let run = ["run", "-d", "--name", &name, "--dns", SERVER];
    case.docker(&[&run[..], options, &[image, "sleep", "100000"]].concat()).ok()?;
    let upstream = Upstream::start(&inside(case, &name)?, SERVER.parse()?)?;
    Ok((name, upstream))
}

/// What a program in a container says, its lines sorted and each told once.
fn said(case: &Case<'_>, container: &str, command: &[&str]) -> Vec<String> {
    let ran = case.docker(&[&["exec", container], command].concat());
    let mut lines: Vec<String> =
        ran.out.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

fn glibc(case: &Case<'_>) -> Result<()> {
    let Scene { net, web, ipv4, ipv6, .. } = &scene(case)?;
    let image = image(case)?;
    let (name, _upstream) = client(case, "glibc", &image, &["--network", net])?;
    let ask = |database: &str, key: &str| said(case, &name, &["getent", database, key]);
    for wanted in [web, "alias", &format!("{web}.{net}"), &format!("{web}.")] {
        equal(ask("ahostsv4", wanted), vec![ipv4.clone()]).context(wanted.to_owned())?;
        equal(ask("ahostsv6", wanted), vec![ipv6.clone()]).context(wanted.to_owned())?;
        let mut both = vec![ipv4.clone(), ipv6.clone()];
        both.sort();
        equal(ask("ahosts", wanted), both).context(wanted.to_owned())?;
    }
    for address in [ipv4, ipv6] {
        let told = case.docker(&["exec", &name, "getent", "hosts", address]).ok()?;
        equal(told.split_whitespace().collect(), vec![address.as_str(), &format!("{web}.{net}")])?;
    }
    equal(ask("ahostsv4", &format!("www.{SEARCH}")), vec![UPSTREAM_ANSWER.to_string()])?;
    equal(ask("ahostsv4", MANY).len(), usize::from(MANY_ADDRESSES))?;
    // Not found, and not for want of a server.
    equal(case.docker(&["exec", &name, "getent", "ahosts", "nobody"]).code, 2)
}

fn musl(case: &Case<'_>) -> Result<()> {
    let Scene { net, web, ipv4, ipv6, .. } = &scene(case)?;
    let image = image(case)?;
    let (name, _upstream) = client(case, "musl", &image, &["--network", net])?;
    let ask = |arguments: &[&str]| said(case, &name, &[&["lookup"], arguments].concat());
    for wanted in [web, "alias", &format!("{web}.{net}"), &format!("{web}.")] {
        equal(ask(&["-4", wanted]), vec![ipv4.clone()]).context(wanted.to_owned())?;
        equal(ask(&["-6", wanted]), vec![ipv6.clone()]).context(wanted.to_owned())?;
        let mut both = vec![ipv4.clone(), ipv6.clone()];
        both.sort();
        equal(ask(&[wanted]), both).context(wanted.to_owned())?;
    }
    for address in [ipv4, ipv6] {
        equal(ask(&["-r", address]), vec![format!("{web}.{net}")])?;
    }
    // Both families at once where there is only one: that one, and no failure.
    equal(ask(&[&format!("www.{SEARCH}")]), vec![UPSTREAM_ANSWER.to_string()])?;
    equal(ask(&["nobody"]), vec!["unknown".to_owned()])
}

/// Names are completed by the libraries, of which each has its own order.
fn search_domains(case: &Case<'_>) -> Result<()> {
    let Scene { net, web, ipv4, .. } = &scene(case)?;
    let image = image(case)?;
    let known = UPSTREAM_ANSWER.to_string();
    let both = |what: &str, options: &[&str], name: &str, glibc: &str, musl: &str| -> Result<()> {
        let (container, _upstream) = client(case, what, &image, &[&["--network", net], options].concat())?;
        let list = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
        let found = said(case, &container, &["getent", "ahostsv4", name]);
        equal(found, list(glibc)).with_context(|| format!("glibc: {what}: {name}"))?;
        let found = said(case, &container, &["lookup", "-4", name]);
        equal(found, list(musl)).with_context(|| format!("musl: {what}: {name}"))
    };
    let search = ["--dns-search", SEARCH];
    // `ndots:0`, which a container has if nobody says otherwise: as it is first. musl then leaves it at that.
    both("plain", &search, web, ipv4, ipv4)?;
    both("plain-other", &search, "www", &known, "unknown")?;
    let one = [&search[..], &["--dns-option", "ndots:1"]].concat();
    // Completed first: the server has an address for every name of its zone.
    both("one", &one, web, &known, &known)?;
    both("one-dotted", &one, &format!("{web}.{net}"), ipv4, ipv4)?;
    let two = [&search[..], &["--dns-option", "ndots:2"]].concat();
    both("two-dotted", &two, &format!("{web}.{net}"), &known, &known)?;
    // A domain nobody knows anything in does not stand in the way.
    let nowhere = ["--dns-search", "nowhere.test", "--dns-option", "ndots:1"];
    both("nowhere", &nowhere, web, ipv4, ipv4)?;
    // A dot at the end says that it is whole.
    both("whole", &one, &format!("{web}."), ipv4, ipv4)
}
