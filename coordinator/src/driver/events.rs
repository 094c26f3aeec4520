//! Event log: the last events, for people who look on.

use std::collections::VecDeque;

/// Events that are remembered.
const KEPT: usize = 200;

/// Event: something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Number: grows by one with every event since the coordinator started.
    pub number: u64,
    /// Time in milliseconds since 1970 in UTC.
    pub unix_ms: u64,
    /// The experiment that it is about, if it is about one.
    pub experiment: String,
    /// Text of the event, in a few words.
    pub text: String,
}

/// The last events, oldest first.
#[derive(Debug, Default)]
pub(super) struct Events {
    last: VecDeque<Event>,
    count: u64,
}

impl Events {
    /// Remembers an event.
    pub(super) fn note(&mut self, unix_ms: u64, experiment: &str, text: impl Into<String>) {
        self.count += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        let (experiment, text) = (experiment.to_owned(), text.into());
        self.last.push_back(Event { number: self.count, unix_ms, experiment, text });
    }

    /// Events that are remembered, oldest first.
    pub(super) fn list(&self) -> Vec<Event> {
        self.last.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept() {
        let mut events = Events::default();
        (0..500u64).for_each(|at| events.note(at, "x", format!("event {at}")));
        let list = events.list();
        assert_eq!((list.len(), list[0].number, list[199].number), (200, 301, 500));
    }
}
