//! Journal: what happens, for people who look on, for metrics and for traces. Nothing is decided by it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Options;
use super::events::Events;
use super::tally::Tally;
use super::traced::Traced;
use crate::ledger::{Closed, Grant, LeaseId, Moment};
use crate::store::Event;

/// Journal: the last events, and counts and traces since the coordinator started.
pub(super) struct Journal {
    /// Milliseconds since 1970 at the time 0, to tell people when something was.
    born_unix_ms: u64,
    /// The time of the request or turn under way.
    now: Moment,
    events: Events,
    traced: Option<Traced>,
    pub(super) tally: Tally,
}

impl Journal {
    /// Journal that goes on from the events on record.
    pub(super) fn new(options: &Options, events: Vec<Event>) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            born_unix_ms: since_1970.map_or(0, |since| since.as_millis() as u64),
            now: Moment::START,
            events: Events::after(events),
            traced: options.traces.clone().map(Traced::new),
            tally: Tally::default(),
        }
    }

    /// Sets the time of all that follows.
    pub(super) fn set_time(&mut self, now: Moment) {
        self.now = now;
    }

    /// The time of the request or turn under way.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    /// Time of the request or turn under way, in milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        self.born_unix_ms + self.now.0
    }

    /// Logs and remembers an event, about an experiment or about none.
    pub(super) fn note(&mut self, experiment: &str, text: impl Into<String>) {
        let text = text.into();
        tracing::info!(experiment, "{text}");
        self.remember(experiment, text);
    }

    /// Remembers an event of which a line is logged already.
    pub(super) fn remember(&mut self, experiment: &str, text: impl Into<String>) {
        self.events.note(self.unix_ms(), experiment, text);
    }

    /// The last events, oldest first.
    pub(super) fn events(&self) -> Vec<Event> {
        self.events.list()
    }

    /// Events that came since this was called last.
    pub(super) fn take_fresh_events(&mut self) -> Vec<Event> {
        self.events.take_fresh()
    }

    /// Notes that a worker got a lease.
    pub(super) fn granted(&mut self, grant: &Grant, worker: &str) {
        self.tally.granted += 1;
        let unix_ms = self.unix_ms();
        if let Some(traced) = &mut self.traced {
            traced.granted(grant, worker, unix_ms);
        }
    }

    /// Notes the end of a lease: with a result, or else for the reason given.
    pub(super) fn ended(&mut self, lease: LeaseId, error: Option<&str>) {
        let unix_ms = self.unix_ms();
        if let Some(traced) = &mut self.traced {
            traced.ended(lease, error, unix_ms);
        }
    }

    /// Notes that a trial of these experiments is closed.
    pub(super) fn closed<'a>(&mut self, closed: &Closed, experiments: impl Iterator<Item = &'a str>) {
        let unix_ms = self.unix_ms();
        if let Some(traced) = &mut self.traced {
            let ids: Vec<&str> = experiments.collect();
            traced.closed(closed, ids.join(" "), unix_ms);
        }
    }
}
