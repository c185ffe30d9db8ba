//! Installing the programs tests and demo use, from the distribution, only where they are missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// What tests and demo need.
pub(crate) const TESTS: [&str; 9] =
    ["busybox", "ip", "docker", "nft", "nsenter", "crun", "runc", PYTHON_SDK, "docker-registry"];
/// A file of docker-py.
const PYTHON_SDK: &str = "/usr/lib/python3/dist-packages/docker/__init__.py";

/// Programs, or files by their whole path, and the Debian packages they come in; the first the suite has is taken.
const PACKAGES: [(&str, &[&str]); 12] = [
    ("busybox", &["busybox-static"]),
    ("ip", &["iproute2"]),
    ("docker", &["docker-cli", "docker.io"]),
    ("nft", &["nftables"]),
    ("nsenter", &["util-linux"]),
    ("crun", &["crun"]),
    ("runc", &["runc"]),
    (PYTHON_SDK, &["python3-docker"]),
    ("qemu-system-x86_64", &["qemu-system-x86"]),
    ("cpio", &["cpio"]),
    ("modprobe", &["kmod"]),
    ("mmdebstrap", &["mmdebstrap"]),
];

/// Programs whose packages would start a service, and the packages: the program alone is taken out of them.
const ALONE: [(&str, &str); 1] = [("docker-registry", "docker-registry")];
/// Where such a program goes.
const ALONE_IN: &str = "/usr/local/bin";

/// Where `program` is, looking in the usual places too.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    path.split(':').chain(usual.split(':')).map(|dir| PathBuf::from(dir).join(program)).find(|file| file.exists())
}

/// Installs what is missing of `programs`.
pub(crate) fn install(programs: &[&str]) -> Result<()> {
    let missing = PACKAGES.iter().filter(|(program, _)| programs.contains(program) && find(program).is_none());
    let missing: Vec<&[&str]> = missing.map(|(_, packages)| *packages).collect();
    let alone = ALONE.iter().filter(|(program, _)| programs.contains(program) && find(program).is_none());
    let alone: Vec<&(&str, &str)> = alone.collect();
    if missing.is_empty() && alone.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        let names = missing.concat().into_iter().chain(alone.iter().map(|(_, package)| *package));
        bail!("missing: {}; install them with your package manager", names.collect::<Vec<_>>().join(", "));
    }
    apt_get(&["update", "-q"])?;
    alone.into_iter().try_for_each(|(program, package)| take_out(program, package))?;
    if missing.is_empty() {
        return Ok(());
    }
    let known = |package: &&&str| {
        let shown = Command::new("apt-cache").args(["show", package]).output();
        shown.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
    };
    let chosen = missing.iter().map(|packages| *packages.iter().find(known).unwrap_or(&packages[0]));
    apt_get(&[vec!["install", "-yq", "--no-install-recommends"], chosen.collect()].concat())
}

/// Takes one program out of a package, without installing it: nothing is started, and nothing begins to listen.
fn take_out(program: &str, package: &str) -> Result<()> {
    let base = std::env::temp_dir().join(format!("take-out-{}", std::process::id()));
    std::fs::create_dir(&base)?;
    let result = (|| {
        let status = Command::new("apt-get").args(["download", "-q", package]).current_dir(&base).status()?;
        ensure!(status.success(), "apt-get download {package} failed");
        let files = std::fs::read_dir(&base)?.flatten().map(|entry| entry.path());
        let archive = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
        let archive = archive.with_context(|| format!("apt-get download {package} left no file"))?;
        let status = Command::new("dpkg-deb").arg("-x").arg(&archive).arg(base.join("root")).status()?;
        ensure!(status.success(), "dpkg-deb -x {} failed", archive.display());
        std::fs::create_dir_all(ALONE_IN)?;
        // By rename: who runs it meanwhile sees all of it or nothing.
        let (new, place) = (Path::new(ALONE_IN).join(format!(".{program}.new")), Path::new(ALONE_IN).join(program));
        std::fs::copy(base.join("root/usr/bin").join(program), &new)?;
        Ok(std::fs::rename(new, place)?)
    })();
    std::fs::remove_dir_all(&base)?;
    result
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status()?;
    ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
    Ok(())
}
