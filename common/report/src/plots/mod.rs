//! The plots of a report, one per file, drawn with kuva.

mod costs;
mod course;
mod firing;
mod front;
mod hypervolume;
mod names;
mod overlay;
mod pairs;
mod raster;
mod schemes;
mod sensitivity;
mod stage_look;

use kuva::backend::svg::SvgBackend;
use kuva::plot::LegendPosition;
use kuva::render::color::Color;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot as Layer;
use kuva::render::render::{Primitive, Scene, render_multiple};
use qslm_common::quality::Quality;

pub use stage_look::tier;

use crate::ReportDocument;
use crate::overlay::OverlayDocument;

/// Colours that stay apart for people with any colour vision, and in grey (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C00"];
/// Colour of the chosen candidate, everywhere.
const CHOSEN: &str = "#D55E00";
/// Colour of the float model, everywhere.
const FLOAT: &str = "#7F7F7F";
/// Width of every plot, in the units of its SVG. Narrow enough that its text can be read on a phone.
const WIDTH: f64 = 720.0;
/// Colour of the front, everywhere.
const FRONT: &str = "#333333";
/// Colour of lines that only guide the eye.
const GUIDE: &str = "#999999";

/// Beginning of the library's names of clips, before a number.
const CLIP: &str = "kuva-clip-";

/// A drawn plot.
pub struct Plot {
    /// Name in file names and on the page: lower case, no spaces.
    pub name: &'static str,
    /// Title: what it shows.
    pub title: String,
    /// Caption: how to read it.
    pub caption: String,
    /// Name of this view, where several plots show the same in other orders, one after the other.
    pub view: Option<&'static str>,
    scene: Scene,
}

/// Every plot that there is data for, in the order of reading.
pub fn all(report: &ReportDocument) -> Vec<Plot> {
    let first = front::plot(report).into_iter().chain(pairs::plots(report));
    let course = course::plot(report).into_iter().chain(hypervolume::plot(report));
    let course = course.chain(sensitivity::plots(report));
    let chosen = schemes::plots(report).into_iter().chain(firing::plot(report)).chain(costs::plot(report));
    first.chain(course).chain(chosen).collect()
}

/// Fronts of several experiments in one picture; `None` before anything is on one of them.
pub fn overlay(document: &OverlayDocument, reports: &[ReportDocument]) -> Option<Plot> {
    overlay::plot(document, reports)
}

impl Plot {
    fn new(
        name: &'static str,
        title: impl Into<String>,
        caption: impl Into<String>,
        layers: Vec<Layer>,
        layout: Layout,
    ) -> Self {
        Self::drawn(name, title, caption, layout, |layout| render_multiple(layers, layout))
    }

    /// A plot that `draw` draws in the look of all.
    fn drawn(
        name: &'static str,
        title: impl Into<String>,
        caption: impl Into<String>,
        layout: Layout,
        draw: impl FnOnce(Layout) -> Scene,
    ) -> Self {
        let layout = layout
            .with_font_family("system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif")
            .with_grid_line_width(0.5)
            // A box around it would be cut off at the upper edge.
            .with_legend_box(false)
            .with_label_size(14);
        Self { name, title: title.into(), caption: caption.into(), view: None, scene: draw(layout) }
    }

    /// The same as one view of several.
    fn with_view(self, view: &'static str) -> Self {
        Self { view: Some(view), ..self }
    }

    /// The same with white texts where `is_dark` says that they lie on a dark ground: the library draws those over a plot in
    /// one colour.
    fn with_white_texts(mut self, is_dark: impl Fn(&str) -> bool) -> Self {
        for element in &mut self.scene.elements {
            if let Primitive::Text { content, color, .. } = element
                && is_dark(content)
            {
                *color = Some(Color::from("#ffffff"));
            }
        }
        self
    }

    /// SVG that scales with its place on a page; its text stays text.
    pub fn svg(&self) -> String {
        let (width, height) = (self.scene.width, self.scene.height);
        // The library gives a size only, and a picture without a view box is cut off where there is less
        // room.
        let start = format!(r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{}" "#, self.title);
        let svg = SvgBackend::new().render_scene(&self.scene).replacen("<svg ", &start, 1);
        self.with_names_of_its_own(&svg)
    }

    /// The picture with clips named after the plot: the library counts them as long as a program runs, so that a picture would
    /// be another one each time, and a live view would be drawn again though nothing has changed.
    fn with_names_of_its_own(&self, svg: &str) -> String {
        let mut pieces = svg.split(CLIP);
        let mut named = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            named.push_str(&format!("clip-{}", self.name));
            named.push_str(piece.trim_start_matches(|letter: char| letter.is_ascii_digit()));
        }
        named
    }

    /// PNG with `scale` pixels per unit of the SVG.
    ///
    /// # Errors
    /// If the picture is too large to draw.
    pub fn png(&self, scale: f32) -> Result<Vec<u8>, String> {
        raster::png(&self.scene, scale)
    }
}

/// Ticks in percent, of values that are percentages already.
fn percent_ticks() -> TickFormat {
    TickFormat::Custom(std::sync::Arc::new(|value| format!("{} %", tidy(value))))
}

/// The plane of fronts, memory saved against quality lost, within these edges in hundredths: left, right, lower, upper.
fn plane(layers: &[Layer], quality: Quality, [left, right, bottom, top]: [f64; 4]) -> Layout {
    Layout::auto_from_plots(layers)
        .with_width(WIDTH)
        .with_height(520.0)
        .with_x_label("memory saved")
        .with_y_label(quality.loss_name())
        .with_x_tick_format(percent_ticks())
        .with_y_tick_format(if quality == Quality::Accuracy { point_ticks() } else { percent_ticks() })
        .with_x_axis_min(left)
        .with_x_axis_max(right)
        .with_y_axis_min(bottom)
        .with_y_axis_max(top)
        .with_legend_position(LegendPosition::OutsideRightTop)
}

/// Ticks in points, of values that are hundredths already.
fn point_ticks() -> TickFormat {
    TickFormat::Custom(std::sync::Arc::new(|value| format!("{} pt", tidy(value))))
}

/// Number with up to four decimals, without those at the end that say nothing.
fn tidy(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    #[test]
    fn a_picture_is_the_same_whenever_it_is_drawn_and_its_clips_are_its_own() {
        let report = report();
        let drawn = || all(&report).iter().map(Plot::svg).collect::<Vec<_>>();
        let first = drawn();
        assert_eq!(first, drawn());
        for (svg, plot) in first.iter().zip(all(&report)) {
            let clip = format!("\"clip-{}\"", plot.name);
            assert_eq!(
                svg.matches("<clipPath id=").count(),
                svg.matches(&format!("<clipPath id={clip}")).count()
            );
            assert!(!svg.contains(CLIP), "{svg}");
        }
    }
}
