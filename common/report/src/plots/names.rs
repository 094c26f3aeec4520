//! Names beside points, each at the side where it hides least of what else is drawn.

use kuva::render::annotations::TextAnnotation;
use kuva::render::layout::{ComputedLayout, Layout};

/// Place in a picture, in units of its SVG.
type Place = (f64, f64);

/// Size of the text, and how wide a letter of it is about.
const SIZE: u32 = 12;
const LETTER: f64 = 7.3;
/// Distance of a name from the middle of its point: beyond the marker and its outline.
const AWAY: f64 = 9.0;
/// The library draws text without an arrow so far above its place; its middle lies higher by a third of its size.
const ABOVE: f64 = 6.0 + SIZE as f64 / 3.0;
/// Distance of what is drawn from a name, within which both touch.
const ROOM: f64 = 4.0;
/// Distance of two looks along a line.
const STEP: f64 = 4.0;
/// Price of a look at a line below a name, of a point, and of another name or an edge of the picture.
const PRICES: [u32; 3] = [1, 3, 100];

/// What a name should not hide: points, and lines from point to point.
#[derive(Default)]
pub(super) struct Crowd {
    /// Points, in units of the axes.
    pub(super) points: Vec<(f64, f64)>,
    /// Lines, in units of the axes.
    pub(super) lines: Vec<[(f64, f64); 2]>,
}

/// Box around a name: its middle, and half of its width and height.
#[derive(Clone, Copy)]
struct Boxed {
    middle: Place,
    half: (f64, f64),
}

impl Boxed {
    fn holds(&self, (x, y): Place) -> bool {
        (x - self.middle.0).abs() < self.half.0 + ROOM && (y - self.middle.1).abs() < self.half.1 + ROOM
    }

    fn meets(&self, other: &Self) -> bool {
        let apart = |a: f64, b: f64, halves: f64| (a - b).abs() >= halves;
        !(apart(self.middle.0, other.middle.0, self.half.0 + other.half.0)
            || apart(self.middle.1, other.middle.1, self.half.1 + other.half.1))
    }
}

/// Texts for `names` of points at places in units of the axes.
pub(super) fn beside(names: &[(String, (f64, f64))], crowd: &Crowd, layout: &Layout) -> Vec<TextAnnotation> {
    let drawn = ComputedLayout::from_layout(layout);
    let on_paper = |(x, y): (f64, f64)| (drawn.map_x(x), drawn.map_y(y));
    let points: Vec<Place> = crowd.points.iter().map(|at| on_paper(*at)).collect();
    let lines: Vec<Place> = crowd.lines.iter().flat_map(|line| looks(line.map(on_paper))).collect();
    let mut taken: Vec<Boxed> = Vec::new();
    let mut texts = Vec::new();
    for (name, at) in names {
        let half = (name.chars().count() as f64 * LETTER / 2.0, f64::from(SIZE) / 2.0);
        let price = |boxed: &Boxed| {
            let count = |places: &[Place]| places.iter().filter(|place| boxed.holds(**place)).count() as u32;
            let others = taken.iter().filter(|other| boxed.meets(other)).count() as u32;
            let beyond = u32::from(!is_within(boxed, &drawn));
            PRICES[0] * count(&lines) + PRICES[1] * count(&points) + PRICES[2] * (others + beyond)
        };
        let places = sides(on_paper(*at), half).map(|middle| Boxed { middle, half });
        // Of those that are as good, the first.
        let Some(best) = places.into_iter().min_by_key(price) else { continue };
        taken.push(best);
        // Both axes are straight, so that a way on paper is one on the axes.
        let along = |from: f64, to: f64, of: f64| (to - from) / of;
        let (x, y) = on_paper(*at);
        let (right, up) = (drawn.map_x(at.0 + 1.0) - x, drawn.map_y(at.1 + 1.0) - y);
        let text_x = at.0 + along(x, best.middle.0, right);
        let text_y = at.1 + along(y, best.middle.1 + ABOVE, up);
        texts.push(TextAnnotation::new(name.clone(), text_x, text_y).with_font_size(SIZE));
    }
    texts
}

/// Middles of a name on eight sides of its point, the best to read first.
fn sides((x, y): Place, (wide, high): (f64, f64)) -> [Place; 8] {
    let (across, down) = (AWAY + wide, AWAY + high);
    // At a corner a part of the distance is enough.
    let (slant, low) = (0.6 * AWAY + wide, 0.6 * AWAY + high);
    [
        (x + across, y),
        (x - across, y),
        (x + slant, y - low),
        (x - slant, y - low),
        (x + slant, y + low),
        (x - slant, y + low),
        (x, y - down),
        (x, y + down),
    ]
}

/// Places along a line.
fn looks([(x, y), (to_x, to_y)]: [Place; 2]) -> Vec<Place> {
    let steps = ((to_x - x).hypot(to_y - y) / STEP).ceil().max(1.0);
    (0..=steps as u32)
        .map(|step| {
            let share = f64::from(step) / steps;
            (x + share * (to_x - x), y + share * (to_y - y))
        })
        .collect()
}

fn is_within(boxed: &Boxed, drawn: &ComputedLayout) -> bool {
    let ((x, y), (wide, high)) = (boxed.middle, boxed.half);
    x - wide >= drawn.margin_left
        && x + wide <= drawn.width - drawn.margin_right
        && y - high >= drawn.margin_top
        && y + high <= drawn.height - drawn.margin_bottom
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plane of 0 to 100 in both directions.
    fn plane() -> Layout {
        Layout::new((0.0, 100.0), (0.0, 100.0))
            .with_width(600.0)
            .with_height(500.0)
            .with_x_axis_min(0.0)
            .with_x_axis_max(100.0)
            .with_y_axis_min(0.0)
            .with_y_axis_max(100.0)
    }

    /// Where the middle of a text is drawn.
    fn middle(text: &TextAnnotation) -> Place {
        let drawn = ComputedLayout::from_layout(&plane());
        (drawn.map_x(text.text_x), drawn.map_y(text.text_y) - ABOVE)
    }

    fn boxed(text: &TextAnnotation) -> Boxed {
        Boxed { middle: middle(text), half: (text.text.len() as f64 * LETTER / 2.0, f64::from(SIZE) / 2.0) }
    }

    #[test]
    fn a_name_touches_neither_its_point_nor_its_neighbours() {
        let drawn = ComputedLayout::from_layout(&plane());
        let places = [(50.0, 50.0), (52.0, 50.0), (50.0, 53.0), (99.5, 99.5), (0.5, 0.5)];
        let names = ["int2", "int3", "int4", "int5", "int6"];
        let named: Vec<_> = names.map(str::to_owned).into_iter().zip(places).collect();
        let crowd = Crowd { points: places.to_vec(), lines: vec![[(0.0, 50.0), (100.0, 50.0)]] };
        let texts = beside(&named, &crowd, &plane());
        assert_eq!(texts.len(), names.len());
        for (at, text) in texts.iter().enumerate() {
            let one = boxed(text);
            assert!(is_within(&one, &drawn), "{} at {:?}", text.text, one.middle);
            for place in places {
                assert!(
                    !one.holds((drawn.map_x(place.0), drawn.map_y(place.1))),
                    "{} hides {place:?}",
                    text.text
                );
            }
            assert!(texts[..at].iter().all(|other| !one.meets(&boxed(other))), "{}", text.text);
        }
    }

    #[test]
    fn a_name_stands_to_the_right_unless_something_lies_there() {
        let side = |crowd: &Crowd| {
            let texts = beside(&[("int4".to_owned(), (50.0, 50.0))], crowd, &plane());
            let drawn = ComputedLayout::from_layout(&plane());
            (middle(&texts[0]).0 - drawn.map_x(50.0)).signum()
        };
        assert_eq!(side(&Crowd::default()), 1.0);
        let right = [(50.0, 50.0), (60.0, 50.0)];
        assert_eq!(side(&Crowd { points: Vec::new(), lines: vec![right] }), -1.0);
    }
}
