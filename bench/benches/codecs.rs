//! What a layer's bytes go through on their way to the disk: gunzip, zstd, SHA-256. Throughput is of plain bytes.

use std::io::{Read, Write};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dockerd_bench::image;
use sha2::{Digest, Sha256};

fn codecs(criterion: &mut Criterion) {
    let plain = image::many_files_layer(2000).expect("a layer is made");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&plain).expect("written to memory");
    let gzip = gzip.finish().expect("written to memory");
    let zstd = zstd::encode_all(plain.as_slice(), 3).expect("written to memory");
    let mut group = criterion.benchmark_group("codecs");
    group.sample_size(20).throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("gunzip", |bencher| {
        bencher.iter(|| assert_eq!(drain(flate2::read::MultiGzDecoder::new(gzip.as_slice()), 64 << 10), plain.len()));
    });
    group.bench_function("unzstd", |bencher| {
        let decoder = || zstd::Decoder::new(zstd.as_slice()).expect("a decoder is made");
        bencher.iter(|| assert_eq!(drain(decoder(), 128 << 10), plain.len()));
    });
    group.bench_function("sha256", |bencher| bencher.iter(|| Sha256::digest(&plain)));
    group.finish();
}

fn drain(mut reader: impl Read, buffer: usize) -> usize {
    let mut buffer = vec![0; buffer];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer).expect("it was encoded above") {
            0 => return total,
            length => total += length,
        }
    }
}

criterion_group!(benches, codecs);
criterion_main!(benches);
