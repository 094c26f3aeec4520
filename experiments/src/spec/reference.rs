//! Every key of a spec, as `docs/reference/spec.md` shows them. A test holds the list to what a spec may say.

mod checkpoint;
mod space;
mod task;

use checkpoint::CHECKPOINT;
use qslm_search::{StrategyEntry, registry};
use space::SPACE;
use task::TASK;

/// A table of a spec.
struct Table {
    name: &'static str,
    about: &'static str,
    keys: &'static [Key],
    misspelt: &'static str,
}

/// A table of a spec, as the reference shows it.
pub struct ReferenceTable {
    /// Name as it is written: `[space.activations]`.
    pub name: String,
    /// Purpose.
    pub about: &'static str,
    /// Keys, in the order of reading.
    pub keys: Vec<Key>,
    /// A spec that has an unknown key in this table, for the test.
    #[cfg_attr(not(test), expect(dead_code, reason = "the test asks what the table may say"))]
    misspelt: String,
}

/// All tables, in the order of reading. A strategy describes itself.
pub fn tables() -> Vec<ReferenceTable> {
    let strategies = registry().iter().map(ReferenceTable::from);
    let before =
        TOP.iter().chain(CHECKPOINT).chain(TASK).chain(SPACE).chain(AFTER_SPACE).map(ReferenceTable::from);
    before.chain(strategies).chain(AFTER_STRATEGY.iter().map(ReferenceTable::from)).collect()
}

impl From<&Table> for ReferenceTable {
    fn from(table: &Table) -> Self {
        let (name, misspelt) = (table.name.to_owned(), table.misspelt.to_owned());
        Self { name, about: table.about, keys: table.keys.to_vec(), misspelt }
    }
}

impl From<&StrategyEntry> for ReferenceTable {
    fn from(strategy: &StrategyEntry) -> Self {
        let kind = strategy.kind;
        let keys = strategy.keys.iter().map(|key| (key.name, key.takes, key.default, key.means));
        Self {
            name: format!("[strategy] kind = \"{kind}\""),
            about: strategy.about,
            keys: keys.collect(),
            misspelt: format!("[strategy]\nkind = \"{kind}\"\nx_ = 1"),
        }
    }
}

/// Name; what it takes; what holds if it is left out; what it means.
pub type Key = (&'static str, &'static str, &'static str, &'static str);

const ROOFLINE: &[Key] = &[
    (
        "macs_per_s",
        "number above 0",
        "required",
        "multiply-accumulates per second with floats on either side",
    ),
    ("integer_macs_per_s", "number above 0", "as with floats", "the same of integers by integers"),
    ("bytes_per_s", "bytes above 0", "required", "from the memory that holds the weights"),
];

/// The top level.
const TOP: &[Table] = &[Table {
    name: "top level",
    about: "Relative paths are relative to the spec; those of `--set` to where the command runs.",
    keys: &[
        (
            "name",
            "1 to 64 of a-z 0-9 - _ .",
            "required",
            "what people call the experiment; its id begins with it",
        ),
        (
            "backend",
            "\"native\", \"integer\", \"flex\", \"ndarray\", \"cuda\", \"wgpu\"",
            "\"native\"",
            "what computes matrix products; last bits depend on it. native and integer give the same bits on every \
                 processor: native in floats, and in exact integers where weights and activations are quantized; integer \
                 wherever weights are, which is faster on processors with AMX. flex and ndarray are Burn's; the last two \
                 are graphics cards, for programs built with --features cuda or wgpu",
        ),
        ("checkpoint", "table", "required", "the model"),
        ("task", "table", "required", "data and protocol"),
        ("tasks", "tables by name", "none", "further tasks that every candidate is measured on"),
        ("space", "table", "see below", "what may be chosen"),
        ("constraints", "table", "none", "what has to hold"),
        (
            "objectives",
            "2 or 3 of perplexity, error, kl, firing_rate, tasks.NAME, any cost",
            "quality and footprint",
            "what the front weighs",
        ),
        ("trade_off", "table", "weighted_sum", "what picks one candidate of the front"),
        ("strategy", "table", "qslm", "how candidates are proposed"),
        ("calibration", "table", "none", "what static ranges are read off"),
        (
            "holdout",
            "table",
            "none",
            "data that the search does not see, on which the chosen candidate is measured when it has ended",
        ),
        ("recovery", "table", "none", "training of the smallest candidates when the search is over"),
        ("device", "table", "45 nm energies", "what costs are modelled of"),
        (
            "racing",
            "\"proof\", \"confidence:P\", P from 0.9 to below 1",
            "none",
            "when candidates that lose more quality than the constraints allow are pruned: once their shards so far prove \
                 it, or once a t test of the differences to the float model is that sure. They are not on the front then. The \
                 stage of sensitivity is measured to the end. More run.shards are more moments to decide at",
        ),
        (
            "max_candidates",
            "1 or more",
            "as the strategy has it",
            "candidates that the search proposes at most, the float model and sensitivities included; what [recovery] \
                 trains comes on top. Not for strategy external",
        ),
        ("run", "table", "see below", "what does not change the result"),
    ],
    misspelt: "x_ = 1",
}];

/// Tables after the space and before the strategies.
const AFTER_SPACE: &[Table] = &[
    Table {
        name: "[calibration]",
        about: "One of text and labelled.",
        keys: &[
            ("text", "file", "", "text, cut as the task cuts"),
            ("labelled", "file", "", "labelled sentences"),
            ("sequences", "1 or more", "16", "its first windows or sentences"),
            (
                "damping",
                "0 to 1000",
                "0.1",
                "gptq: added to second moments, as a multiple of their mean; raised by tens until it suffices",
            ),
            ("act_order", "true, false", "false", "gptq: columns by falling second moment of their input"),
        ],
        misspelt: "[calibration]\nx_ = 1",
    },
    Table {
        name: "[recovery]",
        about: "When the search is over, the smallest candidates of the front are trained on workers, and what comes out is measured \
                and stands on the front, too. One of text and labelled, of the task's kind; nothing that rounds activations or membranes.",
        keys: &[
            (
                "trainer",
                "\"qat\", \"block_ap\", \"mrem\"",
                "\"qat\"",
                "qat: end to end, codes, scales and vectors; block_ap (EfficientQAT): block by block, then steps of frozen codes end to end; mrem: modules side by side on as many workers, in rounds",
            ),
            (
                "backend",
                "\"native\", \"cuda\", \"wgpu\"",
                "\"native\"",
                "what finds gradients. native: the same bits everywhere. cuda and wgpu, by Burn's autodiff, for trainer qat: workers whose programs and machines have that graphics card; what they make is of the same quality, and has other bits whenever it is made again",
            ),
            ("text", "file", "", "text that a language model may be trained on"),
            ("labelled", "file", "", "labelled sentences that a classifier may be trained on; trainer qat"),
            (
                "candidates",
                "1 to 1000",
                "1",
                "how many are trained: the smallest, and others spread evenly in bytes up to the chosen one",
            ),
            (
                "reach",
                "1 to 1000000",
                "10",
                "largest loss of one that is trained, as a multiple of the bound on quality",
            ),
            ("window", "1 or more", "that of the task", "tokens of a window; sentences enter whole"),
            ("batch", "1 to 4096", "16", "windows or sentences of a step"),
            (
                "steps",
                "1 to 10000000",
                "400",
                "steps (of each block: block_ap; of each module: mrem); the rate rises for an eighth of them or 50, then falls by a cosine",
            ),
            ("rate", "1e-9 to 1", "5e-4", "highest learning rate"),
            (
                "distillation",
                "0 to 1",
                "1",
                "share of the divergence from the float network's predictions; the rest is cross entropy, which also learns what the float model did not",
            ),
            ("seed", "a number", "0", "seed of the order of windows or sentences"),
            (
                "optimizer",
                "\"adam\", \"lion\"",
                "\"adam\", with int8 \"lion\"",
                "lion wants a third to a tenth of the rate",
            ),
            (
                "states",
                "\"f32\", \"int8\"",
                "\"f32\"",
                "how weights, gradients and moments are held; int8 (QFT) takes lion",
            ),
            (
                "bit_cost",
                "0 to 1000",
                "0",
                "what a bit of the mean code costs, in nats, where an entropy coder stores the codes (schemes with a step)",
            ),
            ("end_to_end_steps", "0 to 10000000", "as steps", "block_ap: steps of the second phase"),
            ("end_to_end_rate", "1e-9 to 1", "3e-3", "block_ap: its rate, as a share of the mean step"),
            (
                "modules",
                "1 to the number of blocks, at most 60",
                "4, or that",
                "mrem: modules, the last with the head",
            ),
            (
                "rounds",
                "1 to the number of steps",
                "4",
                "mrem: rounds; in the first, inputs are the float model's",
            ),
        ],
        misspelt: "[recovery]\nx_ = 1",
    },
    Table {
        name: "[holdout]",
        about: "One of text and labelled, of the task's kind. It decides nothing, so it is no part of the experiment: with it, run and submit --wait measure the chosen candidate once more at the end, and show both numbers.",
        keys: &[
            ("text", "file", "", "text, cut as the task cuts"),
            ("labelled", "file", "", "labelled sentences"),
            ("sequences", "1 or more", "all", "its first windows or sentences"),
        ],
        misspelt: "[holdout]\nx_ = 1",
    },
    Table {
        name: "[constraints]",
        about: "None: the trade-off alone decides.",
        keys: &[
            ("max_perplexity_increase", "0 or more", "none", "against the float model; 0.03 is 3 %"),
            ("max_accuracy_drop", "0 to 1", "none", "as a fraction of all sentences; 0.01 is one point"),
            (
                "max_kl",
                "0 or more",
                "none",
                "mean KL divergence of the predictions from the float model's, in nats per token or sentence",
            ),
            (
                "tasks",
                "table of numbers",
                "{}",
                "largest loss on further tasks, by name: of perplexity relative to the float model's, of accuracy as a fraction",
            ),
            (
                "confident",
                "true or false",
                "false",
                "the bound has to hold at the upper end of the loss's 95 % interval, not for the loss alone",
            ),
            (
                "max_footprint_bytes",
                "bytes: a number, or \"600 kB\" (1,000 B each), \"512 KiB\" (1,024 B each)",
                "none",
                "the largest size of the packed file's tensors",
            ),
            ("min_saving", "below 1", "none", "1 - footprint / float bytes"),
            (
                "max",
                "table of costs",
                "none",
                "the largest value of any cost, in its unit: max = { energy = 1e-4, resident = \"2 MB\" }",
            ),
        ],
        misspelt: "[constraints]\nx_ = 1",
    },
    Table {
        name: "[trade_off] kind = \"weighted_sum\"",
        about: "P/P0 - mu M/M0, with P the performance (1 / perplexity, or accuracy) and 0 for the float model.",
        keys: &[
            ("mu", "0 to 1000", "1 without a table", "what all of the float model's cost is worth"),
            ("cost", "a cost", "\"footprint\"", "M"),
        ],
        misspelt: "[trade_off]\nkind = \"weighted_sum\"\nx_ = 1",
    },
    Table {
        name: "[trade_off] kind = \"product\"",
        about: "(1 - M/M0) exp(-k max(0, 1 - P/P0)).",
        keys: &[
            ("k", "0 to 1000", "required", "how steeply a loss of performance is punished"),
            ("cost", "a cost", "\"footprint\"", "M"),
        ],
        misspelt: "[trade_off]\nkind = \"product\"\nx_ = 1",
    },
    Table {
        name: "[trade_off] kind = \"epsilon_constraint\"",
        about: "The cheapest candidate that meets the constraints; needs a bound on quality.",
        keys: &[("cost", "a cost", "\"footprint\"", "M")],
        misspelt: "[trade_off]\nkind = \"epsilon_constraint\"\nx_ = 1",
    },
];

/// Tables after the strategies.
const AFTER_STRATEGY: &[Table] = &[
    Table {
        name: "[device]",
        about: "What costs are modelled of. A cost whose table is not there is not modelled.",
        keys: &[
            ("energy", "table", "45 nm", "energies of operations and memory accesses"),
            (
                "decodes_in_pieces",
                "true, false",
                "false",
                "it decodes entropy-coded weights for each product, and never holds all of them decoded",
            ),
            ("two_memory", "table", "", "a dense non-volatile memory beside the SRAM"),
            ("latency", "table", "", "speed of its arithmetic and of its memory"),
            ("table", "table", "", "cycles or energy of a product on a chip at hand, by widths"),
            ("split", "table", "", "a remote machine that computes the rest of the network"),
        ],
        misspelt: "[device]\nx_ = 1",
    },
    Table {
        name: "[device.energy]",
        about: "Picojoules per operation of 32 bits or per 32 bits moved; narrower ones cost less in proportion.",
        keys: &[
            ("float_add_pj", "0 or more", "0.9", "one float addition"),
            ("float_mul_pj", "0 or more", "3.7", "one float multiplication"),
            ("integer_add_pj", "0 or more", "0.1", "one integer addition"),
            ("integer_mul_pj", "0 or more", "3.1", "one integer multiplication"),
            ("register_pj", "0 or more", "0.8333", "32 bits from a register"),
            ("sram_pj", "0 or more", "5", "32 bits from SRAM"),
            ("dram_pj", "0 or more", "640", "32 bits from DRAM"),
            ("sram_weights_bytes", "bytes", "0", "on-chip memory that weights stay in"),
            (
                "tokens_per_weight_read",
                "above 0",
                "1",
                "how many tokens of a batch share one read of a weight",
            ),
        ],
        misspelt: "[device.energy]\nx_ = 1",
    },
    Table {
        name: "[device.two_memory]",
        about: "A dense non-volatile memory beside the SRAM.",
        keys: &[
            (
                "nonvolatile",
                "list of units, modules, blocks",
                "required",
                "what it holds: emb, head, blocks.3.att",
            ),
            ("nonvolatile_pj_per_byte", "0 or more", "required", "to read a byte of it"),
            ("sram_pj_per_byte", "0 or more", "required", "to read or write a byte of SRAM"),
            ("nonvolatile_mm2_per_mib", "0 or more", "required", "area of a MiB of it"),
            ("sram_mm2_per_mib", "0 or more", "required", "area of a MiB of SRAM"),
        ],
        misspelt: "[device.two_memory]\nx_ = 1",
    },
    Table {
        name: "[device.latency]",
        about: "A roofline of the device.",
        keys: ROOFLINE,
        misspelt: "[device.latency]\nx_ = 1",
    },
    Table {
        name: "[device.table]",
        about: "What one multiply-accumulate takes on a chip at hand, by the bits of weights, or of weights and activations: \
                {4 = 0.5, 8 = 1, 8x8 = 0.25, 32 = 6}. A product runs on the narrowest entry that is wide enough for both \
                operands; 32 is that of floats, and has to be there.",
        keys: &[
            ("cycles", "widths with numbers above 0", "none", "cycles of a product: cost table_cycles"),
            ("picojoules", "widths with numbers above 0", "none", "energy of a product: cost table_energy"),
        ],
        misspelt: "[device.table]\nx_ = 1",
    },
    Table {
        name: "[device.split]",
        about: "The first blocks on the device, the rest and the head elsewhere.",
        keys: &[
            ("blocks_on_device", "0 to all", "required", "0: the embedding only"),
            ("link_bits", "1 to 32", "32", "per number of the residual on the link"),
            ("link_bytes_per_s", "bytes above 0", "required", "over the link"),
            ("link_latency_s", "0 or more", "required", "that a message takes whatever its size"),
            ("remote", "table", "required", "the remote machine"),
        ],
        misspelt: "[device.split]\nx_ = 1",
    },
    Table {
        name: "[device.split.remote]",
        about: "A roofline of the remote machine.",
        keys: ROOFLINE,
        misspelt: "[device.split]\n[device.split.remote]\nx_ = 1",
    },
    Table {
        name: "[run]",
        about: "",
        keys: &[
            ("shards", "1 to 4096", "4", "per trial; spreads the work, does not change the result"),
            (
                "workers",
                "table",
                "any worker",
                "which workers of a cluster may evaluate it; `qslm run` works here",
            ),
        ],
        misspelt: "[run]\nx_ = 1",
    },
    Table {
        name: "[run.workers]",
        about: "",
        keys: &[
            (
                "cpu_features",
                "list of names",
                "[]",
                "instruction sets, such as \"avx512f\"; `qslm version` lists some",
            ),
            ("memory_bytes", "bytes", "0", "memory that a worker may use"),
            ("labels", "table of texts", "{}", "labels that a worker was started with (`--labels`)"),
        ],
        misspelt: "[run]\n[run.workers]\nx_ = 1",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::written::Spec;
    use super::*;

    /// Keys that have to be there before a table is looked at.
    const BEFORE: &str = "name = \"x\"\ncheckpoint = {}\n";

    #[test]
    fn the_reference_has_every_key_and_no_other() {
        for table in tables() {
            let is_before = table.misspelt.contains("[task]") || table.misspelt.starts_with("name");
            let needed = if is_before { "" } else { "task = { kind = \"perplexity\", window = 1 }\n" };
            let before = if table.misspelt.starts_with("name") { "" } else { BEFORE };
            let spec = match table.name.as_str() {
                "top level" => table.misspelt.clone(),
                _ => format!("{before}{needed}{}", table.misspelt),
            };
            let said = toml::from_str::<Spec>(&spec).unwrap_err().to_string();
            let names: Vec<&str> = said.split('`').skip(1).step_by(2).collect();
            let at = names
                .iter()
                .position(|name| *name == "x_")
                .unwrap_or_else(|| panic!("{}: {said}", table.name));
            let known: BTreeSet<&str> =
                names[at + 1..].iter().copied().filter(|name| *name != "kind").collect();
            let listed: BTreeSet<&str> = table.keys.iter().map(|key| key.0).collect();
            assert_eq!(listed, known, "{}: {said}", table.name);
        }
    }
}
