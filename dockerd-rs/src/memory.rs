//! Keeping the idle daemon small: when it has grown since the last look, and rests, what the allocator keeps is given back.

use std::time::Duration;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(10);
/// Times it is done, one a look: each time takes the share of the worker it happens to run on.
const ROUNDS: u32 = 4;
/// Growth that is worth the work, in pages.
const GROWTH: u64 = 128;

/// Before any thread exists.
pub(crate) fn prepare() {
    // Ten megabytes of an idle daemon were the unused rest of huge pages; the supervisor takes this back for itself.
    if let Err(error) = dockerd_sys::process::allow_huge_pages(false) {
        tracing::debug!(%error, "huge pages stay");
    }
}

/// Gives back for as long as the daemon runs, and at once what it took to start.
pub(crate) fn watch() {
    if let Err(error) = dockerd_sys::memory::unmap_program() {
        tracing::debug!(%error, "what only the start needed stays in memory");
    }
    tokio::spawn(async {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut settled, mut rounds) = (0, 0);
        let mut last = private_pages();
        loop {
            ticks.tick().await;
            let now = private_pages();
            // Still moving: it would only have to be fetched again.
            let rests = now.abs_diff(last) < GROWTH;
            last = now;
            if rests && now > settled + GROWTH {
                rounds = ROUNDS;
            }
            if rests && rounds > 0 {
                rounds -= 1;
                // On a worker, whose own share it takes along; a millisecond.
                dockerd_sys::memory::give_back();
                settled = private_pages();
                last = settled;
            }
        }
    });
}

/// Pages of this process that are no file's (proc_pid_statm(5)).
fn private_pages() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut fields = statm.split_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap_or_default());
    let (resident, shared) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    resident.saturating_sub(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_counts() {
        let before = private_pages();
        let touched = vec![1_u8; 8 << 20];
        let after = private_pages();
        assert!(after >= before + 1024, "{before} and {after} pages with {} bytes", touched.len());
    }
}
