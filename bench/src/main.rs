//! Benchmarks; the A/B runner is not built yet.

fn main() {}
