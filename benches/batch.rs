//! Record batches: encode, check, validate, walk, compress.
#![allow(
    missing_docs,
    reason = "criterion's macros make an undocumented function"
)]
#![allow(clippy::unwrap_used, reason = "benches")]

use std::hint::black_box;

use aqueduct_benches::{batch, value};
use aqueduct_proto::{
    batch::{Batch, Limits, patched_prefix},
    compression::Compression,
    crc::crc32c,
    record::BatchBuilder,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Records and bytes of each: many small ones, and fewer large ones.
const SHAPES: [(usize, usize); 2] = [(1_000, 100), (256, 1_024)];

const LIMITS: Limits = Limits {
    max_batch_bytes: 17 << 20,
    max_message_bytes: 8 << 20,
    max_decompressed_bytes: 64 << 20,
    max_records: 100_000,
    max_record_headers: 1_000,
    max_headers: 1_000_000,
};

const CODECS: [Compression; 4] = [
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

fn plain(criterion: &mut Criterion) {
    for (count, size) in SHAPES {
        let mut group = criterion.benchmark_group(format!("batch/{count}x{size}"));
        group.throughput(Throughput::Elements(count as u64));
        let value = value(size);
        group.bench_function("encode", |bencher| {
            bencher.iter(|| {
                let mut builder = BatchBuilder::new(Compression::None);
                for n in 0..count {
                    builder.push(n as i64, None, Some(black_box(&value)), &[]);
                }
                builder.finish().unwrap()
            });
        });
        let bytes = batch(count, size, Compression::None);
        group.bench_function("crc", |bencher| {
            bencher.iter(|| crc32c(black_box(&bytes[21..])))
        });
        group.bench_function("check", |bencher| {
            bencher.iter(|| Batch::check(black_box(bytes.clone())).unwrap());
        });
        group.bench_function("validate", |bencher| {
            bencher.iter(|| Batch::validate(black_box(bytes.clone()), &LIMITS).unwrap());
        });
        group.bench_function("patch", |bencher| {
            bencher.iter(|| patched_prefix(black_box(&bytes), 42, 7));
        });
        let checked = Batch::check(bytes).unwrap();
        group.bench_function("walk", |bencher| {
            bencher.iter(|| {
                let records = checked.records(LIMITS.max_decompressed_bytes).unwrap();
                records
                    .map(|record| record.unwrap().value.map_or(0, |v| v.len()))
                    .sum::<usize>()
            });
        });
        group.finish();
    }
}

fn compressed(criterion: &mut Criterion) {
    let text = value(256 << 10);
    let mut group = criterion.benchmark_group("compression/256KiB");
    group.throughput(Throughput::Bytes(text.len() as u64));
    for codec in CODECS {
        group.bench_function(format!("{codec} compress"), |bencher| {
            bencher.iter(|| codec.compress(black_box(&text)).unwrap());
        });
        let packed = codec.compress(&text).unwrap();
        group.bench_function(format!("{codec} decompress"), |bencher| {
            bencher.iter(|| codec.decompress(black_box(&packed), 1 << 20).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, plain, compressed);
criterion_main!(benches);
