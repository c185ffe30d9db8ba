//! The exec of a health check: run in the container, its first output kept, ended when it takes too long, forgotten
//! afterwards.

use std::sync::Arc;
use std::time::Duration;

use dockerd_runtime::ProcessKey;
use dockerd_types::signal::Signal;
use dockerd_types::{ContainerId, ExecId, Timestamp};
use tokio::time::{Instant, timeout_at};

use super::{Exec, ExecConfig, ExecService};
use crate::container::attach::AttachSession;
use crate::container::health::ProbeResult;
use crate::error::EngineError;

/// Most bytes of output inspect shows.
const MOST_OUTPUT: usize = 4096;

/// Runs `command` in `container`; its end is waited for at most `limit`.
pub(super) async fn run(
    service: &ExecService,
    container: &ContainerId,
    command: Vec<String>,
    limit: Duration,
) -> ProbeResult {
    let start = Timestamp::now();
    let (exit_code, output) = match probe(service, container, command, limit).await {
        Ok(done) => done,
        Err(error) => (-1, error.to_string()),
    };
    ProbeResult { start, end: Timestamp::now(), exit_code, output }
}

async fn probe(
    service: &ExecService,
    container: &ContainerId,
    command: Vec<String>,
    limit: Duration,
) -> Result<(i32, String), EngineError> {
    let config = ExecConfig { cmd: command, attach_stdout: true, attach_stderr: true, ..ExecConfig::default() };
    let id = service.create(container.as_str(), config).await?;
    let guard = Forget { service, id };
    let exec = service.find(guard.id.as_str())?;
    let mut output = Output::default();
    let deadline = Instant::now() + limit;
    let Some(session) = service.start(guard.id.as_str(), false, None).await? else { return Ok((-1, String::new())) };
    if timeout_at(deadline, finish(&exec, session, &mut output)).await.is_err() {
        let key = ProcessKey::Exec(container.clone(), guard.id.clone());
        let killed = exec.container.driver(&service.core)?.signal(&key, Signal::KILL);
        if let Err(error) = killed {
            tracing::debug!(%container, %error, "the health check ended by itself");
        }
        let text = output.text();
        let colon = if text.is_empty() { "" } else { ": " };
        let limit = humantime(limit);
        return Ok((-1, format!("Health check exceeded timeout ({limit}){colon}{text}")));
    }
    let code = exec.progress.borrow().exit_code;
    Ok((code.unwrap_or(-1), output.text()))
}

/// Takes all output, then waits for the code.
async fn finish(exec: &Exec, mut session: AttachSession, output: &mut Output) {
    while let Some(chunk) = session.output.recv().await {
        output.push(&chunk.bytes);
    }
    // The sender lives as long as `exec` does.
    let _ = exec.progress.subscribe().wait_for(|progress| progress.exit_code.is_some()).await;
}

/// A probe nobody will inspect is not kept.
struct Forget<'a> {
    service: &'a ExecService,
    id: ExecId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let removed: Option<Arc<Exec>> = self.service.table.map().remove(&self.id);
        drop(removed);
    }
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    cut: bool,
}

impl Output {
    fn push(&mut self, bytes: &[u8]) {
        let room = MOST_OUTPUT - self.bytes.len();
        self.cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut {
            text.push_str("...");
        }
        text
    }
}

/// As Go prints durations of whole milliseconds: `1m30s`, `1.5s`, `200ms`.
fn humantime(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = format!("{}s", (seconds % 60) as f64 + f64::from(duration.subsec_millis()) / 1000.0);
    match (hours, minutes) {
        (0, 0) => rest,
        (0, minutes) => format!("{minutes}m{rest}"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_prints_them() {
        let cases = [(200, "200ms"), (1000, "1s"), (1500, "1.5s"), (30_000, "30s"), (90_000, "1m30s")];
        for (millis, text) in cases {
            assert_eq!(humantime(Duration::from_millis(millis)), text);
        }
        assert_eq!(humantime(Duration::from_secs(3600)), "1h0m0s");
    }

    #[test]
    fn output_is_cut() {
        let mut output = Output::default();
        output.push(&[b'a'; 4000]);
        output.push(&[b'b'; 4000]);
        assert_eq!(output.text().len(), MOST_OUTPUT + 3);
        assert!(output.text().ends_with("b..."));
    }
}
