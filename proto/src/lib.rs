//! What crosses a wire or a disk boundary.
//!
//! Records travel and rest as Kafka record batches of version 2, byte for byte, from the producer
//! to the disk to the reader. This crate encodes, checks and walks them, and holds the gRPC
//! services around them. It promises that no input makes it panic or allocate beyond a limit the
//! caller gave. It must never know where bytes come from: no files, no sockets, no clocks.
//!
//! Without the feature `grpc` only the formats remain: [`crc`], [`compression`], [`record`],
//! [`batch`], [`attributes`], [`partitioner`] and [`names`].

pub mod batch;
pub mod record;

pub mod compression;
pub mod crc;

#[cfg(feature = "grpc")]
pub mod codec;

pub mod attributes;
pub mod names;
pub mod partitioner;

/// Generated gRPC messages, clients and servers.
#[cfg(feature = "grpc")]
mod aqueduct {
    pub mod v1 {
        #![allow(
            clippy::all,
            clippy::allow_attributes_without_reason,
            clippy::too_many_lines,
            unreachable_pub,
            missing_docs,
            reason = "generated code"
        )]
        tonic::include_proto!("aqueduct.v1");
        /// The compiled descriptors of every service, for reflection.
        pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    }
}

/// `google.rpc` messages.
#[cfg(feature = "grpc")]
pub mod google {
    /// The standard error model.
    pub mod rpc {
        #![allow(
            clippy::all,
            clippy::allow_attributes_without_reason,
            clippy::too_many_lines,
            unreachable_pub,
            missing_docs,
            reason = "generated code"
        )]
        tonic::include_proto!("google.rpc");
    }
}

#[cfg(feature = "grpc")]
pub use aqueduct::v1;
