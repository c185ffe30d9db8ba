//! Texts people read: `Up 3 minutes`, `Exited (0) 5 seconds ago`. Pure; the time is passed in.

use std::time::Duration;

use dockerd_types::Timestamp;
use dockerd_types::container::Status;

use super::health::HealthStatus;
use super::spec::State;

/// A duration as Docker words it.
pub fn duration(d: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    let seconds = d.as_secs();
    let minutes = seconds / MINUTE;
    // Hours are rounded to the nearest, the rest cut off.
    let hours = (seconds + HOUR / 2) / HOUR;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / HOUR / 24 / 365),
    }
}

/// Bytes in decimal units with four digits, as Docker words them: `32.77kB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    // Go's %.4g: four significant digits, without zeros at the end.
    let whole = if value < 10.0 {
        1
    } else if value < 100.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.*}", 4 - whole);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

/// The Status column.
pub fn status(state: &State, now: Timestamp) -> String {
    let ago = |at: Option<Timestamp>| at.map_or_else(String::new, |at| duration(now.since(at)));
    match state.status {
        Status::Running => match &state.health {
            None => format!("Up {}", ago(state.started_at)),
            Some(health) if health.status == HealthStatus::Starting => {
                format!("Up {} (health: starting)", ago(state.started_at))
            }
            Some(health) => format!("Up {} ({})", ago(state.started_at), health.status.name()),
        },
        Status::Paused => format!("Up {} (Paused)", ago(state.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Created => "Created".to_owned(),
        Status::Exited if state.finished_at.is_none() => String::new(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago(state.finished_at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn statuses() {
        let at = |s: i64| Some(Timestamp::from_unix_nanos(s * 1_000_000_000));
        let now = Timestamp::from_unix_nanos(100 * 1_000_000_000);
        let state = State { status: Status::Exited, exit_code: 3, finished_at: at(95), ..State::default() };
        assert_eq!(status(&state, now), "Exited (3) 5 seconds ago");
        let state = State { status: Status::Paused, started_at: at(70), ..State::default() };
        assert_eq!(status(&state, now), "Up 30 seconds (Paused)");
    }
}
