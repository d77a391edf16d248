//! Codecs: round trips, foreign framings, bombs and garbage.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use proptest::prelude::*;

const PACKERS: [Compression; 4] = [
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

#[test]
fn names_and_codes() {
    for codec in Compression::ALL {
        assert_eq!(codec.to_string().parse::<Compression>().unwrap(), codec);
        assert_eq!(Compression::from_code(codec.code()), Some(codec));
    }
    assert_eq!(Compression::from_code(5), None);
    assert!("ZSTD".parse::<Compression>().is_err());
    assert_eq!(Compression::default(), Compression::None);
}

#[test]
fn limits_are_exact() {
    let data = b"aqueduct ".repeat(50_000);
    for codec in Compression::ALL {
        let packed = codec.compress(&data).unwrap();
        assert_eq!(
            codec.decompress(&packed, data.len()).unwrap(),
            data,
            "{codec}"
        );
        let limit = data.len() - 1;
        let error = codec.decompress(&packed, limit).unwrap_err();
        assert!(
            matches!(error, CompressionError::TooLarge { limit: l } if l == limit),
            "{error}"
        );
    }
}

/// 64 MiB of zeros in a few kilobytes, refused after the limit and not after 64 MiB.
#[test]
fn bombs_are_refused() {
    let zeros = vec![0; 64 << 20];
    for codec in PACKERS {
        let bomb = codec.compress(&zeros).unwrap();
        let error = codec.decompress(&bomb, 100_000).unwrap_err();
        assert!(
            matches!(error, CompressionError::TooLarge { limit: 100_000 }),
            "{codec}: {error}"
        );
    }
}

#[test]
fn snappy_reads_raw_blocks_and_the_framing() {
    let data = b"one two three one two three".repeat(3000);
    let raw = snap::raw::Encoder::new().compress_vec(&data).unwrap();
    assert_eq!(Compression::Snappy.decompress(&raw, 1 << 20).unwrap(), data);
    let framed = Compression::Snappy.compress(&data).unwrap();
    assert_eq!(framed[..16], SNAPPY_JAVA_HEADER);
    assert_eq!(
        Compression::Snappy.decompress(&framed, 1 << 20).unwrap(),
        data
    );
}

#[test]
fn snappy_lengths_are_not_believed() {
    // A raw block that declares 256 MiB and holds nothing.
    let liar = [0x80, 0x80, 0x80, 0x80, 0x01, 0x00];
    let error = Compression::Snappy
        .decompress(&liar, usize::MAX)
        .unwrap_err();
    assert!(
        matches!(error, CompressionError::Malformed { .. }),
        "{error}"
    );
    for tail in [&[0][..], &[0, 0, 0], &[0xff; 4], &[0, 0, 0, 9, 1]] {
        let framed = [&SNAPPY_JAVA_HEADER[..], tail].concat();
        let error = Compression::Snappy
            .decompress(&framed, 1 << 20)
            .unwrap_err();
        assert!(
            matches!(error, CompressionError::Malformed { .. }),
            "{error}"
        );
    }
}

#[test]
fn several_members_are_one_stream() {
    for codec in [Compression::Gzip, Compression::Zstd] {
        let two = [
            codec.compress(b"one ").unwrap(),
            codec.compress(b"two").unwrap(),
        ]
        .concat();
        assert_eq!(codec.decompress(&two, 100).unwrap(), b"one two", "{codec}");
    }
}

#[test]
fn lz4_frames_are_whole_and_independent() {
    use lz4_flex::frame::{BlockMode, FrameEncoder, FrameInfo};
    let frame = |info: FrameInfo| {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&[5; 300_000]).unwrap();
        encoder.finish().unwrap()
    };
    let linked = frame(FrameInfo::new().block_mode(BlockMode::Linked));
    let checked = frame(
        FrameInfo::new()
            .block_checksums(true)
            .content_checksum(true),
    );
    let plain = frame(FrameInfo::new().content_size(Some(300_000)));
    let unlz4 = |data: &[u8]| Compression::Lz4.decompress(data, 1 << 20);
    assert_eq!(unlz4(&checked).unwrap(), [5; 300_000]);
    assert_eq!(unlz4(&plain).unwrap(), [5; 300_000]);
    assert!(unlz4(&linked).is_err());
    assert!(unlz4(&[]).is_err());
    assert!(unlz4(&[&plain[..], &plain].concat()).is_err());
    for frame in [plain, checked] {
        for length in 0..frame.len() {
            assert!(unlz4(&frame[..length]).is_err(), "cut at {length}");
        }
    }
}

#[test]
fn a_zstd_window_beyond_the_limit_is_refused() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(30).unwrap();
    encoder.write_all(&[7; 1000]).unwrap();
    let frame = encoder.finish().unwrap();
    let error = Compression::Zstd.decompress(&frame, 1 << 20).unwrap_err();
    assert!(
        matches!(error, CompressionError::Malformed { .. }),
        "{error}"
    );
}

proptest! {
    #[test]
    fn round_trip(data in prop::collection::vec(any::<u8>(), 0..70_000), repeat in 1_usize..4) {
        let data = data.repeat(repeat);
        for codec in Compression::ALL {
            let packed = codec.compress(&data).unwrap();
            prop_assert_eq!(codec.decompress(&packed, data.len()).unwrap(), data.clone());
        }
    }

    #[test]
    fn garbage_never_panics(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        start in 0_usize..40,
        flip in any::<prop::sample::Index>(),
    ) {
        for codec in PACKERS {
            let _ = codec.decompress(&noise, 1 << 16);
            let mut packed = codec.compress(&b"some text to be broken ".repeat(20)).unwrap();
            let place = flip.index(packed.len());
            packed[place] ^= 0x55;
            let _ = codec.decompress(&packed, 1 << 16);
            packed.truncate(start);
            packed.extend_from_slice(&noise);
            let _ = codec.decompress(&packed, 1 << 16);
        }
    }
}
