//! What crosses a wire or a disk boundary.

/// Generated gRPC messages, clients and servers.
#[cfg(feature = "grpc")]
mod aqueduct {
    pub mod v1 {
        #![allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
        tonic::include_proto!("aqueduct.v1");
        /// The compiled descriptors of every service, for reflection.
        pub const DESCRIPTORS: &[u8] =
            include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    }
}

/// `google.rpc` messages.
#[cfg(feature = "grpc")]
pub mod google {
    /// The standard error model.
    pub mod rpc {
        #![allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
        tonic::include_proto!("google.rpc");
    }
}

#[cfg(feature = "grpc")]
pub use aqueduct::v1;
