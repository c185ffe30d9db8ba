//! What others took away of ours is put there again: a thread that waits for it.

use std::sync::Weak;
use std::time::Duration;

use super::NetworkStack;
use crate::error::NetworkError;
use crate::firewall::Guard;

/// Two programs that fight each other shall not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(200);

/// Starts the thread; it ends with the stack, or when nothing can be heard any more.
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
