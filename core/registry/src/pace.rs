//! How slowly a body may come: no byte for a while, or fewer in that time than are of use, ends it. Time that this side takes
//! with what it has does not count.

use std::time::{Duration, Instant};

use crate::error::TransportError;

/// The pace of one body.
#[derive(Debug)]
pub(crate) struct Pace {
    idle: Duration,
    least: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// The next byte may take `idle`, and `least` bytes together no longer than that, but for the last ones of a body.
    pub(crate) fn new(idle: Duration, least: u64) -> Self {
        Self { idle, least, waited: Duration::ZERO, bytes: 0 }
    }

    /// Waits for the next piece, of the length `measure` tells.
    pub(crate) async fn wait<T>(
        &mut self,
        piece: impl Future<Output = T>,
        measure: impl FnOnce(&T) -> usize,
    ) -> Result<T, TransportError> {
        let begun = Instant::now();
        let left = self.idle.saturating_sub(self.waited);
        let Ok(piece) = tokio::time::timeout(left, piece).await else {
            let seconds = self.idle.as_secs();
            return Err(match self.bytes {
                0 => TransportError::Stalled(seconds),
                bytes => TransportError::TooSlow { bytes, seconds },
            });
        };
        self.waited += begun.elapsed();
        self.bytes += measure(&piece) as u64;
        if self.bytes >= self.least {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// A wait of that many milliseconds for so many bytes.
    async fn step(pace: &mut Pace, millis: u64, bytes: usize) -> Result<usize, String> {
        let piece = async {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            bytes
        };
        pace.wait(piece, |bytes| *bytes).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_trickle_ends_and_a_pause_of_ours_does_not_count() {
        let mut pace = Pace::new(Duration::from_secs(2), 10);
        assert_eq!(step(&mut pace, 0, 9).await, Ok(9));
        assert_eq!(pace.bytes, 9);
        assert_eq!(step(&mut pace, 0, 1).await, Ok(1));
        assert_eq!((pace.bytes, pace.waited), (0, Duration::ZERO));
        let mut pace = Pace::new(Duration::from_millis(60), 10);
        let mut passed = 0;
        let error = loop {
            match step(&mut pace, 25, 1).await {
                Ok(bytes) => passed += bytes,
                Err(error) => break error,
            }
        };
        assert!(passed < 3, "{passed}");
        assert_eq!(error, format!("only {passed} bytes received in 0 seconds"));
        let mut pace = Pace::new(Duration::from_millis(20), 10);
        assert_eq!(pace.wait(ready(5), |bytes| *bytes).await.map_err(|error| error.to_string()), Ok(5));
        // A pause between two waits.
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(pace.wait(ready(1), |bytes| *bytes).await.map_err(|error| error.to_string()), Ok(1));
        let stalled = Pace::new(Duration::from_millis(5), 10).wait(pending::<usize>(), |bytes| *bytes).await;
        assert!(matches!(stalled, Err(TransportError::Stalled(0))));
    }
}
