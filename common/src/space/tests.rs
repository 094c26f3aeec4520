//! What a space offers, and what it refuses.

use super::*;
use crate::network::tests::PUBLISHED;
use crate::scheme::Span;

pub(crate) fn space(bits: &[u8], embedding: Embedding) -> Space {
    Space::of(bits.iter().map(|bits| Width::try_from(*bits).unwrap()).collect(), embedding)
}

#[test]
fn the_groups_of_every_tier_tile_the_units() {
    let counts = [(Tier::Global, 1), (Tier::Block, 20), (Tier::Module, 38), (Tier::Matrix, 128)];
    let units: Vec<_> = PUBLISHED.units().into_iter().map(|unit| unit.name).collect();
    for (tier, count) in counts {
        let groups = groups(&PUBLISHED, Axis::Weights, tier);
        assert_eq!(groups.len(), count, "{tier:?}");
        let members: Vec<_> = groups.into_iter().flat_map(|group| group.members).collect();
        assert_eq!(members, units);
    }
    let count = |axis, tier| groups(&PUBLISHED, axis, tier).len();
    let tiers = [Tier::Global, Tier::Block, Tier::Module, Tier::Matrix];
    assert_eq!(tiers.map(|tier| count(Axis::Activations, tier)), [1, 19, 37, 127]);
    assert_eq!(tiers.map(|tier| count(Axis::Membranes, tier)), [1, 18, 36, 36]);
}

#[test]
fn a_sign_embedding_stays_put_while_the_rest_moves() {
    let space = space(&[8, 4], Embedding::Sign);
    assert_eq!(space.uniform(&PUBLISHED, 1).scheme("emb.weight"), Scheme::Sign);
    assert_eq!(space.uniform(&PUBLISHED, 1).scheme("head.weight").to_string(), "int4:symmetric:channel");
    let moving = |space: &Space| space.groups(&PUBLISHED, Axis::Weights, Tier::Block)[0].name.clone();
    assert_eq!(moving(&space), "blocks.0");
    assert_eq!(moving(&super::tests::space(&[8], Embedding::Quantize)), "emb");
}

#[test]
fn activations_and_membranes_have_ladders_of_their_own() {
    let mut space = space(&[4], Embedding::Sign);
    assert_eq!(space.axes(), [Axis::Weights]);
    assert!(space.groups(&PUBLISHED, Axis::Membranes, Tier::Block).is_empty());
    let bits = [32, 8].map(|bits| Width::try_from(bits).unwrap()).to_vec();
    let range = Span::new(-1.0, 2.0).unwrap();
    let linears = PUBLISHED.units().into_iter().filter(Unit::is_linear);
    let ranges = linears.map(|unit| (unit.name, range)).collect();
    let calibration = Calibration { data: ContentHash::of(b"text"), sequences: 4, ranges };
    space.activations =
        Some(ActivationSpace { bits, symmetry: Symmetry::Affine, calibration: Some(calibration) });
    space.membranes = Some(MembraneSpace { bits: vec![12, 6], integer_bits: 1 });
    assert_eq!(space.validate(&PUBLISHED), Ok(()));
    let mut candidate = space.uniform(&PUBLISHED, 0);
    for axis in space.axes() {
        let group = &space.groups(&PUBLISHED, axis, Tier::Block)[1];
        candidate = space.place(candidate, group, 1);
    }
    let activations: Vec<_> = candidate.activations().collect();
    assert_eq!(activations.len(), 7);
    assert_eq!(activations[0].0, "blocks.1.att.key.weight");
    assert_eq!(activations[0].1.to_string(), "int8:affine:static:-1:2");
    let membranes: Vec<_> = candidate.membranes().map(|(name, m)| format!("{name} {m}")).collect();
    assert_eq!(membranes, ["blocks.1.lif1 fixed6:1", "blocks.1.lif2 fixed6:1"]);
    assert_eq!(candidate.validate(&PUBLISHED), Ok(()));
}

#[test]
fn floats_are_levels_too() {
    let space = space(&[32, 16, 8], Embedding::Quantize);
    let head = |level| space.uniform(&PUBLISHED, level).scheme("head.weight").to_string();
    assert_eq!([head(0), head(1), head(2)], ["f32", "f16", "int8:symmetric:channel"]);
}

#[test]
fn a_ladder_that_cannot_be_climbed_is_refused() {
    let refused = |change: fn(&mut Space)| {
        let mut space = space(&[4], Embedding::Sign);
        change(&mut space);
        space.validate(&PUBLISHED).unwrap_err().to_string()
    };
    let activations = |bits: &[u8], calibration| {
        let bits = bits.iter().map(|bits| Width::try_from(*bits).unwrap()).collect();
        Some(ActivationSpace { bits, symmetry: Symmetry::Affine, calibration })
    };
    assert!(
        refused(|s| s.membranes = Some(MembraneSpace { bits: vec![17], integer_bits: 0 }))
            .contains("17 bits")
    );
    assert!(
        refused(|s| s.membranes = Some(MembraneSpace { bits: vec![4, 8], integer_bits: 0 }))
            .contains("membranes.bits")
    );
    let mut half = space(&[4], Embedding::Sign);
    half.activations = activations(&[16, 8], None);
    assert_eq!(half.validate(&PUBLISHED), Err(InvalidSpace::HalfActivations));
    let empty = Calibration { data: ContentHash::of(b""), sequences: 1, ranges: Default::default() };
    half.activations = activations(&[8], Some(empty));
    assert_eq!(
        half.validate(&PUBLISHED),
        Err(InvalidSpace::Uncalibrated("blocks.0.att.key.weight".to_owned()))
    );
}

#[test]
fn a_space_that_cannot_be_searched_is_refused() {
    assert_eq!(space(&[], Embedding::Float).validate(&PUBLISHED), Err(InvalidSpace::NoBits("")));
    assert_eq!(space(&[4, 8], Embedding::Float).validate(&PUBLISHED), Err(InvalidSpace::Order("")));
    assert_eq!(space(&[4, 4], Embedding::Float).validate(&PUBLISHED), Err(InvalidSpace::Order("")));
    let real = Network { binary_embedding: false, ..PUBLISHED };
    assert_eq!(space(&[4], Embedding::Sign).validate(&real), Err(InvalidSpace::Sign));
    assert_eq!(space(&[8, 4, 2], Embedding::Sign).validate(&PUBLISHED), Ok(()));
}

/// The schemes of the head from level to level.
fn ladder(space: &Space) -> Vec<String> {
    (0..space.levels(Axis::Weights)).map(|level| space.scheme("head.weight", level).to_string()).collect()
}

/// Codes of every linear in one artifact.
fn codes() -> BTreeMap<String, ContentHash> {
    let linears = PUBLISHED.units().into_iter().filter(Unit::is_linear);
    linears.map(|unit| (unit.name, ContentHash::of(b"codes"))).collect()
}

#[test]
fn several_quantizers_are_levels_of_each_width_and_floats_are_rounded_once() {
    let mut space = space(&[16, 4], Embedding::Quantize);
    space.more_roundings = vec![Rounding::Gptq];
    assert_eq!(space.validate(&PUBLISHED), Err(InvalidSpace::NoCodes("blocks.0.att.key.weight".to_owned())));
    space.codes = codes();
    assert_eq!(space.validate(&PUBLISHED), Ok(()));
    assert_eq!(ladder(&space), ["f16", "int4:symmetric:channel", "int4:symmetric:channel:gptq"]);
    // Nothing is multiplied with the embedding.
    assert_eq!(space.scheme(EMBEDDING, 2).to_string(), "int4:symmetric:channel");
    let last = space.uniform(&PUBLISHED, 2);
    assert_eq!((last.validate(&PUBLISHED), last.codes().count()), (Ok(()), PUBLISHED.units().len() - 1));
    let head = groups(&PUBLISHED, Axis::Weights, Tier::Block).pop().unwrap();
    assert_eq!(space.place(last, &head, 1).codes_of("head.weight"), None);
    space.more_roundings = vec![Rounding::Nearest];
    assert_eq!(space.validate(&PUBLISHED), Err(InvalidSpace::TwiceRounded(Rounding::Nearest)));
}

#[test]
fn an_embedding_has_rows_by_frequency_only_where_the_space_says_so() {
    let frequency = "int3:full:channel:f16:frequency";
    let of = |embedding| {
        let mut space = Space::of(Vec::new(), embedding);
        space.schemes = ["int4:full:channel:f16", frequency].map(|scheme| scheme.parse().unwrap()).to_vec();
        space.codes = codes();
        space
    };
    // As before there was any such thing.
    let before = of(Embedding::Quantize);
    assert_eq!(before.validate(&PUBLISHED), Ok(()));
    assert_eq!(before.scheme(EMBEDDING, 1).to_string(), "int3:full:channel:f16");
    let mut space = of(Embedding::Frequency);
    assert_eq!(space.validate(&PUBLISHED), Err(InvalidSpace::NoCodes(EMBEDDING.to_owned())));
    space.codes.insert(EMBEDDING.to_owned(), ContentHash::of(b"codes of the embedding"));
    assert_eq!(space.validate(&PUBLISHED), Ok(()));
    let last = space.uniform(&PUBLISHED, 1);
    assert_eq!(last.validate(&PUBLISHED), Ok(()));
    assert_eq!(last.scheme(EMBEDDING).to_string(), frequency);
    assert_eq!(last.scheme("blocks.0.att.key.weight").to_string(), "int3:full:channel:f16:descent");
    // Two bits for each row.
    let (rows, _) = PUBLISHED.shape_of(EMBEDDING);
    let more = space.smallest_footprint(&PUBLISHED) - before.smallest_footprint(&PUBLISHED);
    assert_eq!(more, (rows as u64).div_ceil(4));
    let groups = space.groups(&PUBLISHED, Axis::Weights, Tier::Matrix);
    assert!(groups.iter().any(|group| group.members == [EMBEDDING]), "it moves");
    space.schemes.pop();
    assert_eq!(space.validate(&PUBLISHED), Err(InvalidSpace::NoFrequency));
}

#[test]
fn a_ladder_may_be_listed_with_widths_and_steps_and_is_ordered_by_what_its_codes_take() {
    let listed = |schemes: &[&str]| Space {
        schemes: schemes.iter().map(|scheme| scheme.parse().unwrap()).collect(),
        ..Space::of(Vec::new(), Embedding::Sign)
    };
    let refused = |space: &Space| space.validate(&PUBLISHED).unwrap_err().to_string();
    let full = ["int4:full:channel:f16", "int2:full:channel:f16", "int2:ternary:channel:f16"];
    assert_eq!(listed(&full).validate(&PUBLISHED), Ok(()));
    assert_eq!(ladder(&listed(&full)), full);
    assert!(refused(&listed(&["int2:full:channel", "int4:full:channel"])).contains("takes more bytes"));
    assert!(refused(&listed(&["f16", "f16"])).contains("each once"));
    assert!(refused(&listed(&["sign"])).contains("expected float or integer schemes"));
    let both = Space { schemes: listed(&full).schemes, ..space(&[4], Embedding::Sign) };
    assert!(refused(&both).contains("widths are left out"));

    let steps = ["ec1.00:tensor", "ec0.50:tensor"];
    assert!(refused(&listed(&steps)).contains("are for storage with \"rans\""));
    let mut coded = listed(&steps);
    coded.storage = vec![Storage::Packed, Storage::Rans];
    assert!(
        refused(&coded).contains("nobody knows what the entropy-coded codes of blocks.0.att.key.weight take")
    );
    for unit in PUBLISHED.units() {
        for (scheme, bits) in coded.schemes.clone().into_iter().zip([2, 3]) {
            coded.coded.insert(&unit.name, scheme, unit.weights() * bits / 8);
        }
    }
    assert!(refused(&coded).contains("takes more bytes"));
    coded.sort_by_size(&PUBLISHED);
    assert_eq!(
        (coded.validate(&PUBLISHED), ladder(&coded)),
        (Ok(()), vec![steps[1].to_owned(), steps[0].to_owned()])
    );
    let smallest = coded.uniform(&PUBLISHED, 1);
    let bytes = crate::footprint::file_bytes(&PUBLISHED, &smallest, &coded.coded);
    assert_eq!(coded.smallest_footprint(&PUBLISHED), bytes);
}
