//! Which decoder a layer's bytes should go through: the same gzip layers by each of them, and zstd and SHA-256 beside them.
//! Throughput is of plain bytes. `cargo bench --features isal,rapidgzip` and, because it changes what flate2 decodes with,
//! apart from that `cargo bench --features gzippy`.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Read;
use std::path::Path;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use dockerd_bench::input::{Image, Inputs};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

/// What streaming decoders hand out at a time.
const PIECE: usize = 256 << 10;
/// Back end that cargo's features give flate2.
const FLATE2: &str = if cfg!(feature = "gzippy") {
    "flate2 zlib-ng"
} else if cfg!(feature = "runtime_detection") {
    "flate2 zlib-rs"
} else {
    "flate2 zlib-rs without runtime_detection"
};

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn decoders(criterion: &mut Criterion) {
    let inputs = Inputs::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/inputs").as_path()).expect("a directory");
    let images = [("packages", inputs.packages(10_000)), ("bulk", inputs.bulk(&[50]))];
    for (name, image) in images {
        let image = image.expect("the image is made");
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).throughput(Throughput::Bytes(image.plain_size()));
        of_layer(&mut group, &image);
        group.finish();
    }
}

fn of_layer(group: &mut Group<'_>, image: &Image) {
    let layer = &image.layers[0];
    let gzip = fs::read(&layer.path).expect("it was generated");
    let size = layer.plain_size as usize;
    let mut plain = Vec::with_capacity(size);
    MultiGzDecoder::new(gzip.as_slice()).read_to_end(&mut plain).expect("it was encoded");
    let zstd = zstd::encode_all(plain.as_slice(), 3).expect("encoded");

    group.bench_function(FLATE2, |b| b.iter(|| assert_eq!(drain(MultiGzDecoder::new(gzip.as_slice())), size)));
    group.bench_function("libdeflate, whole buffer", |b| {
        let mut out = vec![0; size];
        b.iter(|| {
            let written = libdeflater::Decompressor::new().gzip_decompress(&gzip, &mut out);
            assert_eq!(written.expect("it was encoded"), size);
        });
    });
    isal(group, &gzip, size);
    gzippy(group, &gzip, size);
    rapidgzip(group, &layer.path, size);
    group.bench_function("zstd", |b| {
        b.iter(|| assert_eq!(drain(zstd::Decoder::new(zstd.as_slice()).expect("a decoder")), size));
    });
    group.bench_function("sha256", |b| b.iter(|| Sha256::digest(&plain)));
    group.bench_function("crc32", |b| {
        b.iter(|| {
            let mut crc = flate2::Crc::new();
            crc.update(&plain);
            crc.sum()
        });
    });
}

#[cfg(feature = "isal")]
fn isal(group: &mut Group<'_>, gzip: &[u8], size: usize) {
    group.bench_function("ISA-L", |b| b.iter(|| assert_eq!(drain(isal::read::GzipDecoder::new(gzip)), size)));
}

#[cfg(not(feature = "isal"))]
fn isal(_: &mut Group<'_>, _: &[u8], _: usize) {}

#[cfg(feature = "gzippy")]
fn gzippy(group: &mut Group<'_>, gzip: &[u8], size: usize) {
    for threads in [1, 2] {
        group.bench_function(format!("gzippy, {threads} threads"), |b| {
            b.iter(|| {
                let written = gzippy::decompress_to_writer_with_threads(gzip, &mut std::io::sink(), threads);
                assert_eq!(written.expect("it was encoded"), size as u64);
            });
        });
    }
}

#[cfg(not(feature = "gzippy"))]
fn gzippy(_: &mut Group<'_>, _: &[u8], _: usize) {
}

#[cfg(feature = "rapidgzip")]
fn rapidgzip(group: &mut Group<'_>, path: &Path, size: usize) {
    for threads in [1, 2] {
        group.bench_function(format!("rapidgzip, {threads} threads"), |b| {
            b.iter(|| {
                let reader = rapidgzip::ReaderBuilder::new().parallelism(threads).open(path).expect("opened");
                assert_eq!(drain(reader), size);
            });
        });
    }
}

#[cfg(not(feature = "rapidgzip"))]
fn rapidgzip(_: &mut Group<'_>, _: &Path, _: usize) {}

fn drain(mut reader: impl Read) -> usize {
    let (mut buffer, mut total) = (vec![0; PIECE], 0);
    loop {
        match reader.read(&mut buffer).expect("it was encoded") {
            0 => return total,
            length => total += length,
        }
    }
}

criterion_group!(benches, decoders);
criterion_main!(benches);
