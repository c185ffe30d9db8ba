//! The directory an OCI runtime is pointed at: `config.json`, the root file system mounted at `rootfs`, and the files
//! that go with each process (id, log, output, console socket).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use dockerd_sys::mount;
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Process, RootBuilder, Spec};

use super::terminal::printed;
use crate::driver::StdioRequest;

/// One container's bundle.
#[derive(Debug, Clone)]
pub(super) struct Bundle {
    dir: PathBuf,
}

/// The files of one process of it.
#[derive(Debug, Clone)]
pub(super) struct ProcessFiles {
    pub(super) pid: PathBuf,
    pub(super) log: PathBuf,
    pub(super) printed: PathBuf,
    pub(super) console: PathBuf,
    pub(super) process: PathBuf,
}

impl Bundle {
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the directory afresh, writes the description and mounts the root.
    pub(super) fn make(&self, spec: &Spec, rootfs: impl AsFd) -> io::Result<()> {
        self.remove()?;
        let root = self.dir.join("rootfs");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        fs::create_dir(&root)?;
        fs::write(self.dir.join("config.json"), serde_json::to_vec(spec)?)?;
        mount::attach_at(rootfs, &root)
    }

    /// Unmounts and removes. Nothing there is fine.
    pub(super) fn remove(&self) -> io::Result<()> {
        let root = self.dir.join("rootfs");
        mount::detach(&root)?;
        // Only the empty mount point may go: were something still mounted there, this fails instead of deleting it.
        match fs::remove_dir(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The files of the process called `name` (`init`, or an exec's short id).
    pub(super) fn files(&self, name: &str) -> ProcessFiles {
        let file = |kind: &str| self.dir.join(format!("{name}.{kind}"));
        ProcessFiles {
            pid: file("pid"),
            log: file("log"),
            printed: file("out"),
            console: file("tty"),
            process: file("json"),
        }
    }
}

impl ProcessFiles {
    /// Removes them all, once the process runs or has failed.
    pub(super) fn remove(&self) {
        for file in [&self.pid, &self.log, &self.printed, &self.console, &self.process] {
            // Most of them do not exist, and the bundle's removal takes what this leaves.
            let _ = fs::remove_file(file);
        }
    }

    /// What the runtime logged and printed.
    pub(super) fn failure(&self) -> String {
        super::command::failure(&printed(&self.log), &printed(&self.printed))
    }
}

/// The description as this runtime gets it: root below the bundle, the network namespace by path, streams as asked.
pub(super) fn settle(spec: &Spec, netns: Option<&impl AsRawFd>, stdio: StdioRequest) -> Spec {
    let mut spec = spec.clone();
    let readonly = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    spec.set_root(RootBuilder::default().path("rootfs").readonly(readonly).build().ok());
    if let (Some(netns), Some(linux)) = (netns, spec.linux_mut()) {
        // The daemon keeps this descriptor open until the runtime has entered the namespace.
        let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
        namespaces.extend(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).path(path).build().ok());
        linux.set_namespaces(Some(namespaces));
    }
    if let Some(process) = spec.process_mut() {
        settle_process(process, stdio);
    }
    spec
}

/// Terminal or not, and its size.
pub(super) fn settle_process(process: &mut Process, stdio: StdioRequest) {
    process.set_terminal(Some(stdio.tty));
    let size = stdio.console_size.filter(|_| stdio.tty).and_then(|(height, width)| {
        oci_spec::runtime::BoxBuilder::default().height(u64::from(height)).width(u64::from(width)).build().ok()
    });
    process.set_console_size(size);
}
