//! What others took away of ours is put there again: a thread that waits for it.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dockerd_sys::netlink::Socket;

use super::NetworkStack;
use crate::bridge::mend;
use crate::error::NetworkError;
use crate::firewall::nft::Guard;

/// Two programs that fight each other shall not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(200);

/// Starts the thread that looks after the packet filter's rules; it ends with the stack, or when nothing can be heard any more.
pub(super) fn start(mut guard: Guard, stack: Weak<NetworkStack>) -> Result<(), NetworkError> {
    let run = move || {
        loop {
            let needed = guard.is_needed();
            let Some(stack) = stack.upgrade() else { return };
            match needed {
                Ok(false) => {}
                Ok(true) => {
                    stack.reinstall();
                    drop(stack);
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    tracing::error!(%error, "rules of the packet filter are not watched any more");
                    return;
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("rule-guard".to_owned()).spawn(run);
    thread.map(drop).map_err(NetworkError::io("start the guard of the packet filter's rules"))
}

/// Starts the thread that looks after bridges, told by `links` of their changes; it ends as the other one does.
pub(super) fn start_links(links: Arc<Socket>, stack: Weak<NetworkStack>) -> Result<(), NetworkError> {
    let run = move || {
        loop {
            let mut harmed = false;
            let heard = match links.hear(|change| harmed |= mend::is_harmful(change)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                // More was told than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    harmed = true;
                    Ok(())
                }
                other => other,
            };
            let Some(stack) = stack.upgrade() else { return };
            if let Err(error) = heard {
                tracing::error!(%error, "bridges are not watched any more");
                return;
            }
            if harmed && stack.mend_bridges() {
                drop(stack);
                std::thread::sleep(PAUSE);
            }
        }
    };
    let thread = std::thread::Builder::new().name("link-guard".to_owned()).spawn(run);
    thread.map(drop).map_err(NetworkError::io("start the guard of bridges"))
}
