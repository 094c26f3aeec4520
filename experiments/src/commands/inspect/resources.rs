//! Memory and threads that a worker needs for a network.

use qslm_common::network::Network;
use qslm_report::words::grouped;
use qslm_worker::Resources;
use serde::Serialize;

use crate::output::{align_right, plain_table};

/// Slots of a worker that are told.
const SLOTS: [u32; 4] = [1, 2, 4, 8];

/// Resources as printed; its keys are part of the interface.
#[derive(Serialize)]
pub(super) struct WorkerResources {
    /// Tokens per window that are counted on.
    window: u32,
    threads_per_slot: u32,
    /// Bytes that a worker needs once.
    shared_bytes: u64,
    /// Bytes that each slot needs beside that.
    slot_bytes: u64,
    /// Memory to give a worker, by its slots, with room for what candidates share.
    workers: Vec<WorkerOf>,
}

/// A worker of so many slots.
#[derive(Serialize)]
struct WorkerOf {
    slots: u32,
    threads: u32,
    memory_bytes: u64,
    /// Bytes that `qslm eval` takes with so many threads.
    evaluation_bytes: u64,
}

impl WorkerResources {
    /// Resources for windows of so many tokens.
    pub(super) fn of(network: &Network, window: u32) -> Self {
        let resources = Resources::of(network, window);
        let threads = Resources::THREADS_PER_SLOT;
        let worker = |slots| WorkerOf {
            slots,
            threads: slots * threads,
            memory_bytes: resources.of_worker(slots),
            evaluation_bytes: resources.of_evaluation(slots * threads),
        };
        Self {
            window,
            threads_per_slot: threads,
            shared_bytes: resources.shared(),
            slot_bytes: resources.per_slot(),
            workers: SLOTS.map(worker).into(),
        }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut table = plain_table();
        table.set_header(["slots", "threads", "bytes of a worker", "bytes of qslm eval"]);
        align_right(&mut table, |_| true);
        for WorkerOf { slots, threads, memory_bytes, evaluation_bytes } in &self.workers {
            let [worker, evaluation] = [*memory_bytes, *evaluation_bytes].map(grouped);
            table.add_row([slots.to_string(), threads.to_string(), worker, evaluation]);
        }
        let (shared, slot) = (grouped(self.shared_bytes), grouped(self.slot_bytes));
        format!(
            "\nwindows of {} tokens: {shared} bytes once, {slot} bytes and a thread per slot, and what candidates share\n\
             {table}\n",
            self.window
        )
    }
}
