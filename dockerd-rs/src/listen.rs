//! Opening the sockets `-H` names: unix sockets with Docker's mode and group, TCP on loopback, and sockets the service
//! manager hands over (sd_listen_fds(3)).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use api_compat::Listener;
use tokio::net::{TcpListener, UnixListener};

use crate::hosts::Host;

/// First descriptor of socket activation.
const FIRST_ACTIVATED: i32 = 3;

/// Opens all; must be called inside the runtime.
pub(crate) async fn open(hosts: &[Host], group: &str) -> io::Result<Vec<Listener>> {
    let mut out = Vec::new();
    for host in hosts {
        match host {
            Host::Unix(path) => out.push(Listener::Unix(unix(path, group)?)),
            Host::Tcp { host: name, port } => {
                if host.is_remote() {
                    let text =
                        format!("tcp://{name}:{port} without TLS would give everybody root; only loopback is served");
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                tracing::warn!("listening on tcp://{name}:{port} without TLS: every local user has root through it");
                out.push(Listener::Tcp(TcpListener::bind((name.as_str(), *port)).await?));
            }
            Host::Fd(_) => out.extend(activated()?),
        }
    }
    Ok(out)
}

fn unix(path: &Path, group: &str) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // The data root's lock has told by now that no other daemon of ours uses it.
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    match group_id(group) {
        Some(gid) => std::os::unix::fs::chown(path, Some(0), Some(gid))?,
        None => tracing::warn!(group, "no such group; the socket is root's alone"),
    }
    Ok(listener)
}

/// From /etc/group itself: name service libraries have no place in a static binary.
fn group_id(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

fn activated() -> io::Result<Vec<Listener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let ours = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()));
    let count = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    if count == 0 {
        return Err(io::Error::other(
            "no sockets found via socket activation: make sure the service was started by systemd",
        ));
    }
    let take = |fd: i32| {
        let socket = dockerd_sys::process::take_inherited(fd)?;
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix(UnixListener::from_std(listener)?))
    };
    (FIRST_ACTIVATED..FIRST_ACTIVATED + count).map(take).collect()
}

/// Tells the service manager where we are (sd_notify(3)); without one it does nothing.
pub(crate) fn notify(state: &str) {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return };
    let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() else { return };
    let sent = match path.strip_prefix('@') {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name);
            address.and_then(|address| socket.send_to_addr(state.as_bytes(), &address))
        }
        None => socket.send_to(state.as_bytes(), &path),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "service manager was not told");
    }
}
