//! Talking to the service manager (sd_notify(3)): ready, reloading, stopping, and the watchdog's heartbeat. Without a
//! service manager all of it does nothing.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells the service manager where we are.
pub(crate) fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").and_then(|path| path.into_string().ok()) else { return };
    if let Err(error) = send(&path, state) {
        tracing::debug!(%error, "service manager was not told");
    }
}

fn send(path: &str, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

/// The configuration is being read again; `READY=1` ends that.
pub(crate) fn reloading() {
    let now = dockerd_sys::process::monotonic_micros();
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
}

/// Tells the watchdog that we live, for as long as the task runs: twice in the time it allows.
pub(crate) fn feed_watchdog() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let Some(limit) = number("WATCHDOG_USEC").filter(|limit| is_ours && *limit > 0) else { return };
    let mut ticks = tokio::time::interval(Duration::from_micros(limit / 2));
    tokio::spawn(async move {
        loop {
            ticks.tick().await;
            notify("WATCHDOG=1");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_address_are_reached() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notify");
        let abstract_name = format!("dockerd-rs-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).expect("an address");
        let ears = [UnixDatagram::bind(&path).expect("bound"), UnixDatagram::bind_addr(&address).expect("bound")];
        for (ear, path) in ears.iter().zip([path.to_string_lossy().into_owned(), format!("@{abstract_name}")]) {
            send(&path, "READY=1").expect("sent");
            let mut heard = [0; 16];
            let length = ear.recv(&mut heard).expect("heard");
            assert_eq!(&heard[..length], b"READY=1");
        }
    }
}
