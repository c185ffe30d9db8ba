//! Indexes of layers: a tar of many small files is scanned, which touches headers only, and its index is written.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dockerd_bench::image;
use dockerd_image::erofs::{Merge, read, scan, write};

const FILES: usize = 10_000;
/// Layers that are merged.
const LAYERS: usize = 4;

fn erofs_index(criterion: &mut Criterion) {
    let layer = image::many_files_layer(FILES).expect("a layer is made");
    let tree = scan(&layer[..], [0; 64]).expect("it is scanned").tree;
    let index = write(&tree).expect("an index is written");
    let mut group = criterion.benchmark_group("erofs_index");
    group.sample_size(20).throughput(Throughput::Elements(FILES as u64));
    group.bench_function("scan", |bencher| bencher.iter(|| scan(&layer[..], [0; 64]).expect("scanned")));
    group.bench_function("write", |bencher| bencher.iter(|| write(&tree).expect("written")));
    group.bench_function("read", |bencher| bencher.iter(|| read(&index).expect("read")));
    group.bench_function("merge_of_4_equal_layers", |bencher| {
        bencher.iter(|| {
            let mut merged = Merge::new();
            (0..LAYERS).for_each(|_| merged.add(&tree).expect("merged"));
            merged.finish()
        });
    });
    group.finish();
}

criterion_group!(benches, erofs_index);
criterion_main!(benches);
