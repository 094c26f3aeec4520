//! Rules and ties: units with a ladder of their own, and matrices that move together.

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::{Axis, Group, InvalidSpace, Space};
use crate::network::{EMBEDDING, MATRICES, Network};
use crate::scheme::Scheme;

/// Rule: the ladder of the units whose names match a pattern. Of several that match a unit, the last one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Pattern of names, with or without `.weight`; `*` stands for any text: `blocks.*.ffn.*`, `head`.
    pub units: String,
    /// Schemes from the largest to the smallest.
    pub schemes: Vec<Scheme>,
}

impl Rule {
    /// True if a unit goes by it.
    pub fn matches(&self, unit: &str) -> bool {
        let pattern = WildMatch::new(&self.units);
        pattern.matches(unit) || unit.strip_suffix(".weight").is_some_and(|short| pattern.matches(short))
    }
}

impl Space {
    /// Schemes of the ladder and of all rules.
    pub fn all_schemes(&self) -> impl Iterator<Item = Scheme> {
        self.ladder().chain(self.rules.iter().flat_map(|rule| rule.schemes.iter().copied()))
    }

    /// The ladder that a rule gives to a unit; `None` if it has the one of the space.
    pub(super) fn ladder_by_rule(&self, unit: &str) -> Option<&[Scheme]> {
        if unit == EMBEDDING && !self.embedding.moves() {
            return None;
        }
        let rule = self.rules.iter().rev().find(|rule| rule.matches(unit))?;
        Some(&rule.schemes)
    }

    /// The scheme of a ladder by rule beside one of the space's: the first that takes no more bits, else the last.
    pub(super) fn beside(ladder: &[Scheme], scheme: Scheme) -> Scheme {
        let bits = scheme.bits_about();
        let narrow = ladder.iter().find(|own| own.bits_about() <= bits);
        narrow.or(ladder.last()).copied().unwrap_or(scheme)
    }

    /// Schemes of a group's members at each of its levels. Members that share a ladder by rule take its schemes; others move
    /// along the ladder of the space, each to the scheme of its own beside it.
    pub(super) fn steps(&self, group: &Group) -> Vec<Vec<Scheme>> {
        let mut ladders = group.members.iter().map(|unit| self.ladder_by_rule(unit));
        let first = ladders.next().flatten();
        if let Some(own) = first.filter(|own| ladders.all(|other| other == Some(own))) {
            let at = |scheme: &Scheme| group.members.iter().map(|unit| self.of_unit(*scheme, unit)).collect();
            return own.iter().map(at).collect();
        }
        let at = |level| group.members.iter().map(|unit| self.scheme(unit, level)).collect();
        let mut steps: Vec<Vec<Scheme>> = (0..self.levels(Axis::Weights)).map(at).collect();
        // Where all have reached their last scheme, nothing moves.
        steps.dedup();
        steps
    }

    /// Checks rules and ties against the network.
    pub(super) fn validate_rules(&self, network: &Network) -> Result<(), InvalidSpace> {
        let units = network.units();
        for rule in &self.rules {
            let mut matched = units.iter().filter(|unit| rule.matches(&unit.name)).peekable();
            if matched.peek().is_none() {
                return Err(InvalidSpace::NoUnit(rule.units.clone()));
            }
            if rule.schemes.is_empty() {
                return Err(InvalidSpace::EmptyRule(rule.units.clone()));
            }
            let matched: Vec<_> = matched.collect();
            self.check_order(&rule.schemes, &matched)?;
        }
        let mut seen: Vec<&str> = Vec::new();
        for tie in &self.ties {
            let half = |matrix: &str| matrix.split('.').next().map(str::to_owned);
            let apart = tie.iter().any(|matrix| half(matrix) != tie.first().and_then(|first| half(first)));
            for matrix in tie {
                if !MATRICES.contains(&matrix.as_str()) || seen.contains(&matrix.as_str()) {
                    return Err(InvalidSpace::Tied(matrix.clone()));
                }
                seen.push(matrix);
            }
            if tie.len() < 2 || apart {
                return Err(InvalidSpace::LooseTie(tie.join(", ")));
            }
        }
        Ok(())
    }

    /// Joins the matrices of each block that are tied, at the place of the first.
    pub(super) fn tied(&self, groups: Vec<Group>) -> Vec<Group> {
        let tie_of = |group: &Group| {
            let [unit] = group.members.as_slice() else { return None };
            let matrix = unit.strip_suffix(".weight")?;
            let (block, at) = MATRICES.iter().find_map(|name| Some((matrix.strip_suffix(name)?, *name)))?;
            let tie = self.ties.iter().position(|tie| tie.iter().any(|name| name == at))?;
            Some((block.to_owned(), tie))
        };
        let mut joined: Vec<(Option<(String, usize)>, Group)> = Vec::new();
        for group in groups {
            let tie = tie_of(&group);
            let with = joined.iter_mut().find(|(other, _)| tie.is_some() && *other == tie);
            match with {
                Some((_, first)) => {
                    let short = group.name.strip_suffix(".weight").unwrap_or(&group.name);
                    let last = short.rsplit('.').next().unwrap_or(short);
                    first.name =
                        format!("{}+{last}", first.name.strip_suffix(".weight").unwrap_or(&first.name));
                    first.members.extend(group.members);
                }
                None => joined.push((tie, group)),
            }
        }
        joined.into_iter().map(|(_, group)| group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Embedding;
    use super::super::tests::space;
    use super::*;
    use crate::candidate::Candidate;
    use crate::network::tests::PUBLISHED;
    use crate::space::Tier;

    fn schemes(all: &[&str]) -> Vec<Scheme> {
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ruled() -> Space {
        let mut space = space(&[8, 6, 4, 3, 2], Embedding::Sign);
        let rule = |units: &str, all: &[&str]| Rule { units: units.to_owned(), schemes: schemes(all) };
        space.rules = vec![
            rule("blocks.*.ffn.*", &["int4:symmetric:channel", "int3:symmetric:channel"]),
            rule("head", &["int8:symmetric:channel"]),
        ];
        space
    }

    fn names(candidate: &Candidate, units: &[&str]) -> Vec<String> {
        units.iter().map(|unit| candidate.scheme(unit).to_string()).collect()
    }

    #[test]
    fn a_rule_gives_units_a_ladder_of_their_own() {
        let space = ruled();
        assert_eq!(space.validate(&PUBLISHED), Ok(()));
        let groups = space.groups(&PUBLISHED, Axis::Weights, Tier::Matrix);
        let levels = |name: &str| groups.iter().find(|group| group.name == name).unwrap().levels;
        assert_eq!(levels("blocks.3.att.key.weight"), 5);
        assert_eq!(levels("blocks.3.ffn.value.weight"), 2);
        assert!(
            !groups.iter().any(|group| group.name == "head.weight"),
            "it has one scheme and does not move"
        );
        // A block of both moves along the ladder of the space.
        let blocks = space.groups(&PUBLISHED, Axis::Weights, Tier::Block);
        assert_eq!(blocks[0].levels, 5);
        let units = ["blocks.0.att.key.weight", "blocks.0.ffn.key.weight", "head.weight"];
        let at = |level| names(&space.uniform(&PUBLISHED, level), &units);
        assert_eq!(at(0), ["int8:symmetric:channel", "int4:symmetric:channel", "int8:symmetric:channel"]);
        assert_eq!(at(4), ["int2:symmetric:channel", "int3:symmetric:channel", "int8:symmetric:channel"]);
        let placed = space.place(space.uniform(&PUBLISHED, 0), &blocks[0], 3);
        assert_eq!(names(&placed, &units[..2]), ["int3:symmetric:channel", "int3:symmetric:channel"]);
    }

    #[test]
    fn a_level_of_a_group_is_told_from_a_candidate() {
        let space = ruled();
        for tier in [Tier::Global, Tier::Block, Tier::Module, Tier::Matrix] {
            for group in space.groups(&PUBLISHED, Axis::Weights, tier) {
                for level in 0..group.levels {
                    let placed = space.place(Candidate::float(&PUBLISHED), &group, level);
                    assert_eq!(space.level_of(&placed, &group), Some(level), "{}", group.name);
                }
                assert_eq!(space.level_of(&Candidate::float(&PUBLISHED), &group), None);
            }
        }
    }

    #[test]
    fn tied_matrices_of_a_block_move_together_and_all_units_are_there_once() {
        let mut space = ruled();
        space.ties = vec![["att.key", "att.value", "att.receptance"].map(str::to_owned).to_vec()];
        assert_eq!(space.validate(&PUBLISHED), Ok(()));
        let groups = space.groups(&PUBLISHED, Axis::Weights, Tier::Matrix);
        assert_eq!(groups[0].name, "blocks.0.att.key+value+receptance");
        assert_eq!(groups[0].members.len(), 3);
        assert_eq!(groups.len(), 126 - 2 * 18);
        let members: Vec<_> = groups.iter().flat_map(|group| &group.members).collect();
        assert_eq!(members.len(), 126);
        assert_eq!(space.groups(&PUBLISHED, Axis::Weights, Tier::Module).len(), 36);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let refused = |change: &dyn Fn(&mut Space)| {
            let mut space = ruled();
            change(&mut space);
            space.validate(&PUBLISHED).unwrap_err().to_string()
        };
        assert_eq!(
            refused(&|space| space.rules[0].units = "blocks.*.fnn.*".to_owned()),
            "rule.units = \"blocks.*.fnn.*\": matches no unit; they are called emb, blocks.0.att.key and so on, \
             and head"
        );
        assert_eq!(
            refused(&|space| space.rules[1].schemes.clear()),
            "rule of \"head\": expected at least one scheme"
        );
        let tie = |names: &[&str]| vec![names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
        assert_eq!(
            refused(&|space| space.ties = tie(&["att.key", "att.kye"])),
            "tie: \"att.kye\": expected att.key, att.value, att.receptance, att.output, ffn.key, ffn.value or \
             ffn.receptance, each once"
        );
        assert!(refused(&|space| space.ties = tie(&["att.key"])).starts_with("tie = [att.key]: expected"));
        assert!(refused(&|space| space.ties = tie(&["att.key", "ffn.key"])).contains("of one half"));
    }
}
