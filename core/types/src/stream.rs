//! Which of a process's streams bytes belong to, as attach, logs and exec frame them.

use serde::{Deserialize, Serialize};

/// A process's output stream; the number is the one in the stdcopy frame header (Docker API, "Stream format").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StdStream {
    /// Standard output, or everything of a TTY.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StdStream {
    /// The stream byte of a stdcopy frame header.
    pub fn frame_byte(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    /// `stdout` or `stderr`, as log files name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
