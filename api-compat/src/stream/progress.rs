//! Lines of a progress stream, as the CLI draws its bars from them.

use bytes::Bytes;
use dockerd_core::container::human;
use dockerd_types::Digest;
use serde_json::{Value, json};

/// Characters of a bar.
const WIDTH: u64 = 50;

/// One JSON object and the line's end.
pub(crate) fn line(value: &Value) -> std::io::Result<Bytes> {
    Ok(Bytes::from(format!("{value}\r\n")))
}

/// The last line of a stream that failed.
pub(crate) fn failure(error: &dyn std::fmt::Display) -> Value {
    json!({"errorDetail": {"message": error.to_string()}, "error": error.to_string()})
}

/// A layer under way.
pub(crate) fn layer(status: &str, diff_id: &Digest, current: u64, total: u64) -> Value {
    json!({
        "status": status,
        "progressDetail": {"current": current, "total": total},
        "progress": bar(current, total),
        "id": diff_id.short(),
    })
}

/// Something under way that is no layer, whose total may not be known.
pub(crate) fn alone(status: &str, current: u64, total: Option<u64>) -> Value {
    let (detail, text) = match total {
        _ if current == 0 => return json!({"status": status, "progressDetail": {}}),
        Some(total) => (json!({"current": current, "total": total}), bar(current, total)),
        None => (json!({"current": current}), format!("{:>8}", human::size(current))),
    };
    json!({"status": status, "progressDetail": detail, "progress": text})
}

/// A step of a layer that needs no bar.
pub(crate) fn step(status: &str, id: &str) -> Value {
    json!({"status": status, "progressDetail": {}, "id": id})
}

/// `[====>    ]     1kB/2kB`. A total that was too small is left out.
fn bar(current: u64, total: u64) -> String {
    let done = if total == 0 { WIDTH } else { (u128::from(current) * u128::from(WIDTH) / u128::from(total)) as u64 };
    let done = done.min(WIDTH);
    let (full, empty) = ("=".repeat(done as usize), " ".repeat((WIDTH - done) as usize));
    if current > total {
        return format!("[{full}>{empty}] {:>8}", human::size(current));
    }
    format!("[{full}>{empty}] {:>8}/{}", human::size(current), human::size(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        assert_eq!(bar(32768, 71680), "[======================>                            ]  32.77kB/71.68kB");
        assert_eq!(bar(114, 114), "[==================================================>]     114B/114B");
        assert_eq!(bar(10240, 1200), "[==================================================>]  10.24kB");
        assert_eq!(bar(71680, 71680), "[==================================================>]  71.68kB/71.68kB");
    }
}
