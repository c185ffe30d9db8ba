//! How often somebody who is not there is called: at once, and after one second, and after twice as long every time, for
//! half a minute in all. So does the stock daemon.

use std::time::{Duration, Instant};

/// How long all attempts may take.
const LONGEST: Duration = Duration::from_secs(30);
/// How long an answer may take. The stock daemon waits for ever.
const LIMIT: Duration = Duration::from_secs(60);
/// The same for one that did not answer a moment ago.
const SHORT_LIMIT: Duration = Duration::from_secs(5);

/// What to do when nobody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Try again for a while.
    Usual,
    /// Try once: he was away a moment ago.
    Little,
}

impl Patience {
    /// The attempts, of which the first is made now.
    pub(super) fn attempts(self) -> Attempts {
        Attempts { begun: Instant::now(), next: (self == Self::Usual).then_some(Duration::from_secs(1)) }
    }

    /// How long an answer may take.
    pub(super) fn limit(self) -> Duration {
        match self {
            Self::Usual => LIMIT,
            Self::Little => SHORT_LIMIT,
        }
    }
}

/// Attempts to reach somebody.
#[derive(Debug)]
pub(super) struct Attempts {
    begun: Instant,
    next: Option<Duration>,
}

impl Attempts {
    /// How long to wait before the next attempt; `None`: there is none, or it would come too late.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let pause = self.next?;
        self.next = Some(pause.saturating_mul(2));
        (self.begun.elapsed() + pause < LONGEST).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_end() {
        let mut attempts = Patience::Usual.attempts();
        let pauses: Vec<u64> = std::iter::from_fn(|| attempts.pause()).map(|pause| pause.as_secs()).take(9).collect();
        // No time passes here: all but the last are short enough by themselves.
        assert_eq!(pauses, [1, 2, 4, 8, 16]);
        assert_eq!(Patience::Little.attempts().pause(), None);
    }
}
