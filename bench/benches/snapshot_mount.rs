//! A writable snapshot's life: prepare, mount, take away. Needs root.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dockerd_bench::image;
use dockerd_image::{ImageStore, ImportOptions};
use dockerd_store::Layout;

fn snapshot_mount(criterion: &mut Criterion) {
    let base = tempfile::tempdir().expect("a directory is made");
    let layout = Layout::new(base.path().join("data"), base.path().join("exec"));
    layout.create().expect("the layout is made");
    let store = ImageStore::open(&layout, None).expect("the store opens");
    let root = image::busybox_root().expect("busybox-static is installed");
    let image = store.import(root.as_slice(), &ImportOptions::default()).expect("the image is made");
    let (snapshots, chain) = (store.snapshots().clone(), image.chain().cloned());
    let mut next = 0_u64;
    let mut key = || {
        next += 1;
        format!("{next:064x}")
    };
    let prepared = |key: String| {
        snapshots.prepare(&key, chain.as_ref()).expect("prepared");
        key
    };
    let mut group = criterion.benchmark_group("snapshot");
    group.bench_function("prepare", |bencher| {
        bencher.iter_batched(&mut key, |key| snapshots.prepare(&key, chain.as_ref()), BatchSize::PerIteration);
    });
    group.bench_function("mount_and_unmount", |bencher| {
        bencher.iter_batched(
            || prepared(key()),
            |key| snapshots.mount(&key).expect("mounted"),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("remove", |bencher| {
        bencher.iter_batched(
            || prepared(key()),
            |key| snapshots.remove(&key).expect("removed"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, snapshot_mount);
criterion_main!(benches);
