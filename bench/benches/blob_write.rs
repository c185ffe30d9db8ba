//! Writing a large blob: plain calls against io_uring with registered buffers, several writes in flight, both to the disk
//! and not only to the page cache. Decides which of the two the disk engine uses for blobs.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio_uring::buf::fixed::FixedBufRegistry;

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 64;
/// Writes in flight.
const DEPTH: usize = 8;

fn blob_write(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory is made");
    let path = dir.path().join("blob");
    let mut group = criterion.benchmark_group("blob_write");
    group.sample_size(10).throughput(Throughput::Bytes((BLOCK * BLOCKS) as u64));
    group.bench_function("plain", |bencher| bencher.iter(|| plain(&path)));
    group.bench_function("io_uring", |bencher| bencher.iter(|| uring(&path)));
    group.finish();
}

fn plain(path: &Path) {
    let block = vec![0x5a; BLOCK];
    let mut file = File::create(path).expect("the file is made");
    for _ in 0..BLOCKS {
        file.write_all(&block).expect("written");
    }
    file.sync_data().expect("on the disk");
}

fn uring(path: &Path) {
    tokio_uring::start(async {
        let registry = FixedBufRegistry::new((0..DEPTH).map(|_| vec![0x5a; BLOCK]));
        registry.register().expect("buffers are registered");
        let file = std::rc::Rc::new(tokio_uring::fs::File::create(path).await.expect("the file is made"));
        let writers = (0..DEPTH).map(|slot| {
            let (file, registry) = (file.clone(), registry.clone());
            tokio_uring::spawn(async move {
                let mut buffer = registry.check_out(slot).expect("each slot has one writer");
                for block in (slot..BLOCKS).step_by(DEPTH) {
                    let (result, back) = file.write_fixed_at(buffer, (block * BLOCK) as u64).await;
                    assert_eq!(result.expect("written"), BLOCK);
                    buffer = back;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("the writer ends");
        }
        file.sync_data().await.expect("on the disk");
    });
}

criterion_group!(benches, blob_write);
criterion_main!(benches);
