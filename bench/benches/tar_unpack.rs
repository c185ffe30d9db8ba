//! Unpacking a layer into a directory: many small files, and one large one. Needs root, for owners.

use std::fs::File;
use std::os::fd::AsFd;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dockerd_bench::image;
use dockerd_image::layer::{UnpackOptions, unpack};

const FILES: usize = 2000;
const LARGE: usize = 32 << 20;

fn tar_unpack(criterion: &mut Criterion) {
    let small = image::many_files_layer(FILES).expect("a layer is made");
    let large = one_file();
    let mut group = criterion.benchmark_group("tar_unpack");
    group.sample_size(10);
    for (name, layer) in [("2000_files", small), ("one_file_of_32_MiB", large)] {
        group.throughput(Throughput::Bytes(layer.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || tempfile::tempdir().expect("a directory is made"),
                |dir| {
                    let root = File::open(dir.path()).expect("it opens");
                    let options = UnpackOptions { whiteouts: true, ..UnpackOptions::default() };
                    unpack(layer.as_slice(), root.as_fd(), options).expect("it is unpacked");
                    // Removing it is not measured.
                    dir
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn one_file() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(LARGE as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, "large", vec![7; LARGE].as_slice()).expect("written to memory");
    tar.into_inner().expect("written to memory")
}

criterion_group!(benches, tar_unpack);
criterion_main!(benches);
