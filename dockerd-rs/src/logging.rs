//! The daemon's own log on standard error, in the stock daemon's two formats: `time="..." level=info msg="..."` and JSON
//! lines. The level can be changed while it runs.

use std::fmt;

use dockerd_types::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// The running log.
#[derive(Debug, Clone)]
pub(crate) struct Log(reload::Handle<Targets, Registry>);

impl Log {
    /// Begins to log at `level` (`debug`, `info`, ...), as JSON lines if so asked.
    pub(crate) fn start(level: &str, json: bool) -> Self {
        let (filter, handle) = reload::Layer::new(targets(level));
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(Format { json });
        tracing_subscriber::registry().with(filter).with(lines).init();
        Self(handle)
    }

    /// Logs at `level` from now on.
    pub(crate) fn set_level(&self, level: &str) {
        // It fails only when the log is gone, which it never is.
        let _ = self.0.reload(targets(level));
    }
}

/// Our own crates at `level`, others only when something is wrong.
fn targets(level: &str) -> Targets {
    let level = match level.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => LevelFilter::INFO,
    };
    Targets::new().with_target("dockerd", level).with_target("api_compat", level).with_default(LevelFilter::ERROR)
}

#[derive(Debug)]
struct Format {
    json: bool,
}

/// Fields of an event in the order of their names, the message apart.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => _ = self.others.insert(name.to_owned(), value),
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Bare where that can be read back, else quoted.
fn logfmt(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !text.is_empty() && text.chars().all(is_bare) { text } else { Value::String(text).to_string() }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (time, level) = (Timestamp::now().rfc3339_fixed(), level_name(*event.metadata().level()));
        let Fields { message, mut others } = fields;
        if self.json {
            others.insert("level".to_owned(), level.into());
            others.insert("msg".to_owned(), message.into());
            others.insert("time".to_owned(), time.into());
            return writeln!(out, "{}", Value::Object(others));
        }
        write!(out, "time=\"{time}\" level={level} msg={}", Value::String(message))?;
        for (name, value) in &others {
            write!(out, " {name}={}", logfmt(value))?;
        }
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_when_they_must_be() {
        for (value, expected) in
            [("a-b/c@1.2", "a-b/c@1.2"), ("", "\"\""), ("a b", "\"a b\""), ("say \"x\"", r#""say \"x\"""#)]
        {
            assert_eq!(logfmt(&Value::String(value.to_owned())), expected);
        }
        assert_eq!(logfmt(&Value::from(5)), "5");
    }
}
