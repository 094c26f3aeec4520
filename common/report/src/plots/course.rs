//! The best candidate within the constraints over the candidates measured: what it loses, and what it saves.

use kuva::plot::{LegendPosition, LinePlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot as Layer;
use kuva::render::render::render_twin_y;
use qslm_common::quality::Quality;

use super::{CHOSEN, COLOURS, Plot, WIDTH, percent_ticks, point_ticks};
use crate::{BestSoFar, ReportDocument, Sample};

/// `None` with fewer than two samples at which something met the constraints.
pub(super) fn plot(report: &ReportDocument) -> Option<Plot> {
    let course = course(&report.timeline);
    if course.len() < 2 {
        return None;
    }
    let quality = report.experiment.task.quality();
    let steps = |value: &dyn Fn(&BestSoFar) -> f64| steps(&course, value);
    let loss = LinePlot::new().with_data(steps(&|best| best.quality_loss)).with_color(CHOSEN);
    let mut loss = loss.with_stroke_width(2.0).with_legend(quality.loss_name());
    if course.iter().all(|(_, best)| best.quality_loss_interval.is_some()) {
        let end = |best: &BestSoFar| best.quality_loss_interval.unwrap_or_default();
        let (low, high) = (steps(&|best| end(best).0), steps(&|best| end(best).1));
        let losses = |ends: Vec<(f64, f64)>| ends.into_iter().map(|(_, loss)| loss);
        loss = loss.with_band(losses(low), losses(high));
    }
    let saved = LinePlot::new().with_data(steps(&|best| best.saving)).with_color(COLOURS[0]);
    let saved = saved.with_stroke_width(1.4).with_legend("memory saved");
    let (primary, secondary): (Vec<Layer>, Vec<Layer>) = (vec![loss.into()], vec![saved.into()]);
    let layout = Layout::auto_from_twin_y_plots(&primary, &secondary)
        .with_width(WIDTH)
        .with_height(340.0)
        .with_x_label("candidates measured")
        .with_y_label(quality.loss_name())
        .with_y2_label("memory saved")
        .with_y_tick_format(if quality == Quality::Accuracy { point_ticks() } else { percent_ticks() })
        .with_y2_tick_format(percent_ticks())
        .with_legend_position(LegendPosition::OutsideBottomColumns);
    let caption = "What the best candidate so far loses and saves, over the candidates measured: the one within the constraints \
                   that the trade-off picks. The band is the 95 % interval of its loss.";
    let draw = |layout| render_twin_y(primary, secondary, layout);
    Some(Plot::drawn("course", "The best within the constraints", caption, layout, draw))
}

/// The best candidates so far by the number measured, which rises.
fn course(timeline: &[Sample]) -> Vec<(u64, BestSoFar)> {
    let mut course: Vec<(u64, BestSoFar)> = Vec::new();
    for (measured, best) in timeline.iter().filter_map(|sample| Some((sample.measured, sample.best?))) {
        match course.last_mut() {
            Some(last) if last.0 >= measured => last.1 = best,
            _ => course.push((measured, best)),
        }
    }
    course
}

/// A value in hundredths that stays as it is until the next: two points for each but the first.
fn steps(course: &[(u64, BestSoFar)], value: &dyn Fn(&BestSoFar) -> f64) -> Vec<(f64, f64)> {
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for (measured, best) in course {
        let before = steps.last().map(|(_, value)| *value);
        steps.extend(before.map(|before| (*measured as f64, before)));
        steps.push((*measured as f64, value(best) * 100.0));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    fn best(saving: f64, quality_loss: f64) -> BestSoFar {
        BestSoFar {
            saving,
            quality_loss,
            quality_loss_interval: Some((quality_loss - 0.01, quality_loss + 0.01)),
        }
    }

    fn sample(measured: u64, best: Option<BestSoFar>) -> Sample {
        Sample { unix_ms: measured, measured, front: 1, hypervolume: None, tokens_per_second: 0.0, best }
    }

    #[test]
    fn what_was_best_stays_so_until_something_better_is_measured() {
        let (first, second) = (best(0.5, 0.02), best(0.6, 0.03));
        let timeline =
            [sample(1, None), sample(2, Some(first)), sample(5, Some(second)), sample(5, Some(first))];
        assert_eq!(course(&timeline), [(2, first), (5, first)], "the last word on a number of candidates");
        let steps = steps(&course(&timeline[..3]), &|best| best.saving);
        assert_eq!(steps, [(2.0, 50.0), (5.0, 50.0), (5.0, 60.0)]);
    }

    #[test]
    fn loss_and_saving_have_an_axis_each_and_the_loss_its_interval() {
        let mut report = report();
        assert!(plot(&report).is_none(), "samples of an earlier version have no best candidate");
        report.timeline = vec![sample(2, Some(best(0.5, 0.02))), sample(5, Some(best(0.6, 0.03)))];
        let svg = plot(&report).unwrap().svg();
        for words in ["perplexity increase", "memory saved", "candidates measured"] {
            assert!(svg.contains(&format!(">{words}</text>")), "{words}: {svg}");
        }
        let areas = |report: &ReportDocument| plot(report).unwrap().svg().matches("<path").count();
        let with = areas(&report);
        for sample in &mut report.timeline {
            sample.best.as_mut().unwrap().quality_loss_interval = None;
        }
        assert!(areas(&report) < with, "no band without intervals");
    }
}
