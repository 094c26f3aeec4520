//! The front in a terminal: every candidate by what it saves and loses, the steps of the front, the choice and the bounds.

use qslm_report::plots::tier;
use qslm_report::{Field, Placed, ReportDocument};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph};

use super::View;
use super::style::FAINT;

/// Colours of tiers in the order in which they come up, and of stages that are about none.
const COLOURS: [Color; 6] =
    [Color::Blue, Color::Yellow, Color::Green, Color::Magenta, Color::Cyan, Color::LightRed];
/// Lines of the legend at most: the chart needs the others.
const MOST_LINES: usize = 3;
/// Lines of a chart below which a legend takes too many of them.
const LOW: u16 = 5;

/// Points of one kind: how they are called in the legend, how they look, where they lie in percent.
struct Series {
    name: &'static str,
    colour: Color,
    marker: Marker,
    kind: GraphType,
    points: Vec<(f64, f64)>,
}

pub(super) fn draw_front(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let block = Block::bordered().border_style(FAINT).title("loss over memory saved");
    let (Some(report), Some(field)) = (&view.report, view.report.as_ref().and_then(Field::new)) else {
        frame.render_widget(Paragraph::new("nothing is measured yet").block(block), area);
        return;
    };
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let edges = Edges::new(&field);
    let (mut series, tiers) = candidates(report, &field);
    series.extend(marks(&field, &edges));
    series.retain(|one| !one.points.is_empty());
    let legend = legend(&series, &tiers, usize::from(inside.width));
    let lines = if inside.height > LOW { legend.len() as u16 } else { 0 };
    let [above, below] = Layout::vertical([Constraint::Fill(1), Constraint::Length(lines)]).areas(inside);
    let sets = series.iter().map(|one| {
        let set = Dataset::default().data(&one.points).marker(one.marker).graph_type(one.kind);
        set.style(Style::new().fg(one.colour))
    });
    let label = |value: f64| format!("{:.1} %", if value.abs() < 0.05 { 0.0 } else { value });
    let axis = |low: f64, high: f64| {
        Axis::default().bounds([low, high]).labels([label(low), label(high)]).style(FAINT)
    };
    let chart = Chart::new(sets.collect()).legend_position(None);
    let chart = chart.x_axis(axis(edges.left, edges.right)).y_axis(axis(edges.low, edges.top));
    frame.render_widget(chart, above);
    frame.render_widget(Paragraph::new(legend), below);
}

/// Edges of the picture in percent.
struct Edges {
    left: f64,
    right: f64,
    low: f64,
    top: f64,
}

impl Edges {
    fn new(field: &Field) -> Self {
        let (top, left) = (field.top * 100.0, (field.left * 100.0).min(99.0));
        let losses = field.points.iter().map(|point| point.loss * 100.0);
        let savings = field.points.iter().map(|point| point.saving * 100.0 + 0.5);
        Self { left, right: savings.fold(left + 0.5, f64::max), low: losses.fold(0.0, f64::min), top }
    }
}

fn percent((saving, loss): (f64, f64)) -> (f64, f64) {
    (saving * 100.0, loss * 100.0)
}

/// Candidates of each stage, in the colour of its tier, and the tiers with their colours in the order of the stages.
fn candidates(report: &ReportDocument, field: &Field) -> (Vec<Series>, Vec<(String, Color)>) {
    let mut tiers: Vec<(String, Color)> = Vec::new();
    let mut series = Vec::new();
    for (index, stage) in report.stages.iter().enumerate() {
        let points = field.points.iter().filter(|point| point.stage == index);
        let points: Vec<_> = points.map(|point| percent((point.saving, point.loss))).collect();
        if points.is_empty() {
            continue;
        }
        // A tier of activations looks as the same one of weights: there are more stages than colours.
        let name = tier(&stage.name).unwrap_or(&stage.name).to_owned();
        let known = tiers.iter().find(|(known, _)| *known == name).map(|(_, colour)| *colour);
        let colour = known.unwrap_or(COLOURS[tiers.len() % COLOURS.len()]);
        if known.is_none() {
            tiers.push((name, colour));
        }
        series.push(Series { name: "", colour, marker: Marker::Braille, kind: GraphType::Scatter, points });
    }
    (series, tiers)
}

/// The front, the bounds and the choice, over the candidates.
fn marks(field: &Field, edges: &Edges) -> [Series; 4] {
    let place = |at: &Placed| percent((at.saving, at.loss));
    let bound = field.bound.map(|bound| bound * 100.0).filter(|bound| *bound <= edges.top);
    let bound = bound.map(|bound| vec![(edges.left, bound), (edges.right, bound)]);
    let budget =
        field.budget.map(|budget| budget * 100.0).filter(|budget| (edges.left..edges.right).contains(budget));
    let budget = budget.map(|budget| vec![(budget, edges.low), (budget, edges.top)]);
    let steps: Vec<_> = field.steps().into_iter().map(percent).collect();
    let is_line = !steps.is_empty();
    let front = if is_line { steps } else { field.front.iter().map(place).collect() };
    let mark = |name, colour, marker, kind, points| Series { name, colour, marker, kind, points };
    let line = GraphType::Line;
    [
        mark("bound", Color::DarkGray, Marker::Braille, line, bound.unwrap_or_default()),
        mark("budget", Color::DarkGray, Marker::Braille, line, budget.unwrap_or_default()),
        match is_line {
            true => mark("front", Color::White, Marker::Braille, line, front),
            false => mark("front", Color::White, Marker::Dot, GraphType::Scatter, front),
        },
        mark(
            "chosen",
            Color::Red,
            Marker::Block,
            GraphType::Scatter,
            field.chosen.iter().map(place).collect(),
        ),
    ]
}

/// Names with their marks, on as many lines as they take.
fn legend(series: &[Series], tiers: &[(String, Color)], width: usize) -> Vec<Line<'static>> {
    let tiers = tiers.iter().map(|(name, colour)| ("\u{2022}", name.clone(), *colour));
    let marks = series.iter().filter(|one| !one.name.is_empty()).map(|one| {
        let mark = match (one.kind, one.marker) {
            (GraphType::Line, _) => "\u{2500}",
            (_, Marker::Block) => "\u{2588}",
            _ => "\u{2022}",
        };
        (mark, one.name.to_owned(), one.colour)
    });
    let mut lines: Vec<Line<'static>> = vec![Line::default()];
    for (mark, name, colour) in tiers.chain(marks) {
        let text = format!(" {mark} {name}");
        let last = lines.len() - 1;
        if last + 1 < MOST_LINES
            && lines[last].width() > 0
            && lines[last].width() + text.chars().count() > width
        {
            lines.push(Line::default());
        }
        let last = lines.len() - 1;
        lines[last].push_span(Span::styled(text, colour));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &'static str, kind: GraphType, marker: Marker) -> Series {
        Series { name, colour: Color::White, marker, kind, points: vec![(1.0, 1.0)] }
    }

    #[test]
    fn the_legend_names_tiers_and_marks_on_as_many_lines_as_it_takes() {
        let tiers: Vec<_> = ["global", "block", "module", "matrix", "population"].map(str::to_owned).into();
        let tiers: Vec<_> = tiers.into_iter().zip(COLOURS).collect();
        let all = [
            series("", GraphType::Scatter, Marker::Braille),
            series("bound", GraphType::Line, Marker::Braille),
            series("front", GraphType::Line, Marker::Braille),
            series("chosen", GraphType::Scatter, Marker::Block),
        ];
        let text = |width| {
            legend(&all, &tiers, width).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(text(100).lines().count(), 1);
        let narrow = text(44);
        assert!(narrow.lines().all(|line| line.chars().count() <= 44), "{narrow}");
        for name in ["global", "population", "\u{2500} bound", "\u{2500} front", "\u{2588} chosen"] {
            assert!(narrow.contains(name), "{narrow}");
        }
        assert!(legend(&all, &tiers, 10).len() <= MOST_LINES);
    }
}
