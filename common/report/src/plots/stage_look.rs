//! Look of a stage: its hue is the tier, its shape the axis, so that eleven stages need four of each.

use kuva::plot::scatter::MarkerShape;

use super::COLOURS;

/// Words of tiers in the names of stages, each with the hue of its place.
const TIERS: [&str; 5] = ["global", "block", "module", "matrix", "population"];

/// Axes in the names of stages; a stage of weights names none.
const AXES: [(&str, MarkerShape); 3] = [
    ("vectors", MarkerShape::Square),
    ("activations", MarkerShape::Triangle),
    ("membranes", MarkerShape::TriangleDown),
];

/// Tier of the stage of a name, as it is called; `None` for what is about none, such as an allocation.
pub fn tier(stage: &str) -> Option<&'static str> {
    TIERS.into_iter().find(|tier| stage.split(", ").any(|word| word == *tier))
}

/// Colour and marker of the stage of a name. What is about no tier, such as an allocation, has the last hue, which no tier
/// has and nothing chosen.
pub(super) fn look(stage: &str) -> (&'static str, MarkerShape) {
    let axis = AXES.into_iter().find(|(name, _)| stage.starts_with(name));
    let marker = axis.map_or(MarkerShape::Circle, |(_, marker)| marker);
    let tier = tier(stage).and_then(|tier| TIERS.iter().position(|known| *known == tier));
    (COLOURS[tier.unwrap_or(COLOURS.len() - 1)], marker)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_stages_of_a_search_over_all_axes_look_alike() {
        let mut stages: Vec<String> =
            ["global", "block", "module", "matrix", "vectors"].map(str::to_owned).to_vec();
        for axis in ["activations", "membranes"] {
            let tiers =
                if axis == "membranes" { &["global", "block", "population"][..] } else { &TIERS[..4] };
            stages.extend(tiers.iter().map(|tier| format!("{axis}, {tier}")));
        }
        let looks: HashSet<String> = stages.iter().map(|stage| format!("{:?}", look(stage))).collect();
        assert_eq!((looks.len(), stages.len()), (12, 12));
        assert!(stages.iter().all(|stage| look(stage).0 != super::super::CHOSEN), "that is the chosen one's");
        // Hue is the tier, shape the axis.
        assert_eq!(look("block").0, look("membranes, block").0);
        assert_eq!(look("activations, block").1, look("activations, matrix").1);
    }
}
