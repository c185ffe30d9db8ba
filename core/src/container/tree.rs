//! A container's files as seen from outside, for `docker cp` and `docker export`: its root file system, where wanted with
//! its volumes and binds, but without `/proc`, `/dev` and tmpfs, whether it runs or not.
//!
//! The tree is put together in a mount namespace of its own, on a thread that lives as long as somebody works with it.
//! With the thread goes everything that was mounted, however the work ends; nothing is ever mounted where others see it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use dockerd_sys::inside::{self, Missing};
use dockerd_sys::mount::{self, Attributes, NO_DEV, NO_EXEC, NO_SUID, Propagation, READ_ONLY};
use dockerd_sys::{ns, process};
use tokio::sync::oneshot;

use super::spec::{ContainerSpec, MountPointKind};
use super::{Container, start};
use crate::core::Core;
use crate::error::EngineError;

/// Stack of the thread: a walk goes one call deeper with each directory.
const STACK: usize = 16 << 20;

/// What of a container's files is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The root file system alone.
    Root,
    /// With volumes, binds and the files over `/etc`.
    Volumes,
}

/// Runs `job` with the root of the container's tree, on a thread of its own, and waits for its result. The job goes on
/// when the waiting ends; it must notice by itself that nobody wants it any more.
pub(super) async fn with_tree<T, F>(
    core: &Arc<Core>,
    container: &Arc<Container>,
    scope: Scope,
    job: F,
) -> Result<T, EngineError>
where
    T: Send + 'static,
    F: FnOnce(BorrowedFd<'_>) -> Result<T, EngineError> + Send + 'static,
{
    let in_use = container.tree().clone().read_owned().await;
    let (core, container) = (core.clone(), container.clone());
    let (sender, done) = oneshot::channel();
    let run = move || {
        let result = assemble(&core, &container, scope).and_then(|root| job(root.as_fd()));
        drop(in_use);
        // Whoever asked may have gone.
        let _ = sender.send(result);
    };
    let spawned = std::thread::Builder::new().name("file tree".to_owned()).stack_size(STACK).spawn(run);
    spawned.map_err(|error| EngineError::io("start a thread", error))?;
    done.await.map_err(|error| EngineError::io("work on the container's files", io::Error::other(error)))?
}

/// A bind that is attached nowhere yet.
struct Bind {
    tree: OwnedFd,
    destination: String,
}

fn assemble(core: &Core, container: &Container, scope: Scope) -> Result<OwnedFd, EngineError> {
    let fail = |error| EngineError::io("assemble the container's files", error);
    let spec = container.snapshot().spec.clone();
    let running = running_root(container).map_err(fail)?;
    let at_rest = running.is_none();
    let root = match running {
        Some(root) => root,
        None => {
            container.root().release();
            core.images.mount(container.id())?
        }
    };
    let attributes = match spec.host.readonly_rootfs {
        true => Attributes { set: HARMLESS | READ_ONLY, clear: 0 },
        false => Attributes { set: HARMLESS, clear: READ_ONLY },
    };
    // Private first: what is attached below must not appear in the container.
    mount::set_attributes(&root, Attributes::default(), Some(Propagation::Private), false).map_err(fail)?;
    if scope == Scope::Root {
        mount::set_attributes(&root, attributes, None, false).map_err(fail)?;
        return Ok(root);
    }
    let binds = binds(core, &spec);
    if at_rest && !container.snapshot().state.is_running() {
        // The copies hold the file systems of volumes by themselves.
        core.volumes.unmount(container.id());
    }
    let binds = binds?;
    ns::unshare(process::NEW_MOUNT).map_err(fail)?;
    mount::set_propagation(c"/", Propagation::Private).map_err(fail)?;
    mount::attach_at(&root, core.layout.exec_root()).map_err(fail)?;
    for bind in binds {
        let directory = inside::is_directory(&bind.tree).map_err(fail)?;
        let missing = if directory { Missing::Directory } else { Missing::File };
        let target = inside::locate_or_make(root.as_fd(), &bind.destination, missing).map_err(fail)?;
        mount::attach(&bind.tree, target).map_err(fail)?;
    }
    mount::set_attributes(&root, attributes, None, false).map_err(fail)?;
    Ok(root)
}

/// Opening a device node, by mistake or by somebody's intent, has no effect; nothing is run from here.
const HARMLESS: u64 = NO_DEV | NO_SUID | NO_EXEC;

/// A copy of the mount that is the running container's root; `None` when no process of it runs. This thread enters the
/// container's mount namespace for that moment.
fn running_root(container: &Container) -> io::Result<Option<OwnedFd>> {
    let state = container.snapshot().state.clone();
    if !state.is_running() || state.pid <= 0 {
        return Ok(None);
    }
    let Ok(pidfd) = process::pidfd_open(state.pid) else { return Ok(None) };
    let now = container.snapshot();
    if !now.state.is_running() || now.state.pid != state.pid {
        return Ok(None);
    }
    ns::visit_mounts(&pidfd, || mount::bind(Path::new("/"), false))
}

/// The container's mounts, parents before children, without tmpfs.
fn binds(core: &Core, spec: &ContainerSpec) -> Result<Vec<Bind>, EngineError> {
    let mut out = Vec::new();
    let mut points: Vec<_> = spec.mounts.iter().collect();
    points.sort_by_key(|point| point.destination.split('/').filter(|part| !part.is_empty()).count());
    for point in points {
        if matches!(point.kind, MountPointKind::Tmpfs { .. }) {
            continue;
        }
        let resolved = start::resolve(core, &spec.id, point)?;
        let recursive = !matches!(point.kind, MountPointKind::Bind { non_recursive: true, .. });
        let fail = |error| EngineError::io(format!("bind {}", resolved.source.display()), error);
        let tree = mount::bind(&resolved.source, recursive).map_err(fail)?;
        protect(&tree, point.read_only).map_err(fail)?;
        out.push(Bind { tree, destination: point.destination.clone() });
    }
    let files = start::network_files(core, spec)?;
    let files =
        [("/etc/resolv.conf", files.resolv_conf), ("/etc/hostname", files.hostname), ("/etc/hosts", files.hosts)];
    for (destination, source) in files {
        let covered = spec.mounts.iter().any(|point| point.destination == destination);
        // They are made by the first start.
        if covered || !source.exists() {
            continue;
        }
        let fail = |error| EngineError::io(format!("bind {}", source.display()), error);
        let tree = mount::bind(&source, false).map_err(fail)?;
        protect(&tree, spec.host.readonly_rootfs).map_err(fail)?;
        out.push(Bind { tree, destination: destination.to_owned() });
    }
    Ok(out)
}

fn protect(tree: &OwnedFd, read_only: bool) -> io::Result<()> {
    let set = if read_only { HARMLESS | READ_ONLY } else { HARMLESS };
    mount::set_attributes(tree, Attributes { set, clear: 0 }, Some(Propagation::Private), true)
}
