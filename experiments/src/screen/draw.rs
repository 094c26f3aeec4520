//! Draws a [`View`]. Made for 80 columns and 24 lines; a larger terminal shows more of everything.

use qslm_proto::v1::ExperimentStatus;
use qslm_proto::v1::experiment_status::State;
use qslm_report::words::{lost_briefly, time};
use qslm_report::{Field, Placed};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, Cell, Chart, Dataset, GraphType, LegendPosition, LineGauge, Paragraph, Row, Table,
    TableState,
};

use super::View;
use crate::progress::{self, ahead, kind_of};

/// Lines of the list of experiments at most, with its header.
const LIST: u16 = 6;
const FAINT: Style = Style::new().fg(Color::DarkGray);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const PROBLEM: Style = Style::new().fg(Color::Red);
/// Colours of stages, in their order.
const COLOURS: [Color; 6] =
    [Color::Blue, Color::Yellow, Color::Green, Color::Magenta, Color::Cyan, Color::LightRed];

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let list = (view.experiments.len() as u16 + 1).clamp(2, LIST);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(list),
        Constraint::Length(2),
        Constraint::Fill(3),
        Constraint::Length(5),
        Constraint::Length(1),
    ]);
    let [title, experiments, progress, middle, events, keys] = areas.areas(frame.area());
    let [front, workers] =
        Layout::horizontal([Constraint::Percentage(58), Constraint::Percentage(42)]).areas(middle);
    draw_title(frame, title, view);
    draw_experiments(frame, experiments, view);
    draw_progress(frame, progress, view);
    draw_front(frame, front, view);
    draw_workers(frame, workers, view);
    draw_events(frame, events, view);
    let words = " q leave   up/down choose an experiment";
    frame.render_widget(Paragraph::new(Span::styled(words, FAINT)), keys);
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let workers = view.cluster.workers.len();
    let speed: f64 = view.cluster.workers.iter().map(|worker| worker.tokens_per_second).sum();
    let left = Line::from(vec![Span::styled(" qslm ", STRONG), Span::raw(view.coordinator.as_str())]);
    let right = match &view.problem {
        Some(problem) => Line::styled(format!("{problem} "), PROBLEM),
        None => {
            let jobs = match view.cluster.jobs.len() {
                0 => String::new(),
                jobs => format!("{jobs} {}, ", plural(jobs, "job")),
            };
            Line::raw(format!("{workers} {}, {jobs}{speed:.0} tokens/s ", plural(workers, "worker")))
        }
    };
    frame.render_widget(Paragraph::new(left), area);
    frame.render_widget(Paragraph::new(right).alignment(Alignment::Right), area);
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
    let header =
        Row::new(["experiment", "state", "stage", "measured", "front", "saved", "loss"]).style(FAINT);
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(11),
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Length(7),
        Constraint::Length(8),
    ];
    let table = Table::new(view.experiments.iter().map(experiment_row), widths).header(header);
    let table = table.row_highlight_style(STRONG).highlight_symbol("> ");
    let mut state = TableState::default().with_selected(view.position());
    frame.render_stateful_widget(table, area, &mut state);
}

fn experiment_row(status: &ExperimentStatus) -> Row<'static> {
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
        State::Unspecified => ("", Color::Reset),
    };
    let best = status.best.as_ref();
    let right = |text: String| Cell::from(Line::raw(text).alignment(Alignment::Right));
    Row::new([
        Cell::from(status.id.clone()),
        Cell::from(Span::styled(word, colour)),
        Cell::from(status.stage.clone()),
        right(status.measured.to_string()),
        right(status.front.to_string()),
        right(best.map_or(String::new(), |best| format!("{:.2} %", best.saving * 100.0))),
        right(best.map_or(String::new(), |best| lost_briefly(kind_of(best), best.quality_loss))),
    ])
}

fn draw_progress(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let Some(status) = view.experiments.get(view.position()) else { return };
    let settled = status.measured + status.failed + status.stopped;
    let ended = matches!(status.state(), State::Finished | State::Cancelled);
    let ahead = if ended { Some(0) } else { ahead(status) };
    let share = ahead.map_or(0.0, |ahead| settled as f64 / (settled + ahead).max(1) as f64);
    let words = match ahead {
        _ if ended => format!("{settled} candidates"),
        Some(ahead) => format!("{}: {settled} candidates, at most {ahead} to go", status.stage),
        None => format!("{}: {settled} candidates", status.stage),
    };
    let mut more = format!(
        " shards: {} out, {} waiting; {:.0} tokens/s",
        status.shards_leased, status.shards_pending, status.tokens_per_second
    );
    if let Some(volume) = status.hypervolume {
        more.push_str(&format!("; hypervolume {volume:.4}"));
    }
    let [bar, below] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
    let gauge = LineGauge::default().ratio(share.clamp(0.0, 1.0)).label(format!(" {words} "));
    frame.render_widget(gauge.filled_style(Color::Blue).unfilled_style(FAINT), bar);
    let failed = match (status.failed, status.failures.first()) {
        _ if !status.stuck.is_empty() => Line::styled(format!(" stuck: {}", status.stuck), PROBLEM),
        (0, _) if progress::absence(status).is_some() => {
            Line::styled(format!(" {}", progress::absence(status).unwrap_or_default()), PROBLEM)
        }
        (0, _) if ended && !status.unmet.is_empty() => {
            Line::styled(format!(" unmet: {}", status.unmet), PROBLEM)
        }
        (0, _) => Line::styled(more, FAINT),
        (failed, reason) => {
            let reason = reason.map_or("", String::as_str);
            Line::styled(format!(" {failed} failed: {reason}"), PROBLEM)
        }
    };
    frame.render_widget(Paragraph::new(failed), below);
}

/// Points of one kind: what they are called, how they look, where they lie in percent.
type Series = (String, Color, Marker, Vec<(f64, f64)>);

/// The front as a scatter plot: every candidate, the front, and the chosen one.
fn draw_front(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let block = Block::bordered().border_style(FAINT).title("loss over memory saved (\u{2588} chosen)");
    let (Some(report), Some(field)) = (&view.report, view.report.as_ref().and_then(Field::new)) else {
        frame.render_widget(Paragraph::new("nothing is measured yet").block(block), area);
        return;
    };
    let percent = |(saving, loss): (f64, f64)| (saving * 100.0, loss * 100.0);
    let mut series: Vec<Series> = Vec::new();
    for (index, stage) in report.stages.iter().enumerate() {
        let points = field.points.iter().filter(|point| point.stage == index);
        let points = points.map(|point| percent((point.saving, point.loss))).collect();
        series.push((stage.name.clone(), COLOURS[index % COLOURS.len()], Marker::Braille, points));
    }
    let place = |at: &Placed| percent((at.saving, at.loss));
    let front = field.front.iter().map(place).collect();
    series.push(("front".to_owned(), Color::White, Marker::Dot, front));
    series.push(("chosen".to_owned(), Color::Red, Marker::Block, field.chosen.iter().map(place).collect()));
    let points = || series.iter().flat_map(|(_, _, _, points)| points);
    let left = (field.left * 100.0).min(99.0);
    let low = points().map(|(_, loss)| *loss).fold(0.0, f64::min);
    let top = field.top * 100.0;
    let right = points().map(|(saving, _)| *saving + 0.5).fold(left + 0.5, f64::max);
    let bound = field.bound.map(|bound| [(left, bound * 100.0), (right, bound * 100.0)]);
    let mut sets: Vec<Dataset<'_>> = Vec::new();
    if let Some(line) = &bound {
        let set = Dataset::default().data(line).graph_type(GraphType::Line).marker(Marker::Braille);
        sets.push(set.style(FAINT));
    }
    for (name, colour, marker, points) in series.iter().filter(|(_, _, _, points)| !points.is_empty()) {
        let set = Dataset::default().name(name.as_str()).data(points).marker(*marker);
        sets.push(set.graph_type(GraphType::Scatter).style(*colour));
    }
    let label = |value: f64| format!("{value:.1} %");
    let x = Axis::default().bounds([left, right]).labels([label(left), label(right)]).style(FAINT);
    let y = Axis::default().bounds([low, top]).labels([label(low), label(top)]).style(FAINT);
    let chart = Chart::new(sets).block(block).x_axis(x).y_axis(y);
    frame.render_widget(chart.legend_position(Some(LegendPosition::TopLeft)), area);
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let widths = [Constraint::Fill(1), Constraint::Length(5), Constraint::Length(8), Constraint::Length(5)];
    let header = Row::new(["worker", "hand", "tokens/s", "seen"]).style(FAINT);
    let row = |worker: &qslm_proto::v1::WorkerStatus| {
        let silent = worker.silent_ms / 1000;
        Row::new([
            worker.name.clone(),
            format!("{}/{}", worker.holding, worker.capacity),
            format!("{:8.0}", worker.tokens_per_second),
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
    let events = &view.cluster.events;
    let lines = events[events.len().saturating_sub(shown)..].iter().map(|event| {
        let time = time(event.unix_ms) + " ";
        let about = if event.experiment.is_empty() { "" } else { " " };
        Line::from(vec![
            Span::styled(time, FAINT),
            Span::styled(format!("{}{about}", event.experiment), Color::Blue),
            Span::raw(event.text.as_str()),
        ])
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
}
