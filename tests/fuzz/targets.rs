//! What is fuzzed: one type per decoder.

use aqueduct_proto::{
    batch::{Batch, BatchHeader, HEADER_LEN, Limits},
    compression::Compression,
    crc::crc32c,
    record::{BatchBuilder, Header},
    v1,
};
use bytes::Bytes;
use prost::Message as _;

use crate::store::StoreFile;

/// Something that takes bytes from strangers.
pub(crate) trait Target {
    fn name(&self) -> &'static str;
    /// Good inputs to mutate.
    fn samples(&self) -> Vec<Vec<u8>>;
    /// Must return, whatever the bytes.
    fn run(&self, input: &[u8]);
}

/// Every target.
pub(crate) fn all() -> Vec<Box<dyn Target>> {
    vec![
        Box::new(BatchBytes),
        Box::new(CompressedBytes),
        Box::new(GrpcMessage),
        Box::new(StoreFile::new("segment", &[".seg"])),
        Box::new(StoreFile::new("journal", &[".jrn"])),
        Box::new(StoreFile::new(
            "small",
            &["state", ".idx", ".ckpt", "node", "clean"],
        )),
    ]
}

const ALL: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

const LIMITS: Limits = Limits {
    max_batch_bytes: 1 << 20,
    max_message_bytes: 64 << 10,
    max_decompressed_bytes: 1 << 20,
    max_records: 100_000,
    max_record_headers: 1_000,
    max_headers: 1_000_000,
};

/// Record batches as a client may send them, with a checksum that was made right, so that
/// the decoder behind the checksum is reached too.
struct BatchBytes;

impl Target for BatchBytes {
    fn name(&self) -> &'static str {
        "batch"
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let sample = |compression| {
            let mut builder = BatchBuilder::new(compression);
            builder.set_producer(7, 1, 100);
            for n in 0..20_u8 {
                let value = vec![n; usize::from(n) * 9];
                let headers = [Header::new("a", vec![n]), Header::new("a", vec![])];
                builder.push(1_000 + i64::from(n), Some(&[n]), Some(&value), &headers);
                builder.push(1_000, None, None, &[]);
            }
            builder.finish().unwrap().to_vec()
        };
        ALL.map(sample).to_vec()
    }

    fn run(&self, input: &[u8]) {
        check_batch(input);
        if input.len() > HEADER_LEN {
            let mut mended = input.to_vec();
            let length = i32::try_from(mended.len() - 12).unwrap();
            mended[8..12].copy_from_slice(&length.to_be_bytes());
            mended[16] = 2;
            let crc = crc32c(&mended[21..]);
            mended[17..21].copy_from_slice(&crc.to_be_bytes());
            check_batch(&mended);
        }
    }
}

fn check_batch(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let _ = BatchHeader::read(input);
    if let Ok(batch) = Batch::check(bytes.clone())
        && let Ok(records) = batch.records(LIMITS.max_decompressed_bytes)
    {
        for record in records {
            if record.is_err() {
                break;
            }
        }
    }
    if let Ok(batch) = Batch::validate(bytes, &LIMITS) {
        // What was accepted decodes wholly and is what its header says.
        let records = batch.records(LIMITS.max_decompressed_bytes).unwrap();
        let records: Vec<_> = records.map(Result::unwrap).collect();
        assert_eq!(records.len(), batch.count() as usize);
        let base = u64::try_from(batch.header().base_offset);
        if let Ok(base) = base {
            let offsets = records.iter().map(|record| record.offset);
            assert!(offsets.eq((0..records.len() as u64).map(|n| base.wrapping_add(n))));
        }
    }
}

/// Compressed bytes of all codecs: the first byte chooses.
struct CompressedBytes;

impl Target for CompressedBytes {
    fn name(&self) -> &'static str {
        "compression"
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let text = b"to be or not to be, that is the question ".repeat(30);
        let sample = |compression: Compression| {
            let mut bytes = vec![compression.code()];
            bytes.extend(compression.compress(&text).unwrap());
            bytes
        };
        ALL.map(sample).to_vec()
    }

    fn run(&self, input: &[u8]) {
        let Some((first, rest)) = input.split_first() else {
            return;
        };
        let Some(compression) = Compression::from_code(first % 5) else {
            return;
        };
        if compression == Compression::None {
            return;
        }
        if let Ok(output) = compression.decompress(rest, 100_000) {
            assert!(output.len() <= 100_000, "{compression} went over its limit");
        }
    }
}

/// Messages of the API.
struct GrpcMessage;

impl Target for GrpcMessage {
    fn name(&self) -> &'static str {
        "grpc"
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let message = v1::Message {
            key: Some(Bytes::from_static(b"key")),
            value: Some(Bytes::from_static(b"value")),
            headers: vec![v1::Header {
                name: "h".to_owned(),
                value: Bytes::new(),
            }],
            timestamp_ms: Some(1),
            dedup_id: "id".to_owned(),
            partition: Some(3),
            delay: Some(Box::new(prost_types::Duration {
                seconds: 5,
                nanos: 1,
            })),
            deliver_at: Some(Box::new(prost_types::Timestamp {
                seconds: 5,
                nanos: 1,
            })),
            ttl: Some(Box::default()),
            priority: Some(7),
        };
        let publish = v1::PublishRequest {
            topic: "orders".to_owned(),
            messages: vec![message; 3],
            expected_offset: Some(9),
        };
        let topic = v1::Topic {
            name: "orders".to_owned(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            config: Some(v1::TopicConfig::default()),
            ..v1::Topic::default()
        };
        vec![publish.encode_to_vec(), topic.encode_to_vec()]
    }

    fn run(&self, input: &[u8]) {
        let _ = v1::PublishRequest::decode(input);
        let _ = v1::PublishStreamRequest::decode(input);
        let _ = v1::CreateTopicRequest::decode(input);
        let _ = v1::UpdateTopicRequest::decode(input);
        let _ = v1::ReadRequest::decode(input);
        let _ = v1::ReadStreamRequest::decode(input);
        let _ = v1::Topic::decode(input);
        let _ = v1::ReadResponse::decode(input);
    }
}

/// Fails on purpose.
pub(crate) struct Canary;

impl Target for Canary {
    fn name(&self) -> &'static str {
        "canary"
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        vec![vec![0; 16]]
    }

    fn run(&self, input: &[u8]) {
        assert!(
            input.first() != Some(&0xff),
            "this is what a failure looks like"
        );
    }
}
