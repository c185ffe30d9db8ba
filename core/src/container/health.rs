//! Health checks: what is run how often, and what its results mean for the container (Docker API, `HealthConfig` and
//! `Health`). The rules are pure and get the time passed in; one task per container with a check keeps the clock, runs
//! the probes and tells the container's task what came out. The task ends with the run it belongs to.
//!
//! ```text
//! starting --probe succeeds--> healthy <--succeeds / fails `retries` times in a row--> unhealthy
//! starting --fails `retries` times in a row after the start period--> unhealthy
//! ```

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::Duration;

use dockerd_types::Timestamp;
use dockerd_types::container::{ContainerConfig, Status};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::Container;
use super::actor::{Actor, Command};
use crate::core::Core;

/// Between probes, and the longest one may take, where nothing is said.
const DEFAULT_PERIOD: Duration = Duration::from_secs(30);
/// Between probes while the container starts.
const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
/// Failures in a row that make a container unhealthy.
const DEFAULT_RETRIES: u32 = 3;
/// Results inspect shows.
const LOG_ENTRIES: usize = 5;

/// What a container's health is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No probe has succeeded yet, and too few have failed.
    #[default]
    Starting,
    /// The last probe succeeded, or too few have failed since.
    Healthy,
    /// Too many probes failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// When it was started.
    pub start: Timestamp,
    /// When its end was seen.
    pub end: Timestamp,
    /// 0: healthy; -1: it could not be run or took too long.
    pub exit_code: i32,
    /// The beginning of what it printed.
    pub output: String,
}

impl ProbeResult {
    /// A probe that could not even be tried.
    pub(crate) fn not_run(why: &str) -> Self {
        let now = Timestamp::now();
        Self { start: now, end: now, exit_code: -1, output: why.to_owned() }
    }
}

/// A container's health as inspect shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last results, oldest first.
    pub log: VecDeque<ProbeResult>,
}

/// A health check, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthPlan {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    interval: Duration,
    pub(crate) timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl HealthPlan {
    /// The check `config` asks for; `None` for none, and for a kind nobody knows.
    pub(crate) fn of(config: &ContainerConfig) -> Option<Self> {
        let check = config.healthcheck.as_ref()?;
        let (kind, rest) = check.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" => rest.to_vec(),
            "CMD-SHELL" => {
                let shell = config.shell.clone().filter(|shell| !shell.is_empty());
                let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                command.extend(rest.first().cloned());
                command
            }
            _ => return None,
        };
        let or = |asked: Duration, default| if asked.is_zero() { default } else { asked };
        (!command.is_empty()).then(|| Self {
            command,
            interval: or(check.interval, DEFAULT_PERIOD),
            timeout: or(check.timeout, DEFAULT_PERIOD),
            start_period: check.start_period,
            start_interval: or(check.start_interval, DEFAULT_START_INTERVAL),
            retries: u32::try_from(check.retries).ok().filter(|n| *n > 0).unwrap_or(DEFAULT_RETRIES),
        })
    }

    /// How long to wait before the next probe of a container that has run for `ran`.
    fn pause(&self, status: HealthStatus, ran: Duration) -> Duration {
        let starting = status == HealthStatus::Starting && ran < self.start_period;
        if starting { self.start_interval } else { self.interval }
    }
}

impl Health {
    /// Takes one result in; whether the verdict changed.
    fn judge(&mut self, plan: &HealthPlan, result: ProbeResult, started: Timestamp) -> bool {
        let before = self.status;
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if before != HealthStatus::Starting || result.start.since(started) >= plan.start_period {
            self.failing_streak += 1;
            if self.failing_streak >= plan.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push_back(result);
        while self.log.len() > LOG_ENTRIES {
            self.log.pop_front();
        }
        self.status != before
    }
}

/// The task that probes one run of a container; ended by dropping this.
#[derive(Debug)]
pub(super) struct Monitor(AbortHandle);

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor {
    /// Begins to probe the run that has just begun, or that outlived a daemon, if there is a check.
    pub(super) fn begin_health_checks(&mut self) {
        self.monitor = HealthPlan::of(&self.snapshot().spec.config).map(|plan| {
            let (core, container) = (std::sync::Arc::downgrade(&self.core), std::sync::Arc::downgrade(&self.container));
            Monitor(tokio::spawn(probe_for_ever(core, container, plan)).abort_handle())
        });
    }

    /// One result came in.
    pub(super) fn probed(&mut self, result: ProbeResult) {
        let snapshot = self.snapshot();
        let Some(plan) = HealthPlan::of(&snapshot.spec.config) else { return };
        if !snapshot.state.is_running() || self.monitor.is_none() {
            return;
        }
        let started = snapshot.state.started_at.unwrap_or(result.start);
        let mut health = snapshot.state.health.clone().unwrap_or_default();
        let changed = health.judge(&plan, result, started);
        let status = health.status;
        self.update(|s| s.state.health = Some(health));
        if changed {
            // The log of results is not worth a write each; the verdict is.
            self.persist();
            self.event(&format!("health_status: {}", status.name()), &[]);
        }
    }
}

async fn probe_for_ever(core: Weak<Core>, container: Weak<Container>, plan: HealthPlan) {
    loop {
        let Some(snapshot) = container.upgrade().map(|container| container.snapshot()) else { return };
        let ran = snapshot.state.started_at.map_or(Duration::ZERO, |at| Timestamp::now().since(at));
        let status = snapshot.state.health.as_ref().map_or(HealthStatus::Starting, |health| health.status);
        drop(snapshot);
        tokio::time::sleep(plan.pause(status, ran)).await;
        let (Some(core), Some(container)) = (core.upgrade(), container.upgrade()) else { return };
        // A frozen container cannot answer, which says nothing about its health.
        if container.snapshot().state.status != Status::Running {
            continue;
        }
        let result = core.execs.probe(container.id(), plan.command.clone(), plan.timeout).await;
        if container.tell(Command::Probed(result)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use dockerd_types::container::Healthcheck;

    use super::*;

    fn plan(retries: i64, start_period: u64) -> HealthPlan {
        let check = Healthcheck {
            test: vec!["CMD".to_owned(), "true".to_owned()],
            retries,
            start_period: Duration::from_secs(start_period),
            ..Healthcheck::default()
        };
        HealthPlan::of(&ContainerConfig { healthcheck: Some(check), ..ContainerConfig::default() }).expect("a plan")
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_nanos(seconds * 1_000_000_000)
    }

    fn result(seconds: i64, exit_code: i32) -> ProbeResult {
        ProbeResult { start: at(seconds), end: at(seconds), exit_code, output: String::new() }
    }

    #[test]
    fn kinds_of_tests() {
        let of = |test: &[&str]| {
            let test = test.iter().map(|word| (*word).to_owned()).collect();
            let healthcheck = Some(Healthcheck { test, ..Healthcheck::default() });
            HealthPlan::of(&ContainerConfig { healthcheck, ..ContainerConfig::default() }).map(|plan| plan.command)
        };
        assert_eq!(of(&["NONE"]), None);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["CMD", "a", "b"]).expect("a plan"), ["a", "b"]);
        assert_eq!(of(&["CMD-SHELL", "a && b"]).expect("a plan"), ["/bin/sh", "-c", "a && b"]);
    }

    #[test]
    fn failures_in_a_row_make_unhealthy_and_one_success_heals() {
        let (plan, mut health) = (plan(2, 0), Health::default());
        assert!(!health.judge(&plan, result(1, 1), at(0)));
        assert!(health.judge(&plan, result(2, 1), at(0)));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Unhealthy, 2));
        assert!(health.judge(&plan, result(3, 0), at(0)));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 0));
        assert!(!health.judge(&plan, result(4, 1), at(0)));
        assert_eq!(health.status, HealthStatus::Healthy);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count_until_a_success() {
        let (plan, mut health) = (plan(1, 10), Health::default());
        assert!(!health.judge(&plan, result(9, 1), at(0)));
        assert_eq!(health.failing_streak, 0);
        assert!(health.judge(&plan, result(9, 0), at(0)));
        assert!(health.judge(&plan, result(9, 1), at(0)), "once healthy, the start period is over");
        assert_eq!(plan.pause(HealthStatus::Starting, Duration::from_secs(3)), DEFAULT_START_INTERVAL);
        assert_eq!(plan.pause(HealthStatus::Healthy, Duration::from_secs(3)), DEFAULT_PERIOD);
        assert_eq!(plan.pause(HealthStatus::Starting, Duration::from_secs(30)), DEFAULT_PERIOD);
    }

    #[test]
    fn the_log_is_bounded() {
        let (plan, mut health) = (plan(3, 0), Health::default());
        for second in 0..20 {
            health.judge(&plan, result(second, 1), at(0));
        }
        assert_eq!((health.log.len(), health.log[0].start), (LOG_ENTRIES, at(15)));
    }
}
