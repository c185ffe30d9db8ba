//! Signal names and numbers as `docker kill`, `--stop-signal` and STOPSIGNAL take them (signal(7), x86 and arm numbers).

/// A text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSignal {
    /// No such name.
    #[error("invalid signal: {0}")]
    Name(String),
    /// A number Linux does not have.
    #[error("the linux daemon does not support signal {0}")]
    Number(i32),
}

/// A signal number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Signal(i32);

const NAMES: [(&str, i32); 38] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("UNUSED", 31),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", 34),
    ("RTMAX", 64),
    ("LOST", 29),
];

impl Signal {
    /// SIGKILL, the signal nothing survives.
    pub const KILL: Self = Self(9);
    /// SIGTERM, the default stop signal.
    pub const TERM: Self = Self(15);
    /// SIGHUP.
    pub const HUP: Self = Self(1);
    /// SIGCONT.
    pub const CONT: Self = Self(18);

    /// Parses a number, or a name with or without `SIG`, any case, `RTMIN+n` and `RTMAX-n` included.
    pub fn parse(text: &str) -> Result<Self, InvalidSignal> {
        let invalid = || InvalidSignal::Name(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return match number {
                1..=64 => Ok(Self(number)),
                0 => Err(invalid()),
                _ => Err(InvalidSignal::Number(number)),
            };
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let offset = |rest: &str| rest.parse::<i32>().ok().filter(|n| (0..=30).contains(n));
        if let Some(n) = name.strip_prefix("RTMIN+").and_then(offset) {
            return if n <= 15 { Ok(Self(34 + n)) } else { Err(invalid()) };
        }
        if let Some(n) = name.strip_prefix("RTMAX-").and_then(offset) {
            return if n <= 14 { Ok(Self(64 - n)) } else { Err(invalid()) };
        }
        Err(invalid())
    }

    /// The kernel's number.
    pub fn number(self) -> i32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_realtime() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("Winch", 28)]
        {
            assert_eq!(Signal::parse(text).map(Signal::number), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "-1", "SIGFOO", "RTMIN+16", "RTMIN+", "9x"] {
            assert!(Signal::parse(bad).is_err(), "{bad}");
        }
    }
}
