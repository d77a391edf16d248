//! The codec of the services: protobuf, with the parts of a request counted before any is built.
//!
//! An empty message takes two bytes on the wire and over a hundred in memory, so a limit in bytes
//! does not bound what a request costs. Requests whose parts repeat are walked over first, by the
//! rules of the decoder itself, and refused above limits that lie well beyond what the broker
//! accepts. What is small cannot cost much and is not walked. Never knows what the parts mean.

use std::{any::TypeId, marker::PhantomData};

use bytes::Buf as _;
use prost::{
    DecodeError, Message,
    encoding::{WireType, decode_key, decode_varint},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::v1::{PublishRequest, PublishStreamRequest};

/// Messages of a request that are decoded at most.
pub const MAX_DECODED_MESSAGES: usize = 400_000;
/// Their headers in all.
pub const MAX_DECODED_HEADERS: usize = 1_000_000;
/// Requests up to this many bytes are not counted.
const SMALL: usize = 64 << 10;
/// Field of the headers in `Message`.
const HEADERS: u32 = 3;

/// Protobuf as [`tonic_prost::ProstCodec`], with bounds on what a request may hold.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::default())
    }
}

/// Counts, then decodes.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if source.remaining() > SMALL
            && let Some(path) = path_to_messages::<U>()
        {
            // The whole request lies in one piece.
            count(source.chunk(), path, &mut Counted::default())?;
        }
        self.0.decode(source)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// The fields that lead to the messages of a request, if it has any.
fn path_to_messages<U: 'static>() -> Option<&'static [u32]> {
    let request = TypeId::of::<U>();
    if request == TypeId::of::<PublishStreamRequest>() {
        Some(&[2, 1])
    } else if request == TypeId::of::<PublishRequest>() {
        Some(&[2])
    } else {
        None
    }
}

#[derive(Default)]
struct Counted {
    messages: usize,
    headers: usize,
}

/// Why a request is not decoded.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Malformed,
    TooMany { what: &'static str, limit: usize },
}

impl From<DecodeError> for Refused {
    fn from(_: DecodeError) -> Refused {
        Refused::Malformed
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Status {
        Status::invalid_argument(match refused {
            Refused::Malformed => "the request is not a valid message".to_owned(),
            Refused::TooMany { what, limit } => {
                format!("{what}: more than {limit}, which is the limit of one request")
            }
        })
    }
}

fn count(request: &[u8], path: &[u32], counted: &mut Counted) -> Result<(), Refused> {
    let Some((next, rest)) = path.split_first() else {
        return count_headers(request, counted);
    };
    each_field(request, |field, inner| {
        if field != *next {
            return Ok(());
        }
        if rest.is_empty() {
            add(&mut counted.messages, "messages", MAX_DECODED_MESSAGES)?;
        }
        count(inner, rest, counted)
    })
}

fn count_headers(message: &[u8], counted: &mut Counted) -> Result<(), Refused> {
    each_field(message, |field, _| match field {
        HEADERS => add(&mut counted.headers, "headers", MAX_DECODED_HEADERS),
        _ => Ok(()),
    })
}

fn add(count: &mut usize, what: &'static str, limit: usize) -> Result<(), Refused> {
    *count += 1;
    if *count > limit {
        return Err(Refused::TooMany { what, limit });
    }
    Ok(())
}

/// Hands over number and content of each field that has a length. Whatever the decoder would not
/// take, and groups, which no message of ours has, are errors: what is not walked is not decoded.
fn each_field(
    mut bytes: &[u8],
    mut each: impl FnMut(u32, &[u8]) -> Result<(), Refused>,
) -> Result<(), Refused> {
    while !bytes.is_empty() {
        let (field, wire) = decode_key(&mut bytes)?;
        let skipped = match wire {
            WireType::Varint => {
                decode_varint(&mut bytes)?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => decode_varint(&mut bytes)?,
            WireType::StartGroup | WireType::EndGroup => {
                return Err(Refused::Malformed);
            }
        };
        let inner = usize::try_from(skipped).ok().and_then(|n| bytes.get(..n));
        let inner = inner.ok_or(Refused::Malformed)?;
        if wire == WireType::LengthDelimited {
            each(field, inner)?;
        }
        bytes.advance(inner.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::v1::{self, publish_stream_request::Kind};

    fn counted(bytes: &[u8], path: &[u32]) -> (Result<(), Refused>, usize, usize) {
        let mut counted = Counted::default();
        let outcome = count(bytes, path, &mut counted);
        (outcome, counted.messages, counted.headers)
    }

    #[test]
    fn messages_and_headers_are_found_where_they_lie() {
        let message = v1::Message {
            key: Some("k".into()),
            timestamp_ms: Some(7),
            headers: vec![v1::Header::default(); 3],
            ..Default::default()
        };
        let messages = vec![message; 5];
        let unary = v1::PublishRequest {
            topic: "orders".into(),
            messages: messages.clone(),
            expected_offset: Some(3),
        };
        let path = path_to_messages::<v1::PublishRequest>().unwrap();
        assert_eq!(counted(&unary.encode_to_vec(), path), (Ok(()), 5, 15));
        let kind = Some(Kind::Messages(v1::PublishMessages {
            messages,
            ..Default::default()
        }));
        let stream = v1::PublishStreamRequest { kind }.encode_to_vec();
        let path = path_to_messages::<v1::PublishStreamRequest>().unwrap();
        assert_eq!(counted(&stream, path), (Ok(()), 5, 15));
        // Parts of the same field are merged by the decoder, so they count together.
        assert_eq!(counted(&stream.repeat(2), path), (Ok(()), 10, 30));
        assert_eq!(path_to_messages::<v1::ReadRequest>(), None);
    }

    #[test]
    fn what_would_fill_the_memory_is_refused_before_it_is_built() {
        let empty_messages = [0x12, 0].repeat(MAX_DECODED_MESSAGES + 1);
        let (what, limit) = ("messages", MAX_DECODED_MESSAGES);
        let refused = Err(Refused::TooMany { what, limit });
        assert_eq!(counted(&empty_messages, &[2]).0, refused);
        let headers = [0x1a, 0].repeat(MAX_DECODED_HEADERS + 1);
        let mut one = vec![0x12];
        prost::encoding::encode_varint(headers.len() as u64, &mut one);
        one.extend(headers);
        let (what, limit) = ("headers", MAX_DECODED_HEADERS);
        assert_eq!(counted(&one, &[2]).0, Err(Refused::TooMany { what, limit }));
    }

    #[test]
    fn what_cannot_be_walked_is_not_decoded() {
        // A group, a length beyond the end, a varint without end, fields of fixed size cut short.
        let bad: [&[u8]; 5] = [
            &[0x1b, 0x1c],
            &[0x12, 5, 0],
            &[0x08, 0x80],
            &[0x09, 0],
            &[0x0d, 0],
        ];
        for bytes in bad {
            assert_eq!(counted(bytes, &[2]).0, Err(Refused::Malformed), "{bytes:?}");
        }
    }
}
