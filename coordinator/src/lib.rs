//! The coordinator: splits a search into shards, leases them to workers, and keeps every result.
//!
//! Inwards from the network: [`rpc`] turns calls into requests to the [`driver`], the single owner of all
//! state; it drives a search (`qslm-search`) per experiment and one [`ledger`], both pure, and writes to the [`store`]
//! before it answers. [`server`] puts them together.

mod crash;
pub mod driver;
pub mod ledger;
pub mod metrics;
pub mod program;
pub mod replay;
pub mod rpc;
pub mod server;
pub mod settings;
pub mod store;
pub mod until_done;
pub mod web;

pub use crash::{CrashPlan, CrashPoint};
pub use driver::Options;
pub use rpc::Quotas;
pub use server::{AccessPolicy, Coordinator, Ports};
