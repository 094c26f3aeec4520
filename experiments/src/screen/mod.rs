//! A live view in the terminal: experiments, progress, front, workers, events.
//!
//! [`View`] is what is known, [`draw`](draw::draw) puts it on the screen, and [`run`] keeps both up to date. It only looks:
//! no key changes an experiment.

mod draw;
mod front;
mod style;

use std::io;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{ClusterRequest, ClusterResponse, ExperimentStatus, GetRequest, ListRequest};
use qslm_report::ReportDocument;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, enable_raw_mode};
use ratatui::{DefaultTerminal, Terminal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, describe};
use crate::exit::{Exit, Failure, Outcome};

/// Time between two questions to the coordinator.
const OFTEN: Duration = Duration::from_millis(1000);
/// Time for which the thread that reads keys waits for one before it looks whether it is still needed.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// All that is on the screen.
#[derive(Debug, Default)]
pub struct View {
    /// The coordinator's address.
    pub coordinator: String,
    /// Experiments in the order of submission.
    pub experiments: Vec<ExperimentStatus>,
    /// The id of the experiment that is shown.
    pub selected: String,
    /// Report of it.
    pub report: Option<ReportDocument>,
    /// Workers and events.
    pub cluster: ClusterResponse,
    /// Reason why what is shown is old, if it is.
    pub problem: Option<String>,
}

/// Way in which a person left the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The experiment that was asked for has ended.
    Ended,
    /// By `q` or Esc.
    Quit,
    /// By Ctrl-C or a signal.
    Interrupted,
}

/// Shows the view until it is left, or the experiment `only` has ended.
pub async fn run(client: &mut Client, coordinator: String, only: Option<&str>) -> Outcome<Left> {
    let interrupted = qslm_program::cancelled_by_signals()?;
    let mut view = View { coordinator, ..View::default() };
    // What is asked for has to be there; later on the view outlives the coordinator.
    view.refresh(client, only).await?;
    let mut terminal = open().map_err(|error| Failure::new(Exit::Failure, format!("terminal: {error}")))?;
    let done = CancellationToken::new();
    let mut keys = read_keys(done.clone());
    let left = follow(&mut terminal, &mut view, client, only, &mut keys, &interrupted).await;
    done.cancel();
    restore();
    left
}

/// Takes the terminal, and has a panic give it back first. It is not dropped: one that went away would be told on standard
/// error, which is gone, too, and that is a panic.
fn open() -> io::Result<ManuallyDrop<DefaultTerminal>> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        before(panic);
    }));
    let opened = enable_raw_mode()
        .and_then(|()| execute!(io::stdout(), EnterAlternateScreen))
        .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
    opened.map(ManuallyDrop::new).inspect_err(|_| restore())
}

/// Gives the terminal back; there is nothing to do about one that went away.
fn restore() {
    drop(execute!(io::stdout(), Show));
    drop(ratatui::try_restore());
}

async fn follow(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    client: &mut Client,
    only: Option<&str>,
    keys: &mut mpsc::Receiver<Event>,
    interrupted: &CancellationToken,
) -> Outcome<Left> {
    let mut due = tokio::time::interval_at((Instant::now() + OFTEN).into(), OFTEN);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        terminal
            .draw(|frame| draw::draw(frame, view))
            .map_err(|error| Failure::new(Exit::Failure, format!("terminal: {error}")))?;
        if only.is_some() && view.has_ended() {
            return Ok(Left::Ended);
        }
        tokio::select! {
            () = interrupted.cancelled() => return Ok(Left::Interrupted),
            key = keys.recv() => match key.map(|event| view.press(&event)) {
                None => return Ok(Left::Quit),
                Some(Some(left)) => return Ok(left),
                Some(None) => view.describe(client).await,
            },
            _ = due.tick() => {
                let refreshed = view.refresh(client, only).await;
                view.problem = refreshed.err().map(|failure| failure.to_string());
            }
        }
    }
}

/// Reads keys and changes of size on a thread of its own, because a terminal can only be waited for.
fn read_keys(done: CancellationToken) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        while !done.is_cancelled() {
            match event::poll(KEY_WAIT) {
                Ok(false) => {}
                Ok(true) => match event::read() {
                    Ok(event) => match sender.blocking_send(event) {
                        Ok(()) => {}
                        Err(_) => return,
                    },
                    Err(_) => return,
                },
                Err(_) => return,
            }
        }
    });
    receiver
}

impl View {
    /// Asks the coordinator for everything.
    async fn refresh(&mut self, client: &mut Client, only: Option<&str>) -> Outcome {
        match only {
            Some(id) => {
                let status = client.get(GetRequest { experiment: id.to_owned() }).await?.into_inner();
                self.selected.clone_from(&status.id);
                self.experiments = vec![status];
            }
            None => self.experiments = client.list(ListRequest {}).await?.into_inner().experiments,
        }
        if !self.experiments.iter().any(|status| status.id == self.selected) {
            // What is under way is most likely what people want to see, and of that the latest.
            let running = self.experiments.iter().rev().find(|status| status.state() == State::Running);
            let first = running.or(self.experiments.last());
            self.selected = first.map_or(String::new(), |status| status.id.clone());
            self.report = None;
        }
        self.cluster = client.cluster(ClusterRequest {}).await?.into_inner();
        self.describe(client).await;
        Ok(())
    }

    /// Asks for what there is to see of the selected experiment.
    async fn describe(&mut self, client: &mut Client) {
        if self.selected.is_empty() {
            return;
        }
        // A coordinator of another version may say things that this one cannot read; the rest is still worth seeing.
        self.report = describe(client, &self.selected).await.ok();
    }

    fn position(&self) -> usize {
        self.experiments.iter().position(|status| status.id == self.selected).unwrap_or(0)
    }

    fn has_ended(&self) -> bool {
        let selected = self.experiments.get(self.position());
        selected.is_some_and(|status| matches!(status.state(), State::Finished | State::Cancelled))
    }

    /// Handles a key.
    fn press(&mut self, event: &Event) -> Option<Left> {
        let Event::Key(key) = event else { return None };
        if key.kind != KeyEventKind::Press {
            return None;
        }
        let step = |to: usize| self.experiments.get(to).map(|status| status.id.clone());
        let to = match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Some(Left::Interrupted);
            }
            KeyCode::Char('q') | KeyCode::Esc => return Some(Left::Quit),
            KeyCode::Up | KeyCode::Char('k') => step(self.position().saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => step(self.position() + 1),
            _ => None,
        };
        if let Some(id) = to.filter(|id| *id != self.selected) {
            self.selected = id;
            self.report = None;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    fn key(code: KeyCode) -> Event {
        Event::Key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_select_and_leave() {
        let status = |id: &str| ExperimentStatus { id: id.to_owned(), ..Default::default() };
        let mut view = View { experiments: vec![status("a"), status("b")], ..View::default() };
        view.selected = "a".to_owned();
        assert_eq!(view.press(&key(KeyCode::Up)), None);
        assert_eq!(view.selected, "a");
        view.press(&key(KeyCode::Down));
        view.press(&key(KeyCode::Down));
        assert_eq!(view.selected, "b");
        assert_eq!(view.press(&key(KeyCode::Char('q'))), Some(Left::Quit));
        let interrupt = Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert_eq!(view.press(&interrupt), Some(Left::Interrupted));
    }
}
