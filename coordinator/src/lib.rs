//! The coordinator: splits a search into shards, leases them to workers, and keeps every result.

pub mod search;
