//! Writing a large blob in blocks of 256 KiB, eight at a time: plain calls against io_uring with registered blocks, into the page
//! cache and past it. It decides which of them the daemon takes for what (`core/image/src/intake/disk.rs`): of what only goes to
//! the page cache the write alone counts; what is to be on the disk is on it at the end.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dockerd_sys::ring::{self, BLOCK, Block, RingWriter};
use rustix::fs::{FallocateFlags, OFlags};
use tokio_uring::buf::fixed::FixedBufRegistry;

const SIZE: usize = 64 << 20;
/// Blocks, and so writes in flight.
const DEPTH: usize = 8;

fn blob_write(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory is made");
    let path = dir.path().join("blob");
    let mut blocks = ring::blocks(DEPTH).expect("blocks are made");
    blocks.iter_mut().for_each(|block| Arc::get_mut(block).expect("nobody has it").bytes_mut().fill(0x5a));
    let mut group = criterion.benchmark_group("blob_write");
    group.sample_size(10).throughput(Throughput::Bytes(SIZE as u64));
    for (name, flags) in [("page_cache", OFlags::empty()), ("direct", OFlags::DIRECT)] {
        let open = || {
            let _ = std::fs::remove_file(&path);
            open(&path, flags)
        };
        group.bench_function(format!("{name}/plain"), |bencher| bencher.iter(|| plain(&open(), &blocks)));
        group.bench_function(format!("{name}/io_uring"), |bencher| bencher.iter(|| uring(&open(), &blocks)));
    }
    let _ = std::fs::remove_file(&path);
    group.bench_function("page_cache/tokio_uring", |bencher| bencher.iter(|| tokio(&path)));
    let on_disk = || {
        let _ = std::fs::remove_file(&path);
        let file = open(&path, OFlags::empty());
        plain(&file, &blocks);
        file.sync_data().expect("on the disk");
    };
    group.bench_function("page_cache/plain_and_sync", |bencher| bencher.iter(on_disk));
    group.finish();
}

fn open(path: &Path, flags: OFlags) -> File {
    let mut options = File::options();
    let file = options.create(true).truncate(true).write(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = file.expect("the file is made");
    if flags.contains(OFlags::DIRECT) {
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE as u64).expect("room is made");
    }
    file
}

fn plain(file: &File, blocks: &[Arc<Block>]) {
    for (number, offset) in (0..SIZE).step_by(BLOCK).enumerate() {
        file.write_all_at(blocks[number % DEPTH].bytes(), offset as u64).expect("written");
    }
}

fn uring(file: &File, blocks: &[Arc<Block>]) {
    let mut writer = RingWriter::new(file, blocks).expect("a ring is made");
    let mut free = blocks.to_vec();
    let done = |writer: &mut RingWriter| {
        let written = writer.next(true).expect("waited").expect("one is under way");
        assert_eq!(written.result.expect("written"), BLOCK);
        written.block
    };
    for offset in (0..SIZE).step_by(BLOCK) {
        let block = free.pop().unwrap_or_else(|| done(&mut writer));
        writer.begin(&block, BLOCK, offset as u64).expect("begun");
    }
    while writer.under_way() > 0 {
        done(&mut writer);
    }
}

/// The same by the crate's own executor and buffers, which have no alignment and so go to the page cache.
fn tokio(path: &Path) {
    tokio_uring::start(async {
        let registry = FixedBufRegistry::new((0..DEPTH).map(|_| vec![0x5a; BLOCK]));
        registry.register().expect("buffers are registered");
        let file = std::rc::Rc::new(tokio_uring::fs::File::create(path).await.expect("the file is made"));
        let writers = (0..DEPTH).map(|slot| {
            let (file, registry) = (file.clone(), registry.clone());
            tokio_uring::spawn(async move {
                let mut buffer = registry.check_out(slot).expect("each slot has one writer");
                for offset in (slot * BLOCK..SIZE).step_by(DEPTH * BLOCK) {
                    let (result, back) = file.write_fixed_at(buffer, offset as u64).await;
                    assert_eq!(result.expect("written"), BLOCK);
                    buffer = back;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("the writer ends");
        }
    });
}

criterion_group!(benches, blob_write);
criterion_main!(benches);
