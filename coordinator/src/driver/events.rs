//! Event log: the last events, for people who look on, and those that are not handed on to be kept yet.

use std::collections::VecDeque;

use crate::store::{Event, KEPT_EVENTS};

/// The last events, oldest first.
#[derive(Debug, Default)]
pub(super) struct Events {
    last: VecDeque<Event>,
    /// Number of the last one.
    count: u64,
    /// Number of those at the end that nobody has taken to keep them.
    fresh: usize,
}

impl Events {
    /// Log that goes on from the events on record.
    pub(super) fn after(known: Vec<Event>) -> Self {
        let count = known.last().map_or(0, |last| last.number);
        Self { last: known.into(), count, fresh: 0 }
    }

    /// Remembers an event.
    pub(super) fn note(&mut self, unix_ms: u64, experiment: &str, text: impl Into<String>) {
        self.count += 1;
        while self.last.len() >= KEPT_EVENTS {
            self.last.pop_front();
        }
        let (experiment, text) = (experiment.to_owned(), text.into());
        self.last.push_back(Event { number: self.count, unix_ms, experiment, text });
        self.fresh = (self.fresh + 1).min(self.last.len());
    }

    /// Events that are remembered, oldest first.
    pub(super) fn list(&self) -> Vec<Event> {
        self.last.iter().cloned().collect()
    }

    /// Events that came since this was called last, as far as they are remembered.
    pub(super) fn take_fresh(&mut self) -> Vec<Event> {
        let fresh = std::mem::take(&mut self.fresh);
        self.last.iter().skip(self.last.len() - fresh).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_each_is_handed_on_once() {
        let mut events = Events::default();
        (0..500u64).for_each(|at| events.note(at, "x", format!("event {at}")));
        let list = events.list();
        assert_eq!((list.len(), list[0].number, list[199].number), (200, 301, 500));
        assert_eq!(events.take_fresh(), list);
        assert_eq!(events.take_fresh(), []);
        let mut events = Events::after(list);
        events.note(501, "x", "later");
        let fresh: Vec<_> = events.take_fresh().iter().map(|event| event.number).collect();
        assert_eq!((fresh, events.list().len()), (vec![501], 200));
    }
}
