//! The contract of `proto/forebay/v1`, generated. Used by `grpc` and `client` only.
#![expect(clippy::clone_on_ref_ptr, reason = "tonic generates it")]

tonic::include_proto!("forebay.v1");

/// The descriptors of the contract, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/forebay.v1.binpb"));
