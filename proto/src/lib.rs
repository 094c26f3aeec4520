//! The wire format, and its conversions to and from the domain.
//!
//! One idea: what arrives from a peer becomes a domain value in [`convert`] or is refused there, with the field's name;
//! nothing behind that border has to doubt its input again. Outwards a conversion cannot fail.
//!
//! The way through: `qslm/v1/qslm.proto` has the messages and their meaning, and is what other languages compile; [`v1`] is
//! generated from it. Two services: `Work`, one blindly repeatable call by which a worker reports and leases, and
//! `Experiments`, for people. Fields are added and never change their meaning: where that has to change, [`PROTOCOL`] grows,
//! and worker and coordinator of different numbers refuse each other. Wire messages stop at the edges of the programs; the
//! store has records of its own.

pub mod convert;

/// The version of the protocol that this program speaks. It grows when the meaning of a message changes: 2 since workers
/// say what they can do.
pub const PROTOCOL: u32 = 2;

/// Descriptors of the services, for reflection: an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("qslm");

/// Messages and services of `qslm.v1`; see `qslm/v1/qslm.proto`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("qslm.v1");
}
