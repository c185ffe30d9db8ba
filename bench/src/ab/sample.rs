//! Numbers that were measured, per measure and daemon, and what is read from them.

use serde_json::{Value, json};

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Milliseconds.
    Millis,
    /// Whole runs per second.
    PerSecond,
    /// Gigabits per second.
    Gigabits,
    /// Megabytes, as 1,000,000 bytes.
    Megabytes,
    /// So many times something else.
    Times,
}

impl Unit {
    /// As printed behind a number.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Millis => "ms",
            Self::PerSecond => "/s",
            Self::Gigabits => "Gbit/s",
            Self::Megabytes => "MB",
            Self::Times => "times",
        }
    }

    /// Whether a larger number is the better one.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::Gigabits)
    }
}

/// One line of the result: a measure, and its samples for each daemon.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// What was measured, for people.
    pub(crate) title: String,
    /// Unit of all samples.
    pub(crate) unit: Unit,
    /// What the project wants ours to reach.
    pub(crate) target: Option<f64>,
    /// How many times better than the stock daemon the project wants ours to be.
    pub(crate) wanted_ratio: Option<f64>,
    /// Samples, in the order of the daemons.
    pub(crate) samples: Vec<Vec<f64>>,
}

impl Series {
    /// A line without samples.
    pub(crate) fn new(title: impl Into<String>, unit: Unit, target: Option<f64>, daemons: usize) -> Self {
        Self { title: title.into(), unit, target, wanted_ratio: None, samples: vec![Vec::new(); daemons] }
    }

    /// With a ratio as the target.
    pub(crate) fn at_least_times(mut self, ratio: f64) -> Self {
        self.wanted_ratio = Some(ratio);
        self
    }

    /// Percentiles of one daemon's samples.
    pub(crate) fn summary(&self, daemon: usize) -> Option<Summary> {
        Summary::of(self.samples.get(daemon)?)
    }

    /// How many times better the first daemon is than the second, by medians.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let (ours, stock) = (self.summary(0)?.median, self.summary(1)?.median);
        let ratio = if self.unit.more_is_better() { ours / stock } else { stock / ours };
        ratio.is_finite().then_some(ratio)
    }

    /// Whether ours reaches the target.
    pub(crate) fn is_met(&self) -> Option<bool> {
        if let Some(wanted) = self.wanted_ratio {
            return Some(self.ratio()? >= wanted);
        }
        let (target, ours) = (self.target?, self.summary(0)?.median);
        Some(if self.unit.more_is_better() { ours >= target } else { ours <= target })
    }

    /// As a JSON document, all samples included.
    pub(crate) fn to_json(&self) -> Value {
        let daemons: Vec<Value> = (0..self.samples.len())
            .map(|daemon| match self.summary(daemon) {
                Some(Summary { p10, median, p95, .. }) => {
                    json!({ "p10": p10, "median": median, "p95": p95, "samples": self.samples[daemon] })
                }
                None => Value::Null,
            })
            .collect();
        json!({
            "title": self.title,
            "unit": self.unit.label(),
            "target": self.target,
            "wanted_ratio": self.wanted_ratio,
            "ratio": self.ratio(),
            "daemons": daemons,
        })
    }
}

/// Percentiles of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// One in ten is below.
    pub(crate) p10: f64,
    /// The middle one.
    pub(crate) median: f64,
    /// One in twenty is above.
    pub(crate) p95: f64,
    /// One in a hundred is above.
    pub(crate) p99: f64,
}

impl Summary {
    /// Percentiles by nearest rank; the median of an even number is between the two in the middle.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let nearest = |percent: usize| sorted.get((count * percent).div_ceil(100).saturating_sub(1)).copied();
        let (low, high) = (*sorted.get(count.saturating_sub(1) / 2)?, *sorted.get(count / 2)?);
        Some(Self { p10: nearest(10)?, median: f64::midpoint(low, high), p95: nearest(95)?, p99: nearest(99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[3.0]), Some(Summary { p10: 3.0, median: 3.0, p95: 3.0, p99: 3.0 }));
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(Summary::of(&hundred), Some(Summary { p10: 10.0, median: 50.5, p95: 95.0, p99: 99.0 }));
    }

    #[test]
    fn a_ratio_is_above_one_where_ours_is_better() {
        let mut time = Series::new("time", Unit::Millis, Some(6.0), 2);
        time.samples = vec![vec![5.0], vec![50.0]];
        assert_eq!((time.ratio(), time.is_met()), (Some(10.0), Some(true)));
        let mut rate = Series::new("rate", Unit::PerSecond, Some(150.0), 2);
        rate.samples = vec![vec![100.0], vec![10.0]];
        assert_eq!((rate.ratio(), rate.is_met()), (Some(10.0), Some(false)));
        rate.samples[1].clear();
        assert_eq!(rate.ratio(), None);
        let mut load = Series::new("load", Unit::Millis, None, 2).at_least_times(8.0);
        load.samples = vec![vec![10.0], vec![79.0]];
        assert_eq!(load.is_met(), Some(false));
        load.samples[1] = vec![80.0];
        assert_eq!(load.is_met(), Some(true));
    }
}
