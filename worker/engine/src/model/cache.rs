//! Prefix cache and weight cache: evaluations of candidates of one network reuse what was computed for
//! others.
//!
//! A search evaluates thousands of nearly equal networks. The residual stream that enters a block follows
//! from the embedding and the blocks before it, the *prefix*; candidates that agree on it hit the *prefix
//! cache*, sequence by sequence, and go on from that block. A matrix under a scheme is the same matrix in
//! every candidate: the *weight cache* has it by unit and scheme. Both are bounded in bytes, and keep longest
//! what was used again; a matrix that a model still has is shared even when there is no room for it. A hit is what
//! would be computed, to the bit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use qslm_common::candidate::{Candidate, VECTORS};
use qslm_common::hash::ContentHash;
use qslm_common::network::{Network, UnitPlace, population_name};
use qslm_common::scheme::Scheme;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::linear::Matrix;
use super::live::{Held, Live, WeakMatrix};

/// Entries that a cache is prepared for; more or fewer are as well.
const EXPECTED: usize = 16 * 1024;
/// Share of a cache for entries that had hits. A search goes on from what it computed last, of which nothing
/// had a hit yet, so that needs as much.
const USED_AGAIN: f64 = 0.5;

/// The prefix cache and the weight cache of a process.
pub struct Caches {
    prefixes: Cache<PrefixKey, Arc<Prefix>, Bytes>,
    linears: Cache<MatrixKey, Matrix, Bytes>,
    embeddings: Cache<MatrixKey, Arc<Vec<f32>>, Bytes>,
    live_linears: Live<MatrixKey, WeakMatrix>,
    live_embeddings: Live<MatrixKey, Weak<Vec<f32>>>,
    computed: AtomicU64,
    reused: AtomicU64,
}

/// Name of an entry of the prefix cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PrefixKey {
    /// Data and everything else that decides the stream but the candidate.
    pub(super) of: ContentHash,
    /// The candidate's choices before the block border: one of [`prefix_keys`].
    pub(super) prefix: ContentHash,
    /// Index of the sequence in the data.
    pub(super) sequence: usize,
}

/// Name of an entry of the weight cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct MatrixKey {
    /// Checkpoint and backend.
    pub(super) of: ContentHash,
    pub(super) unit: String,
    pub(super) scheme: Scheme,
    /// The artifact that holds its codes, if one does.
    pub(super) artifact: Option<ContentHash>,
    /// Codes for a product of integers, or floats.
    pub(super) as_codes: bool,
}

/// An entry of the prefix cache: the residual stream of a whole sequence, `[time, channel]`, between two
/// blocks, and the spikes of the populations before it.
pub(super) struct Prefix {
    pub(super) residual: Vec<f32>,
    pub(super) spikes: Vec<u64>,
}

/// Arithmetic of evaluations with a prefix cache, in multiply-accumulates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reuse {
    /// Misses, and the head, which is computed in any case.
    pub computed: u64,
    /// Hits of the prefix cache.
    pub reused: u64,
}

impl Reuse {
    /// The share of all that was computed, 0 to 1; `None` if there was nothing to compute. `spared` are
    /// multiply-accumulates that pruning and subsets saved.
    pub fn computed_share(self, spared: u64) -> Option<f64> {
        let all = self.computed + self.reused + spared;
        (all > 0).then(|| self.computed as f64 / all as f64)
    }
}

impl Caches {
    /// Caches of up to `bytes` together: half of them prefixes, three eighths linears, the rest embeddings.
    pub fn new(bytes: u64) -> Self {
        Self {
            prefixes: cache(bytes / 2),
            linears: cache(bytes / 8 * 3),
            embeddings: cache(bytes / 8),
            live_linears: Live::default(),
            live_embeddings: Live::default(),
            computed: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        }
    }

    /// Hits and misses of the prefix cache so far.
    pub fn reuse(&self) -> Reuse {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reuse { computed: read(&self.computed), reused: read(&self.reused) }
    }

    /// A linear under a scheme, made now on a miss.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn linear<E>(
        &self,
        key: MatrixKey,
        make: impl FnOnce() -> Result<Matrix, E>,
    ) -> Result<Matrix, E> {
        get_or_make(&self.linears, &self.live_linears, key, make)
    }

    /// An embedding under a scheme, `[vocabulary, channel]`, made now on a miss.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn embedding<E>(
        &self,
        key: MatrixKey,
        make: impl FnOnce() -> Result<Arc<Vec<f32>>, E>,
    ) -> Result<Arc<Vec<f32>>, E> {
        get_or_make(&self.embeddings, &self.live_embeddings, key, make)
    }

    pub(super) fn prefix(&self, key: &PrefixKey) -> Option<Arc<Prefix>> {
        self.prefixes.get(key)
    }

    pub(super) fn insert_prefix(&self, key: PrefixKey, prefix: Prefix) {
        self.prefixes.insert(key, Arc::new(prefix));
    }

    /// Counts multiply-accumulates.
    pub(super) fn count(&self, computed: u64, reused: u64) {
        self.computed.fetch_add(computed, Ordering::Relaxed);
        self.reused.fetch_add(reused, Ordering::Relaxed);
    }
}

fn get_or_make<H: Held, E>(
    cache: &Cache<MatrixKey, H::Value, Bytes>,
    live: &Live<MatrixKey, H>,
    key: MatrixKey,
    make: impl FnOnce() -> Result<H::Value, E>,
) -> Result<H::Value, E>
where
    Bytes: Weighter<MatrixKey, H::Value>,
{
    if let Some(value) = cache.get(&key) {
        return Ok(value);
    }
    let value = match live.get(&key) {
        Some(value) => value,
        // Two threads may make the same at once; both are right, and one of them stays.
        None => live.keep(key.clone(), make()?),
    };
    cache.insert(key, value.clone());
    Ok(value)
}

fn cache<Key: std::hash::Hash + Eq, Value: Clone>(bytes: u64) -> Cache<Key, Value, Bytes>
where
    Bytes: Weighter<Key, Value>,
{
    // One shard: an entry may be as large as the whole, and they are few.
    let mut options = OptionsBuilder::new();
    options.estimated_items_capacity(EXPECTED).weight_capacity(bytes).hot_allocation(USED_AGAIN).shards(1);
    match options.build() {
        Ok(options) => {
            let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
            Cache::with_options(options, Bytes, hasher, lifecycle)
        }
        Err(_) => Cache::with_weighter(EXPECTED, bytes, Bytes),
    }
}

/// Weighs by bytes of memory.
#[derive(Debug, Clone, Copy)]
struct Bytes;

impl Weighter<PrefixKey, Arc<Prefix>> for Bytes {
    fn weight(&self, _: &PrefixKey, prefix: &Arc<Prefix>) -> u64 {
        (size_of::<PrefixKey>() + size_of::<Prefix>() + 4 * prefix.residual.len() + 8 * prefix.spikes.len())
            as u64
    }
}

impl Weighter<MatrixKey, Matrix> for Bytes {
    fn weight(&self, key: &MatrixKey, matrix: &Matrix) -> u64 {
        (size_of::<MatrixKey>() + key.unit.len() + matrix.bytes()) as u64
    }
}

impl Weighter<MatrixKey, Arc<Vec<f32>>> for Bytes {
    fn weight(&self, key: &MatrixKey, matrix: &Arc<Vec<f32>>) -> u64 {
        (size_of::<MatrixKey>() + key.unit.len() + 4 * matrix.len()) as u64
    }
}

/// Keys of the prefix cache: a hash at each block border, from the one before the first block to the one
/// after the last, of all choices of the candidate that decide the residual stream there.
pub(super) fn prefix_keys(network: &Network, candidate: &Candidate) -> Vec<ContentHash> {
    let mut text = format!("qslm prefix 1\nvectors {}\n", candidate.vectors());
    if let Some(artifact) = candidate.codes_of(VECTORS) {
        text.push_str(&format!("from {artifact}\n"));
    }
    let units = network.units();
    let embedding = units.iter().find(|unit| matches!(unit.place, UnitPlace::Embedding));
    // Only its signs are read if it is binary, and a float and a sign say the same of them.
    let scheme = embedding.map_or(Scheme::Float, |unit| candidate.scheme(&unit.name));
    let scheme = if network.binary_embedding && scheme == Scheme::Sign { Scheme::Float } else { scheme };
    text.push_str(&format!("emb {scheme}"));
    if let Some(artifact) = embedding.and_then(|unit| candidate.codes_of(&unit.name)) {
        text.push_str(&format!(" from {artifact}"));
    }
    text.push('\n');
    let mut prefix = ContentHash::of(text.as_bytes());
    let mut all = vec![prefix];
    for block in 0..network.blocks {
        let mut text = format!("{prefix}\n");
        let within = format!("blocks.{block}.");
        for unit in units.iter().filter(|unit| unit.name.starts_with(&within)) {
            text.push_str(&format!("{} {}", unit.name, candidate.scheme(&unit.name)));
            if let Some(artifact) = candidate.codes_of(&unit.name) {
                text.push_str(&format!(" from {artifact}"));
            }
            if let Some(activation) = candidate.activation(&unit.name) {
                text.push_str(&format!(" {activation}"));
            }
            text.push('\n');
        }
        for population in network.populations_of(block as usize).into_iter().flatten() {
            if let Some(membrane) = candidate.membrane(&population_name(population)) {
                text.push_str(&format!("{population} {membrane}\n"));
            }
        }
        prefix = ContentHash::of(text.as_bytes());
        all.push(prefix);
    }
    all
}

#[cfg(test)]
mod tests {
    use qslm_common::network::Dynamics;

    use super::*;
    use crate::kernels::product::Packed;

    fn network() -> Network {
        Network {
            vocabulary: 32,
            channels: 16,
            hidden: 64,
            blocks: 3,
            outputs: 32,
            binary_embedding: true,
            dynamics: Dynamics::SPIKEGPT,
        }
    }

    /// Number of block borders with a prefix that two candidates share.
    fn common(a: &Candidate, b: &Candidate) -> usize {
        let (a, b) = (prefix_keys(&network(), a), prefix_keys(&network(), b));
        a.iter().zip(&b).take_while(|(a, b)| a == b).count()
    }

    #[test]
    fn candidates_have_the_prefix_before_their_first_difference_in_common() {
        let float = Candidate::float(&network());
        let int4: Scheme = "int4:symmetric:channel".parse().unwrap();
        let with = |unit: &str| float.clone().with([unit], int4);
        assert_eq!(common(&float, &float), 4);
        assert_eq!(common(&float, &with("head.weight")), 4);
        assert_eq!(common(&float, &with("blocks.2.ffn.value.weight")), 3);
        assert_eq!(common(&float, &with("blocks.0.att.key.weight")), 1);
        assert_eq!(common(&float, &with("emb.weight")), 0);
        assert_eq!(common(&float, &float.clone().with(["emb.weight"], Scheme::Sign)), 4, "the same signs");
        assert_eq!(common(&float, &float.clone().with_vectors(Scheme::Half)), 0);
        let gptq: Scheme = "int4:symmetric:channel:gptq".parse().unwrap();
        let from = |artifact: &[u8]| {
            let key = "blocks.1.att.key.weight";
            float.clone().with([key], gptq).with_codes([key], Some(ContentHash::of(artifact)))
        };
        assert_eq!((common(&from(b"a"), &from(b"a")), common(&from(b"a"), &from(b"b"))), (4, 2));
        let by_frequency: Scheme = "int4:full:channel:frequency".parse().unwrap();
        let embedding = |artifact: &[u8]| {
            let with = float.clone().with(["emb.weight"], by_frequency);
            with.with_codes(["emb.weight"], Some(ContentHash::of(artifact)))
        };
        assert_eq!(common(&embedding(b"a"), &embedding(b"a")), 4);
        assert_eq!(common(&embedding(b"a"), &embedding(b"b")), 0, "the same scheme of other data");
        let activation =
            float.clone().with_activations(["blocks.1.att.key.weight"], "int8:affine:dynamic".parse().ok());
        assert_eq!(common(&float, &activation), 2);
        let membrane = float.clone().with_membranes(["blocks.1.lif1"], "fixed8:2".parse().ok());
        assert_eq!(common(&float, &membrane), 2, "{:?}", network().populations());
    }

    #[test]
    fn a_matrix_that_a_model_has_is_shared_though_there_is_no_room_for_it() {
        let caches = Caches::new(0);
        let key = || MatrixKey {
            of: ContentHash::of(b"checkpoint"),
            unit: "emb.weight".to_owned(),
            scheme: Scheme::Float,
            artifact: None,
            as_codes: false,
        };
        let embedding =
            |value: f32| caches.embedding(key(), || Ok::<_, ()>(Arc::new(vec![value; 1000]))).unwrap();
        let matrix = |value: f32| {
            let packed = Matrix::Packed(Arc::new(Packed::new(&vec![value; 1000], 10)));
            match caches.linear(key(), || Ok::<_, ()>(packed)) {
                Ok(Matrix::Packed(packed)) => packed,
                _ => panic!("it was packed"),
            }
        };
        let (first, packed) = (embedding(1.0), matrix(1.0));
        assert!(Arc::ptr_eq(&first, &embedding(2.0)) && Arc::ptr_eq(&packed, &matrix(2.0)));
        drop((first, packed));
        assert_eq!(embedding(3.0)[0], 3.0, "nobody had it any more");
        assert_eq!(caches.live_embeddings.len(), 1, "what is gone is forgotten");
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let caches = Caches::new(200_000);
        let (of, prefix) = (ContentHash::of(b"data"), ContentHash::of(b"prefix"));
        let key = |sequence: usize| PrefixKey { of, prefix, sequence };
        for sequence in 0..100 {
            caches.insert_prefix(key(sequence), Prefix { residual: vec![0.0; 1000], spikes: vec![] });
        }
        let kept = (0..100).filter(|sequence| caches.prefix(&key(*sequence)).is_some()).count();
        assert!((1..=25).contains(&kept), "{kept} of 4 kB in 100 kB");
    }
}
