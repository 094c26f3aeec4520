//! The ladder of weights: the schemes that a unit may take, from the largest to the smallest.

use std::collections::{BTreeMap, BTreeSet};

use super::{Axis, Embedding, InvalidSpace, Rule, Space};
use crate::candidate::Candidate;
use crate::footprint::{stored_bytes, vector_bytes};
use crate::network::{EMBEDDING, HEAD, Network, Unit};
use crate::scheme::{Format, Granularity, Quantizer, Rounding, Scheme, Symmetry, Width};
use crate::storage::Storage;

impl Space {
    /// Checks the ladder of weights.
    pub(super) fn validate_ladder(&self, network: &Network) -> Result<(), InvalidSpace> {
        if self.schemes.is_empty() {
            check_ladder("", &self.bits)?;
        } else if !self.bits.is_empty() {
            return Err(InvalidSpace::TwoLadders);
        }
        for scheme in self.all_schemes() {
            scheme.validate().map_err(|error| InvalidSpace::Scheme { scheme, error })?;
            if scheme.is_trained() {
                return Err(InvalidSpace::Trained(scheme));
            }
            if scheme.is_by_frequency() && !network.predicts_tokens() {
                return Err(InvalidSpace::NoTokens(scheme));
            }
        }
        let mut roundings = std::iter::once(&self.rounding).chain(&self.more_roundings).enumerate();
        let twice = roundings.find(|(index, rounding)| self.more_roundings[*index..].contains(rounding));
        if let Some((_, rounding)) = twice {
            return Err(InvalidSpace::TwiceRounded(*rounding));
        }
        let units = network.units();
        self.check_order(&self.schemes, &units.iter().collect::<Vec<_>>())?;
        if self.is_coded() {
            for (unit, scheme) in self.unit_schemes(network) {
                let is_integer = matches!(scheme, Scheme::Integer { .. });
                if is_integer && self.coded.get(&unit.name, scheme).is_none() {
                    return Err(InvalidSpace::NoSize(unit.name, scheme));
                }
            }
        }
        let of_embedding = || self.unit_schemes(network).filter(|(unit, _)| unit.name == EMBEDDING);
        if self.embedding == Embedding::Frequency
            && of_embedding().all(|(_, scheme)| !scheme.is_by_frequency())
        {
            return Err(InvalidSpace::NoFrequency);
        }
        let has_codes = |unit: &Unit| unit.is_linear() || self.embedding == Embedding::Frequency;
        let missing = |unit: &&Unit| has_codes(unit) && !self.codes.contains_key(&unit.name);
        match units.iter().find(missing) {
            Some(unit) if self.all_schemes().any(Scheme::is_calibrated) => {
                Err(InvalidSpace::NoCodes(unit.name.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Checks that schemes are listed once, and the largest first.
    pub(super) fn check_order(&self, schemes: &[Scheme], units: &[&Unit]) -> Result<(), InvalidSpace> {
        let mut before = u64::MAX;
        for (index, scheme) in schemes.iter().enumerate() {
            if *scheme == Scheme::Sign || schemes[..index].contains(scheme) {
                return Err(InvalidSpace::Listed(*scheme));
            }
            if scheme.step().is_some() && !self.is_coded() {
                return Err(InvalidSpace::Uncoded(*scheme));
            }
            let bytes = self.bytes_under(*scheme, units);
            if bytes > before {
                return Err(InvalidSpace::Grows(*scheme));
            }
            before = bytes;
        }
        Ok(())
    }

    /// Bytes of units under a scheme.
    fn bytes_under(&self, scheme: Scheme, units: &[&Unit]) -> u64 {
        units.iter().map(|unit| stored_bytes(unit, self.of_unit(scheme, &unit.name), &self.coded)).sum()
    }

    /// True if files may hold entropy-coded codes.
    pub fn is_coded(&self) -> bool {
        self.storage.contains(&Storage::Rans)
    }

    /// Orders listed schemes by what their units take under them, the largest first: what entropy-coded codes take is not
    /// known to whoever lists them.
    pub fn sort_by_size(&mut self, network: &Network) {
        let units = network.units();
        let schemes = self.largest_first(&self.schemes, &units.iter().collect::<Vec<_>>());
        let of_rule = |rule: &Rule| {
            let matched: Vec<&Unit> = units.iter().filter(|unit| rule.matches(&unit.name)).collect();
            Rule { units: rule.units.clone(), schemes: self.largest_first(&rule.schemes, &matched) }
        };
        let rules = self.rules.iter().map(of_rule).collect();
        (self.schemes, self.rules) = (schemes, rules);
    }

    /// These schemes by what units take under them, the largest first.
    pub fn largest_first(&self, schemes: &[Scheme], units: &[&Unit]) -> Vec<Scheme> {
        let mut schemes = schemes.to_vec();
        schemes.sort_by_cached_key(|scheme| std::cmp::Reverse(self.bytes_under(*scheme, units)));
        schemes
    }

    /// Every unit with every scheme that it may take.
    pub fn unit_schemes(&self, network: &Network) -> impl Iterator<Item = (Unit, Scheme)> {
        let levels = self.levels(Axis::Weights);
        let of_unit = move |unit: Unit| {
            let schemes: BTreeSet<_> = match self.ladder_by_rule(&unit.name) {
                Some(own) => own.iter().map(|scheme| self.of_unit(*scheme, &unit.name)).collect(),
                None => (0..levels).map(|level| self.scheme(&unit.name, level)).collect(),
            };
            schemes.into_iter().map(move |scheme| (unit.clone(), scheme))
        };
        network.units().into_iter().flat_map(of_unit)
    }

    /// Schemes of the ladder of weights, the widest first.
    pub fn ladder(&self) -> impl Iterator<Item = Scheme> {
        let at = move |width: Width| {
            let all = std::iter::once(self.rounding).chain(self.more_roundings.iter().copied());
            // A float is rounded in one way.
            let count = if matches!(width, Width::Integer(_)) { usize::MAX } else { 1 };
            all.take(count).map(move |rounding| self.at(width, self.symmetry, self.granularity, rounding))
        };
        self.schemes.iter().copied().chain(self.bits.iter().copied().flat_map(at))
    }

    /// The scheme of `unit` at `level` of the space's ladder, 0 being the widest. The embedding may have one scheme at all
    /// levels; a unit with a ladder by rule has the scheme of its own beside it.
    pub fn scheme(&self, unit: &str, level: usize) -> Scheme {
        match (unit, self.embedding) {
            (EMBEDDING, Embedding::Sign) => Scheme::Sign,
            (EMBEDDING, Embedding::Float) => Scheme::Float,
            _ => {
                let scheme = self.ladder().take(level + 1).last().unwrap_or(Scheme::Float);
                let own = self.ladder_by_rule(unit).map(|own| Self::beside(own, scheme));
                self.of_unit(own.unwrap_or(scheme), unit)
            }
        }
    }

    /// The scheme that a unit has in the place of one of a ladder. Nothing is multiplied with the embedding, so inputs
    /// calibrate none of its codes; the only matrices whose rows are tokens are it and the head.
    pub(super) fn of_unit(&self, scheme: Scheme, unit: &str) -> Scheme {
        match unit {
            EMBEDDING if self.embedding == Embedding::Frequency && scheme.is_by_frequency() => scheme,
            EMBEDDING => scheme.uncalibrated(),
            HEAD => scheme,
            _ => scheme.without_frequency(),
        }
    }

    /// Bits below which [`Space::narrow_range`] holds.
    const NARROW: u8 = 4;

    pub(super) fn at(
        &self,
        width: Width,
        symmetry: Symmetry,
        granularity: Granularity,
        rounding: Rounding,
    ) -> Scheme {
        let scales = self.scales;
        match width {
            Width::Float => Scheme::Float,
            Width::Half => Scheme::Half,
            Width::Integer(bits) => {
                let narrow = self.narrow_range.filter(|_| bits.get() < Self::NARROW);
                let range = narrow.unwrap_or(self.range);
                let format = Format { bits, symmetry: symmetry.of_width(bits), granularity, scales };
                Scheme::Integer { format, quantizer: Quantizer { rounding, range } }
            }
        }
    }

    /// Bytes of the smallest candidate of the space: every unit under the scheme that takes least.
    pub fn smallest_footprint(&self, network: &Network) -> u64 {
        let mut least = BTreeMap::<String, u64>::new();
        for (unit, scheme) in self.unit_schemes(network) {
            let bytes = stored_bytes(&unit, scheme, &self.coded);
            least.entry(unit.name).and_modify(|least| *least = bytes.min(*least)).or_insert(bytes);
        }
        let vectors = self.vector_scheme(self.levels(Axis::Vectors).saturating_sub(1));
        let vectors = Candidate::float(network).with_vectors(vectors);
        least.values().sum::<u64>() + vector_bytes(network, &vectors)
    }
}

/// Checks that a ladder has levels, in order.
pub(super) fn check_ladder<T: PartialOrd>(of: &'static str, bits: &[T]) -> Result<(), InvalidSpace> {
    if bits.is_empty() {
        return Err(InvalidSpace::NoBits(of));
    }
    if bits.windows(2).any(|pair| pair[0] <= pair[1]) {
        return Err(InvalidSpace::Order(of));
    }
    Ok(())
}
