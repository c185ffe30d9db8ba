//! Readings as the API's statistics. What was not read has the zeros and nulls it has under Docker.

use dockerd_core::container::stats::{
    BlockIoEntry, BlockIoStats, ContainerStats, CpuStats, InterfaceCounters, MemoryStats, PidsStats, StatsReading,
};
use dockerd_types::timestamp::or_zero_time;
use serde_json::{Map, Value, json};

/// One object of the stream; `named` where it says whose it is.
pub(crate) fn stats(stats: &ContainerStats, named: bool) -> Value {
    let ContainerStats { id, name, now, before, cgroup_v2 } = stats;
    let mut out = json!({
        "read": or_zero_time(now.as_ref().map(|reading| reading.at)),
        "preread": or_zero_time(before.as_ref().map(|reading| reading.at)),
        "pids_stats": now.as_ref().map_or_else(|| json!({}), |reading| pids(reading.cgroup.pids)),
        "blkio_stats": block_io(now.as_ref().map(|reading| &reading.cgroup.block_io), *cgroup_v2),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu(now.as_ref()),
        "precpu_stats": cpu(before.as_ref()),
        "memory_stats": now.as_ref().map_or_else(|| json!({}), memory_of),
    });
    if named {
        out["name"] = json!(format!("/{name}"));
        out["id"] = json!(id.as_str());
    }
    if let Some(reading) = now.as_ref().filter(|reading| !reading.networks.is_empty()) {
        let networks: Map<String, Value> =
            reading.networks.iter().map(|(name, counters)| (name.clone(), interface(*counters))).collect();
        out["networks"] = Value::Object(networks);
    }
    out
}

fn pids(pids: PidsStats) -> Value {
    let PidsStats { current, limit } = pids;
    // "No limit" is the largest number there is.
    json!({"current": current, "limit": limit.unwrap_or(u64::MAX)})
}

fn cpu(reading: Option<&StatsReading>) -> Value {
    let none = CpuStats::default();
    let cpu = reading.map_or(&none, |reading| &reading.cgroup.cpu);
    let CpuStats { total, user, system, per_cpu, periods, throttled_periods, throttled_time } = cpu;
    let mut usage = json!({"total_usage": total, "usage_in_kernelmode": system, "usage_in_usermode": user});
    if !per_cpu.is_empty() {
        usage["percpu_usage"] = json!(per_cpu);
    }
    let throttling =
        json!({"periods": periods, "throttled_periods": throttled_periods, "throttled_time": throttled_time});
    let mut out = json!({"cpu_usage": usage, "throttling_data": throttling});
    if let Some(reading) = reading {
        out["system_cpu_usage"] = json!(reading.system_cpu);
        out["online_cpus"] = json!(reading.online_cpus);
    }
    out
}

fn memory_of(reading: &StatsReading) -> Value {
    let MemoryStats { usage, max_usage, fail_count, limit, details, oom_kills: _ } = &reading.cgroup.memory;
    let limit = limit.map_or(reading.host_memory, |limit| limit.min(reading.host_memory));
    let mut out = json!({"usage": usage, "stats": details, "limit": limit});
    // Zero is left out, as under Docker.
    for (key, value) in [("max_usage", max_usage), ("failcnt", fail_count)] {
        if let Some(value) = value.filter(|value| *value > 0) {
            out[key] = json!(value);
        }
    }
    out
}

fn block_io(stats: Option<&BlockIoStats>, cgroup_v2: bool) -> Value {
    let entries = |list: &[BlockIoEntry]| -> Vec<Value> {
        let entry = |entry: &BlockIoEntry| {
            let BlockIoEntry { major, minor, operation, value } = entry;
            json!({"major": major, "minor": minor, "op": operation, "value": value})
        };
        list.iter().map(entry).collect()
    };
    let mut out = Map::new();
    // Version 1 counts nothing of these any more, but the lists are there.
    let rest = if stats.is_some() && !cgroup_v2 { json!([]) } else { Value::Null };
    for key in [
        "io_queue_recursive",
        "io_service_time_recursive",
        "io_wait_time_recursive",
        "io_merged_recursive",
        "io_time_recursive",
        "sectors_recursive",
    ] {
        out.insert(key.to_owned(), rest.clone());
    }
    let bytes = stats.map_or(Value::Null, |stats| match entries(&stats.bytes) {
        list if list.is_empty() && cgroup_v2 => Value::Null,
        list => json!(list),
    });
    out.insert("io_service_bytes_recursive".to_owned(), bytes);
    let requests =
        stats.map_or(Value::Null, |stats| if cgroup_v2 { Value::Null } else { json!(entries(&stats.requests)) });
    out.insert("io_serviced_recursive".to_owned(), requests);
    Value::Object(out)
}

fn interface(counters: InterfaceCounters) -> Value {
    let InterfaceCounters { received, sent } = counters;
    json!({
        "rx_bytes": received[0],
        "rx_packets": received[1],
        "rx_errors": received[2],
        "rx_dropped": received[3],
        "tx_bytes": sent[0],
        "tx_packets": sent[1],
        "tx_errors": sent[2],
        "tx_dropped": sent[3],
    })
}
