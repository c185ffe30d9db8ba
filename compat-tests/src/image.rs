//! The image tests run: busybox, a few files, and a directory that volumes are filled from.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A file that only the image has.
pub const OWN_FILE: &str = "/data/from-image";
/// What stands in it.
pub const OWN_TEXT: &str = "copied\n";

/// Writes the image's only layer to `tar`.
pub fn build(tar: &Path) -> Result<()> {
    let root = tar.with_extension("root");
    for dir in ["bin", "etc", "tmp", "root", "data", "home/user"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::write(root.join(OWN_FILE.trim_start_matches('/')), OWN_TEXT)?;
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.context("busybox-static is not installed")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    let list = Command::new(busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("bin/not-executable"), "#!/bin/sh\n")?;
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n\
                  user:x:1000:1000:user:/home/user:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd)?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\nuser:x:1000:\nextra:x:2000:user\n")?;
    let mut command = Command::new("tar");
    command.arg("-C").arg(&root).args(["--owner=0", "--group=0", "--sort=name", "-cf"]).arg(tar).arg(".");
    ensure!(command.status()?.success(), "tar failed");
    Ok(fs::remove_dir_all(root)?)
}
