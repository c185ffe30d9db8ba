//! Opening the sockets `-H` names: unix sockets with Docker's mode and group, TCP (beyond loopback with TLS only), and
//! sockets the service manager hands over (sd_listen_fds(3)).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use api_compat::Listener;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::hosts::Host;

/// First descriptor of socket activation.
const FIRST_ACTIVATED: i32 = 3;
/// Whose unix sockets are when nothing else is said.
const USUAL_GROUP: &str = "docker";

/// What is open; dropping it takes unix sockets off the file system.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// To be served.
    pub(crate) listeners: Vec<Listener>,
    _paths: Vec<SocketPath>,
}

#[derive(Debug)]
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens all; must be called inside the runtime.
pub(crate) async fn open(hosts: &[Host], group: Option<&str>, tls: Option<&TlsAcceptor>) -> Result<Sockets> {
    let mut sockets = Sockets { listeners: Vec::new(), _paths: Vec::new() };
    let mut activated = None;
    for host in hosts {
        match host {
            Host::Unix(path) => {
                let listener =
                    unix(path, group).with_context(|| format!("can't create unix socket {}", path.display()));
                sockets.listeners.push(Listener::Unix(listener?));
                sockets._paths.push(SocketPath(path.clone()));
            }
            Host::Tcp { host: name, port } => {
                check_exposure(host, name, *port, tls.is_some())?;
                let listener = TcpListener::bind((name.as_str(), *port)).await;
                let listener = listener.with_context(|| format!("listen tcp {name}:{port}: bind"))?;
                sockets.listeners.push(tcp(listener, tls));
            }
            Host::Fd(which) => {
                let all = activated.take().map_or_else(Activated::take, Ok)?;
                let (chosen, rest) = all.choose(which)?;
                activated = Some(rest);
                for fd in chosen {
                    sockets.listeners.push(adopt(fd, tls)?);
                }
            }
        }
    }
    for listener in &sockets.listeners {
        tracing::info!("API listen on {}", address_of(listener));
    }
    Ok(sockets)
}

fn tcp(listener: TcpListener, tls: Option<&TlsAcceptor>) -> Listener {
    match tls {
        Some(acceptor) => Listener::Tls(listener, acceptor.clone()),
        None => Listener::Tcp(listener),
    }
}

fn check_exposure(host: &Host, name: &str, port: u16, tls: bool) -> Result<()> {
    if tls {
        return Ok(());
    }
    if host.is_remote() {
        bail!(
            "tcp://{name}:{port} without TLS would give everybody who reaches it root on this machine; use --tlsverify, or an address of loopback"
        );
    }
    tracing::warn!(
        host = format!("tcp://{name}:{port}"),
        "Binding to an IP address, even on localhost, can also give access to scripts run in a browser. Be safe out there!"
    );
    Ok(())
}

fn address_of(listener: &Listener) -> String {
    let tcp = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
    let address = match listener {
        Listener::Unix(listener) => listener.local_addr().map(|address| {
            address
                .as_pathname()
                .map_or_else(|| "a socket without a name".to_owned(), |path| path.display().to_string())
        }),
        Listener::Tcp(listener) | Listener::Tls(listener, _) => tcp(listener),
    };
    address.unwrap_or_else(|error| error.to_string())
}

fn unix(path: &Path, group: Option<&str>) -> Result<UnixListener> {
    let gid = match (group_id(group.unwrap_or(USUAL_GROUP)), group) {
        (Some(gid), _) => gid,
        (None, Some(name)) => return Err(anyhow!("group {name} not found")),
        (None, None) => {
            let path = path.display();
            tracing::warn!("could not change group {path} to {USUAL_GROUP}: group {USUAL_GROUP} not found");
            0
        }
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // Left by a daemon that is dead: the locks of both roots and the pid file have told so.
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let listener = UnixListener::bind(path)?;
    std::os::unix::fs::chown(path, Some(0), Some(gid))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// From /etc/group itself: name service libraries have no place in a static binary.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    named.or_else(|| name.parse().ok())
}

/// What the service manager has handed over and nobody has taken yet: its place, its name, the socket.
#[derive(Debug)]
struct Activated(Vec<(i32, String, OwnedFd)>);

impl Activated {
    fn take() -> Result<Self> {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
        let pid = i32::try_from(std::process::id()).ok();
        let count = number("LISTEN_FDS").filter(|_| pid.is_some() && number("LISTEN_PID") == pid).unwrap_or(0);
        if count <= 0 {
            bail!("no sockets found via socket activation: make sure the service was started by systemd");
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let take = |fd: i32| {
            let name = names.next().unwrap_or_default().to_owned();
            let socket = dockerd_sys::process::take_inherited(fd);
            Ok((fd, name, socket.with_context(|| format!("failed to listen on systemd activated file: fd {fd}"))?))
        };
        (FIRST_ACTIVATED..FIRST_ACTIVATED.saturating_add(count)).map(take).collect::<Result<_>>().map(Self)
    }

    /// All of them, one by its number, or those of a name; and the rest.
    fn choose(self, which: &str) -> Result<(Vec<OwnedFd>, Self)> {
        let by_number = which.parse::<i32>().ok();
        let is_chosen = |(fd, name, _): &(i32, String, OwnedFd)| {
            matches!(which, "" | "*") || by_number.map_or_else(|| name == which, |number| number == *fd)
        };
        let (chosen, rest): (Vec<_>, Vec<_>) = self.0.into_iter().partition(is_chosen);
        match (chosen.is_empty(), by_number) {
            (false, _) => Ok((chosen.into_iter().map(|(_, _, fd)| fd).collect(), Self(rest))),
            (true, Some(_)) => bail!("too few socket activated files passed in by systemd"),
            (true, None) => bail!("no socket named {which:?} was passed in by systemd"),
        }
    }
}

fn adopt(fd: OwnedFd, tls: Option<&TlsAcceptor>) -> Result<Listener> {
    if dockerd_sys::process::is_unix_socket(&fd)? {
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        return Ok(Listener::Unix(UnixListener::from_std(listener)?));
    }
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(tcp(TcpListener::from_std(listener)?, tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activated() -> Activated {
        let socket = |number, name: &str| {
            let (end, _) = std::os::unix::net::UnixStream::pair().expect("a socket");
            (number, name.to_owned(), OwnedFd::from(end))
        };
        Activated(vec![socket(3, "docker.socket"), socket(4, "extra"), socket(5, "extra")])
    }

    #[test]
    fn activated_sockets_are_chosen_by_number_or_name() {
        for (which, taken) in [("", 3), ("*", 3), ("4", 1), ("extra", 2), ("docker.socket", 1)] {
            let (chosen, rest) = activated().choose(which).expect("chosen");
            assert_eq!((chosen.len(), rest.0.len()), (taken, 3 - taken), "{which}");
        }
        let text = |which: &str| activated().choose(which).map(|_| ()).expect_err("none").to_string();
        assert_eq!(text("9"), "too few socket activated files passed in by systemd");
        assert_eq!(text("nope"), "no socket named \"nope\" was passed in by systemd");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_taken_away_at_the_end() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("deep/docker.sock");
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("an old socket"));
        let hosts = [Host::Unix(path.clone())];
        let sockets = open(&hosts, Some("root"), None).await.expect("opened");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
        std::os::unix::net::UnixStream::connect(&path).expect("connected");
        drop(sockets);
        assert!(!path.exists());
        let error = open(&hosts, Some("no-such-group"), None).await.map(|_| ()).expect_err("no group");
        assert!(format!("{error:#}").ends_with("group no-such-group not found"), "{error:#}");
    }

    #[tokio::test]
    async fn others_are_let_in_by_certificate_only() {
        let host = Host::Tcp { host: "0.0.0.0".to_owned(), port: 0 };
        let error = open(&[host], None, None).await.map(|_| ()).expect_err("refused").to_string();
        assert!(error.contains("without TLS"), "{error}");
        let host = Host::Tcp { host: "127.0.0.1".to_owned(), port: 0 };
        assert!(open(&[host], None, None).await.is_ok());
    }
}
