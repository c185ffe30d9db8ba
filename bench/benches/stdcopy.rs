//! Framing output for attach and logs: a short line, a line as shells print it, a full pipe.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn stdcopy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stdcopy");
    for size in [16, 120, 32 << 10] {
        let payload = vec![b'x'; size];
        assert_eq!(api_compat::bench::frame(&payload).len(), size + 8);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &payload, |bencher, payload| {
            bencher.iter(|| api_compat::bench::frame(payload));
        });
    }
    group.finish();
}

criterion_group!(benches, stdcopy);
criterion_main!(benches);
