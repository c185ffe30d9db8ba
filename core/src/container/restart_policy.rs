//! Whether and when the restart policy starts a container again. Pure; the container's task runs the timer.

use std::time::Duration;

use dockerd_types::container::RestartPolicy;

/// First delay, doubled with every further restart.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run this long starts the doubling anew.
pub const HEALTHY_RUN: Duration = Duration::from_secs(10);

/// What is known when a process ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Its exit code.
    pub exit_code: i64,
    /// How long it ran.
    pub ran: Duration,
    /// A client stopped or killed it.
    pub manually_stopped: bool,
    /// Restarts by the policy so far.
    pub restarts: u32,
    /// The delay before the run that ended, if the policy started it.
    pub last_delay: Option<Duration>,
}

/// How long to wait before the next start, or `None` to leave the container stopped.
pub fn delay(policy: RestartPolicy, ended: Ended) -> Option<Duration> {
    let wanted = match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { max_retries } => {
            ended.exit_code != 0 && (max_retries == 0 || ended.restarts < max_retries)
        }
    };
    if !wanted || ended.manually_stopped {
        return None;
    }
    Some(match ended.last_delay {
        Some(last) if ended.ran < HEALTHY_RUN => (last * 2).min(LONGEST_DELAY),
        _ => FIRST_DELAY,
    })
}

/// Whether a container that does not run and was restarted `restarts` times is started when the daemon boots.
pub fn start_at_boot(
    policy: RestartPolicy,
    exit_code: i64,
    manually_stopped: bool,
    was_started: bool,
    restarts: u32,
) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => was_started,
        RestartPolicy::UnlessStopped => was_started && !manually_stopped,
        RestartPolicy::OnFailure { max_retries } => {
            let tries_left = max_retries == 0 || restarts < max_retries;
            was_started && !manually_stopped && exit_code != 0 && tries_left
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ended() -> Ended {
        Ended { exit_code: 1, ran: Duration::from_secs(1), manually_stopped: false, restarts: 0, last_delay: None }
    }

    #[test]
    fn delays_double_up_to_the_cap_and_reset_after_a_long_run() {
        let mut last = None;
        let mut seen = Vec::new();
        for _ in 0..12 {
            last = delay(RestartPolicy::Always, Ended { last_delay: last, ..ended() });
            seen.push(last.expect("always restarts").as_millis());
        }
        assert_eq!(seen, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        let long = Ended { ran: HEALTHY_RUN, last_delay: last, ..ended() };
        assert_eq!(delay(RestartPolicy::Always, long), Some(FIRST_DELAY));
    }

    #[test]
    fn policies() {
        let on_failure = |max_retries| RestartPolicy::OnFailure { max_retries };
        assert_eq!(delay(RestartPolicy::No, ended()), None);
        assert!(delay(on_failure(0), ended()).is_some());
        assert_eq!(delay(on_failure(0), Ended { exit_code: 0, ..ended() }), None);
        assert!(delay(on_failure(3), Ended { restarts: 2, ..ended() }).is_some());
        assert_eq!(delay(on_failure(3), Ended { restarts: 3, ..ended() }), None);
        assert_eq!(delay(RestartPolicy::Always, Ended { manually_stopped: true, ..ended() }), None);
        assert!(start_at_boot(RestartPolicy::Always, 0, true, true, 9));
        assert!(!start_at_boot(RestartPolicy::UnlessStopped, 0, true, true, 9));
        assert!(!start_at_boot(RestartPolicy::Always, 0, false, false, 0));
        let twice = RestartPolicy::OnFailure { max_retries: 2 };
        assert!(start_at_boot(twice, 1, false, true, 1));
        assert!(!start_at_boot(twice, 1, false, true, 2), "as often as it may");
        assert!(!start_at_boot(twice, 0, false, true, 0));
    }

    proptest! {
        #[test]
        fn delays_stay_in_bounds(ran in 0u64..100_000, last in proptest::option::of(100u64..60_000)) {
            let ended = Ended {
                ran: Duration::from_millis(ran),
                last_delay: last.map(Duration::from_millis),
                ..ended()
            };
            let delay = delay(RestartPolicy::Always, ended).expect("always restarts");
            prop_assert!((FIRST_DELAY..=LONGEST_DELAY).contains(&delay));
        }
    }
}
