//! Times of RFC 3339, as Go's `encoding/json` writes them. Of all years that have four digits, which the timestamps of the API
//! (nanoseconds in 64 bits) do not reach.

use crate::untar::TarTime;

/// The time that `text` says; `None` for no time. What is before the epoch is the epoch, as in a tar.
pub(super) fn parse(text: &str) -> Option<TarTime> {
    let (date, rest) = text.split_at_checked(10)?;
    let (clock, rest) = rest.strip_prefix(['T', 't'])?.split_at_checked(8)?;
    let [year, month, day] = three(date, b'-', [4, 2, 2])?;
    let [hour, minute, second] = three(clock, b':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, zone) = fraction(rest)?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    Some(if seconds < 0 { TarTime::default() } else { TarTime { seconds, nanos } })
}

/// Numbers of so many digits with `between` between them.
fn three(text: &str, between: u8, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.as_bytes().split(|byte| *byte == between);
    let mut out = [0; 3];
    for (number, digits) in out.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits && part.iter().all(u8::is_ascii_digit))?;
        *number = part.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    }
    parts.next().is_none().then_some(out)
}

/// Nanoseconds of `.123`, digits beyond the ninth dropped, and what comes behind.
fn fraction(rest: &str) -> Option<(u32, &str)> {
    let Some(digits) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let count = digits.bytes().take_while(u8::is_ascii_digit).count();
    let nanos = digits.bytes().take(count).chain(std::iter::repeat(b'0')).take(9);
    (count > 0).then(|| (nanos.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0')), &digits[count..]))
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.as_bytes() {
        [b'Z' | b'z'] => return Some(0),
        [b'+', ..] => (1, &zone[1..]),
        [b'-', ..] => (-1, &zone[1..]),
        _ => return None,
    };
    let (hour, minute) = rest.split_once(':')?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<i64>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    (hour <= 23 && minute <= 59).then_some(sign * (hour * 3600 + minute * 60))
}

/// Days since the epoch. Years begin in March here, so that the day of a leap year is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    // Months have 30.6 days, five of them 153.
    let in_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + in_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<i64> {
        parse(text).map(|time| time.seconds)
    }

    #[test]
    fn times() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2019-08-20T10:30:43Z"), Some(1_566_297_043));
        assert_eq!(seconds("2000-02-29T23:59:59+14:00"), Some(951_818_399));
        assert_eq!(seconds("2001-09-08T20:46:40-05:00"), Some(1_000_000_000));
        assert_eq!(seconds("9999-12-31T23:59:59Z"), Some(253_402_300_799));
        // Go's time that was never set, and what lies before the epoch.
        assert_eq!(seconds("0001-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("1969-12-31T23:59:59.5Z"), Some(0));
        let exact = parse("2020-01-01T00:00:00.1234567891Z").expect("a time");
        assert_eq!((exact.seconds, exact.nanos), (1_577_836_800, 123_456_789));
        assert_eq!(parse("2020-01-01T00:00:00.5Z").expect("a time").nanos, 500_000_000);
    }

    #[test]
    fn other_texts() {
        for text in [
            "",
            "2020-01-01",
            "2020-01-01T00:00:00",
            "2020-01-01 00:00:00Z",
            "2020-02-30T00:00:00Z",
            "2021-02-29T00:00:00Z",
            "2020-13-01T00:00:00Z",
            "2020-00-01T00:00:00Z",
            "2020-01-01T24:00:00Z",
            "2020-01-01T00:00:60Z",
            "2020-01-01T00:00:00.Z",
            "2020-01-01T00:00:00+1:00",
            "2020-01-01T00:00:00+01:60",
            "2020-01-01T00:00:00Z ",
            "+020-01-01T00:00:00Z",
            "2020-01-0\u{e9}T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn as_the_timestamps_of_the_api(seconds in 0i64..9_000_000_000, nanos in 0u32..1_000_000_000) {
            let timestamp = dockerd_types::Timestamp::from_unix_nanos(seconds * 1_000_000_000 + i64::from(nanos));
            proptest::prop_assert_eq!(parse(&timestamp.rfc3339_nano()), Some(TarTime { seconds, nanos }));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
