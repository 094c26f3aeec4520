//! Draws a [`View`]. Made for 80 columns and 24 lines; a larger terminal shows more of everything.

use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{Event, ExperimentStatus};
use qslm_report::pace;
use qslm_report::words::{grouped, lost_briefly, percent, rate, speed, time};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, LineGauge, Paragraph, Row, Table, TableState};

use super::View;
use super::front::draw_front;
use super::style::{FAINT, PROBLEM, STRONG};
use crate::fit::{shorten, wrap};
use crate::progress::{self, ahead, kind_of};

/// Share of the lines that the list of experiments takes at most, and that events do.
const LIST: u16 = 4;
const EVENTS: u16 = 5;
/// Lines below the bar of progress at most.
const MOST_WORDS: usize = 4;
/// Columns from which on the list has priorities, too.
const WIDE: u16 = 100;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let height = frame.area().height;
    let list = (view.experiments.len() as u16 + 1).clamp(2, (height / LIST).max(2));
    let words = progress_words(view, frame.area().width);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(list),
        Constraint::Length(1 + words.len() as u16),
        Constraint::Fill(3),
        Constraint::Length((height / EVENTS).max(5)),
        Constraint::Length(1),
    ]);
    let [title, experiments, progress, middle, events, keys] = areas.areas(frame.area());
    let [front, workers] =
        Layout::horizontal([Constraint::Percentage(58), Constraint::Percentage(42)]).areas(middle);
    draw_title(frame, title, view);
    draw_experiments(frame, experiments, view);
    draw_progress(frame, progress, view, words);
    draw_front(frame, front, view);
    draw_workers(frame, workers, view);
    draw_events(frame, events, view);
    let words = " q leave   up/down choose an experiment";
    frame.render_widget(Paragraph::new(Span::styled(words, FAINT)), keys);
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let workers = view.cluster.workers.len();
    let tokens: f64 = view.cluster.workers.iter().map(|worker| worker.tokens_per_second).sum();
    let left = Line::from(vec![Span::styled(" qslm ", STRONG), Span::raw(view.coordinator.as_str())]);
    let right = match &view.problem {
        Some(problem) => Line::styled(format!("{problem} "), PROBLEM),
        None => {
            let jobs = match view.cluster.jobs.len() {
                0 => String::new(),
                jobs => format!("{jobs} {}, ", plural(jobs, "job")),
            };
            Line::raw(format!("{workers} {}, {jobs}{} ", plural(workers, "worker"), speed(tokens)))
        }
    };
    // What went wrong is worth more than the address.
    let areas = Layout::horizontal([Constraint::Fill(1), Constraint::Length(right.width() as u16)]);
    let [address, news] = areas.areas(area);
    frame.render_widget(Paragraph::new(left), address);
    frame.render_widget(Paragraph::new(right).alignment(Alignment::Right), news);
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

fn draw_experiments(frame: &mut Frame<'_>, area: Rect, view: &View) {
    if view.experiments.is_empty() {
        let words = " No experiments yet: qslm submit SPEC.toml";
        frame.render_widget(Paragraph::new(words), area);
        return;
    }
    let is_wide = area.width >= WIDE;
    let mut header = vec!["experiment", "state", "stage", "measured", "front", "saved", "loss"];
    header.extend(is_wide.then_some("priority"));
    let stage = if is_wide { 20 } else { 11 };
    let mut widths = vec![9, stage, 8, 5, 7, 8];
    widths.extend(is_wide.then_some(8));
    // Beside the mark of the selected one, and a space before each column.
    let name = area.width.saturating_sub(2 + widths.iter().map(|width| width + 1).sum::<u16>());
    let rows = view.experiments.iter().map(|status| {
        let mut cells = experiment_cells(status, usize::from(name));
        cells.extend(is_wide.then(|| right(status.priority.to_string())));
        Row::new(cells)
    });
    let widths = std::iter::once(Constraint::Fill(1)).chain(widths.into_iter().map(Constraint::Length));
    let table = Table::new(rows, widths).header(Row::new(header).style(FAINT));
    let table = table.row_highlight_style(STRONG).highlight_symbol("> ");
    let mut state = TableState::default().with_selected(view.position());
    frame.render_stateful_widget(table, area, &mut state);
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::raw(text).alignment(Alignment::Right))
}

fn experiment_cells(status: &ExperimentStatus, name: usize) -> Vec<Cell<'static>> {
    let (word, colour) = match status.state() {
        State::Running => match progress::state(status).split(' ').next() {
            Some("no") => ("no worker", Color::Yellow),
            Some("waiting") => ("waiting", Color::Yellow),
            _ => ("running", Color::Blue),
        },
        State::Finished if !status.unmet.is_empty() => ("unmet", Color::Yellow),
        State::Finished => ("finished", Color::Green),
        State::Cancelled => ("cancelled", Color::Red),
        State::Paused => ("paused", Color::Yellow),
        State::Stuck => ("stuck", Color::Red),
        State::Interrupted => ("interrupted", Color::Yellow),
        State::Unspecified => ("", Color::Reset),
    };
    let best = status.best.as_ref();
    vec![
        Cell::from(shorten(&status.id, name)),
        Cell::from(Span::styled(word, colour)),
        Cell::from(status.stage.clone()),
        right(grouped(status.measured)),
        right(grouped(status.front.into())),
        right(best.map_or(String::new(), |best| percent(best.saving))),
        right(best.map_or(String::new(), |best| lost_briefly(kind_of(best), best.quality_loss))),
    ]
}

fn has_ended(status: &ExperimentStatus) -> bool {
    matches!(status.state(), State::Finished | State::Cancelled)
}

/// Lines below the bar: what is wrong, if something is, or else how it goes.
fn progress_words(view: &View, width: u16) -> Vec<Line<'static>> {
    let Some(status) = view.experiments.get(view.position()) else { return vec![Line::default()] };
    let (text, style) = match (status.failed, status.failures.first()) {
        _ if !status.stuck.is_empty() => (format!("stuck: {}", status.stuck), PROBLEM),
        (0, _) if progress::absence(status).is_some() => {
            (progress::absence(status).unwrap_or_default(), PROBLEM)
        }
        (0, _) if has_ended(status) && !status.unmet.is_empty() => {
            (format!("unmet: {}", status.unmet), PROBLEM)
        }
        (0, _) => (course(view, status), FAINT),
        (failed, reason) => (format!("{failed} failed: {}", reason.map_or("", String::as_str)), PROBLEM),
    };
    let lines = wrap(&text, usize::from(width.saturating_sub(2)));
    lines.into_iter().take(MOST_WORDS).map(|line| Line::styled(format!(" {line}"), style)).collect()
}

/// Time left, priority, shards, speed and hypervolume.
fn course(view: &View, status: &ExperimentStatus) -> String {
    let mut words = Vec::new();
    let pace = view.report.as_ref().and_then(|report| pace::per_candidate(&report.timeline));
    if let (Some(pace), Some(ahead), false) = (pace, ahead(status), has_ended(status)) {
        words.push(pace::left(pace, progress::about(status), ahead));
    }
    words.push(format!("priority {}", status.priority));
    words.push(format!("shards: {} out, {} waiting", status.shards_leased, status.shards_pending));
    words.push(speed(status.tokens_per_second));
    words.extend(status.hypervolume.map(|volume| format!("hypervolume {volume:.4}")));
    words.join("; ")
}

fn draw_progress(frame: &mut Frame<'_>, area: Rect, view: &View, words: Vec<Line<'static>>) {
    let Some(status) = view.experiments.get(view.position()) else { return };
    let settled = status.measured + status.failed + status.stopped;
    let ahead = if has_ended(status) { Some(0) } else { ahead(status) };
    let share = ahead.map_or(0.0, |ahead| settled as f64 / (settled + ahead).max(1) as f64);
    let label = match ahead {
        _ if has_ended(status) => format!("{settled} candidates"),
        Some(ahead) => format!("{}: {settled} candidates, at most {ahead} to go", status.stage),
        None => format!("{}: {settled} candidates", status.stage),
    };
    let [bar, below] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let gauge = LineGauge::default().ratio(share.clamp(0.0, 1.0)).label(format!(" {label} "));
    frame.render_widget(gauge.filled_style(Color::Blue).unfilled_style(FAINT), bar);
    frame.render_widget(Paragraph::new(words), below);
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let widths = [Constraint::Fill(1), Constraint::Length(5), Constraint::Length(8), Constraint::Length(5)];
    let header = Row::new(["worker", "hand", "tokens/s", "seen"]).style(FAINT);
    let row = |worker: &qslm_proto::v1::WorkerStatus| {
        let silent = worker.silent_ms / 1000;
        Row::new([
            worker.name.clone(),
            format!("{}/{}", worker.holding, worker.capacity),
            format!("{:>8}", rate(worker.tokens_per_second)),
            if silent < 10 { "now".to_owned() } else { format!("{silent} s") },
        ])
        .style(if worker.last_fault.is_empty() { Style::new() } else { PROBLEM })
    };
    let shown = usize::from(area.height.saturating_sub(3));
    let all = &view.cluster.workers;
    let hidden = all.len().saturating_sub(shown);
    let title = if hidden > 0 { format!("workers ({hidden} more)") } else { "workers".to_owned() };
    let block = Block::bordered().border_style(FAINT).title(title);
    let table = Table::new(all.iter().take(shown).map(row), widths).header(header).block(block);
    frame.render_widget(table, area);
}

/// The latest events, the last one at the bottom.
fn draw_events(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let block = Block::bordered().border_style(FAINT).title("events");
    let shown = usize::from(area.height.saturating_sub(2));
    let width = usize::from(area.width.saturating_sub(2));
    // From the last one up, as far as there is room: what happened is not cut off, a long name is.
    let mut lines: Vec<Line<'_>> = Vec::new();
    for event in view.cluster.events.iter().rev() {
        let room = shown.saturating_sub(lines.len());
        lines.splice(..0, event_lines(event, width).into_iter().take(room));
        if lines.len() >= shown {
            break;
        }
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// An event: its time, its experiment, and what happened, on further lines where it is long.
fn event_lines(event: &Event, width: usize) -> Vec<Line<'static>> {
    let time = time(event.unix_ms) + " ";
    let mut about = shorten(&event.experiment, (width / 4).max(18));
    about.extend((!about.is_empty()).then_some(' '));
    let indent = time.chars().count() + about.chars().count();
    let mut texts = wrap(&event.text, width.saturating_sub(indent)).into_iter();
    let first = Line::from(vec![
        Span::styled(time, FAINT),
        Span::styled(about, Color::Blue),
        Span::raw(texts.next().unwrap_or_default()),
    ]);
    let more = texts.map(|text| Line::raw(format!("{:indent$}{text}", "")));
    std::iter::once(first).chain(more).collect()
}
