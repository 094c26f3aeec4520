//! The wire format, and its conversions to and from the domain.
//!
//! Generated code is in [`v1`]. Whatever arrives from a peer becomes a domain value in [`convert`] or is
//! refused there, with the field's name; nothing behind it has to doubt its input again.

pub mod convert;

/// The version of the protocol that this program speaks. It grows when the meaning of a message changes: 2 since workers
/// say what they can do.
pub const PROTOCOL: u32 = 2;

/// What the services look like, for reflection: an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("qslm");

/// Messages and services of `qslm.v1`; see `qslm/v1/qslm.proto`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("qslm.v1");
}
