//! Points in time as the Docker API writes them: RFC 3339 with nanoseconds, UTC, and the zero time for "never".

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What Go prints for a time that was never set; clients compare with it.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid timestamp: {0:?}")]
pub struct InvalidTimestamp(pub String);

/// Nanoseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From nanoseconds since the epoch.
    pub fn from_unix_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    pub fn unix_nanos(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// The wall clock's reading; callers at the edge take it, pure code is handed it.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// This time plus `duration`, saturating.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was, seen from here; zero when it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 as Go's `RFC3339Nano` prints it: trailing zeros of the fraction are left out.
    pub fn rfc3339_nano(self) -> String {
        let (mut text, nanos) = self.seconds_text();
        if nanos != 0 {
            let fraction = format!("{nanos:09}");
            text.push('.');
            text.push_str(fraction.trim_end_matches('0'));
        }
        text.push('Z');
        text
    }

    /// RFC 3339 with always nine digits of fraction, as `docker logs --timestamps` prints it.
    pub fn rfc3339_fixed(self) -> String {
        let (mut text, nanos) = self.seconds_text();
        text.push_str(&format!(".{nanos:09}Z"));
        text
    }

    /// Parses RFC 3339, any offset, any precision.
    pub fn parse_rfc3339(text: &str) -> Result<Self, InvalidTimestamp> {
        let invalid = || InvalidTimestamp(text.to_owned());
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| invalid())?;
        i64::try_from(parsed.unix_timestamp_nanos()).map(Self).map_err(|_| invalid())
    }

    /// Parses what the API's `since`, `until` take: `seconds[.nanoseconds]` since the epoch, or RFC 3339.
    pub fn parse_unix_or_rfc3339(text: &str) -> Result<Self, InvalidTimestamp> {
        let invalid = || InvalidTimestamp(text.to_owned());
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let Ok(seconds) = seconds.parse::<i64>() else { return Self::parse_rfc3339(text) };
        if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
        seconds.checked_mul(1_000_000_000).and_then(|n| n.checked_add(nanos)).map(Self).ok_or_else(invalid)
    }

    fn seconds_text(self) -> (String, i64) {
        let seconds = self.unix_seconds();
        let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let text = format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            date.year(),
            u8::from(date.month()),
            date.day(),
            date.hour(),
            date.minute(),
            date.second()
        );
        (text, self.0.rem_euclid(1_000_000_000))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let nanos = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
        };
        Self(nanos)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339_nano())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(Self)
    }
}

/// `time` as inspect prints it: RFC 3339, or Go's zero time when there is none.
pub fn or_zero_time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| ZERO_TIME.to_owned(), Timestamp::rfc3339_nano)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn go_prints_the_same() {
        let t = Timestamp::from_unix_nanos(1_700_000_000_120_000_000);
        assert_eq!(t.rfc3339_nano(), "2023-11-14T22:13:20.12Z");
        assert_eq!(t.rfc3339_fixed(), "2023-11-14T22:13:20.120000000Z");
        assert_eq!(Timestamp::from_unix_nanos(0).rfc3339_nano(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn query_forms() {
        assert_eq!(Timestamp::parse_unix_or_rfc3339("12.5"), Ok(Timestamp(12_500_000_000)));
        assert_eq!(Timestamp::parse_unix_or_rfc3339("12"), Ok(Timestamp(12_000_000_000)));
        assert_eq!(Timestamp::parse_unix_or_rfc3339("1970-01-01T01:00:00+01:00"), Ok(Timestamp(0)));
        assert!(Timestamp::parse_unix_or_rfc3339("yesterday").is_err());
    }

    proptest! {
        #[test]
        fn rfc3339_round_trips(nanos in 0i64..4_000_000_000_000_000_000) {
            let t = Timestamp::from_unix_nanos(nanos);
            prop_assert_eq!(Timestamp::parse_rfc3339(&t.rfc3339_nano()), Ok(t));
            prop_assert_eq!(Timestamp::parse_rfc3339(&t.rfc3339_fixed()), Ok(t));
        }
    }
}
