//! A root file system of busybox alone, as a tar: what demo and smoke tests import.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages;

/// Writes the tar to `path`.
pub(crate) fn build_tar(path: &Path) -> Result<()> {
    let busybox = packages::find("busybox").context("busybox is missing")?;
    let root = path.with_extension("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for dir in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(&busybox, root.join("bin/busybox"))?;
    let list = Command::new(&busybox).arg("--list").output()?;
    ensure!(list.status.success(), "busybox --list failed");
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    let status = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(path).arg(".").status()?;
    ensure!(status.success(), "tar failed");
    Ok(fs::remove_dir_all(root)?)
}
