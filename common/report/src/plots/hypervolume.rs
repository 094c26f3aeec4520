//! Hypervolume over time: how fast the front came about.

use kuva::plot::LinePlot;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot as Layer;

use super::{COLOURS, Plot, WIDTH};
use crate::{ReportDocument, Sample, worked_ms};

/// `None` with fewer than two samples.
pub(super) fn plot(report: &ReportDocument) -> Option<Plot> {
    let points = at_work(&report.timeline);
    if points.len() < 2 {
        return None;
    }
    let last = points.last().map_or(0.0, |(seconds, _)| *seconds);
    let (unit, seconds) = match last {
        0.0..120.0 => ("seconds", 1.0),
        120.0..7200.0 => ("minutes", 60.0),
        _ => ("hours", 3600.0),
    };
    let line = LinePlot::new()
        .with_data(points.into_iter().map(|(at, volume)| (at / seconds, volume)))
        .with_color(COLOURS[0])
        .with_stroke_width(2.0)
        .with_step();
    let layers: Vec<Layer> = vec![line.into()];
    let layout = Layout::auto_from_plots(&layers)
        .with_width(WIDTH)
        .with_height(340.0)
        .with_x_label(format!("{unit} at work"))
        .with_y_label("hypervolume")
        .with_x_axis_min(0.0);
    let caption = "The share of the box between nothing and the float model's losses that the front dominates; 1 would be \
                   a model without bytes or loss. Interruptions are left out.";
    Some(Plot::new("hypervolume", "Hypervolume over time", caption, layers, layout))
}

/// Seconds at work and hypervolume of the samples that have one.
fn at_work(timeline: &[Sample]) -> Vec<(f64, f64)> {
    let seconds = worked_ms(timeline).into_iter().map(|ms| ms as f64 / 1000.0);
    let points = seconds.zip(timeline);
    points.filter_map(|(seconds, sample)| Some((seconds, sample.hypervolume?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interruptions_take_no_time() {
        let sample = |unix_ms, hypervolume| Sample {
            unix_ms,
            measured: 1,
            front: 1,
            hypervolume: Some(hypervolume),
            tokens_per_second: 0.0,
            best: None,
        };
        let hour = 3_600_000;
        let timeline = [sample(1_000, 0.1), sample(3_000, 0.2), sample(hour, 0.3), sample(hour + 500, 0.4)];
        assert_eq!(at_work(&timeline), [(0.0, 0.1), (2.0, 0.2), (2.0, 0.3), (2.5, 0.4)]);
    }
}
