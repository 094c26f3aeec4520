//! Keys of `[checkpoint]` and what it says of the neurons.

use super::Table;

/// The tables.
pub(super) const CHECKPOINT: &[Table] = &[
    Table {
        name: "[checkpoint]",
        about: "",
        keys: &[
            (
                "path",
                "file",
                "required",
                "SpikeGPT as PyTorch .pth or safetensors, or the model.safetensors.index.json of several",
            ),
            (
                "tokenizer",
                "file or \"bytes\"",
                "required",
                "its tokenizer.json, GPT-2's vocab.json with merges.txt beside it, a JSON list of characters, rwkv_vocab_*.txt, or a PyTorch \
                 checkpoint with a vocabulary inside",
            ),
            (
                "family",
                "spikegpt, spikegpt-char, rwkv4, spikerugpt, myelin",
                "what the file tells, else spikegpt",
                "member of the family; see [family](../family.md)",
            ),
            (
                "binary_embedding",
                "true, false",
                "the family's",
                "whether the network sees only the sign of embedding weights, as SpikeGPT does",
            ),
            ("neuron", "table", "the family's", "see below, what differs from the family"),
        ],
        misspelt: "name = \"x\"\ntask = {}\n[checkpoint]\nx_ = 1",
    },
    Table {
        name: "[checkpoint.neuron]",
        about: "",
        keys: &[
            (
                "leak",
                "0 to 1 or \"learned\"",
                "the family's",
                "share of a potential that is left after a token",
            ),
            ("gain", "0.0001 to 10000", "the family's", "factor of a neuron's input"),
            (
                "threshold",
                "0.0001 to 10000 or \"learned\"",
                "the family's",
                "potential at which a neuron fires",
            ),
            (
                "reset",
                "hard, soft, none",
                "the family's",
                "a potential that fired becomes 0, loses the threshold, or stays",
            ),
            ("comparison", "at-least, above", "the family's", "whether a potential at the threshold fires"),
            ("initial", "-10000 to 10000", "the family's", "potential before the first token"),
            (
                "placement",
                "after, before",
                "the family's",
                "whether spikes leave a half of a block or enter it",
            ),
            ("spiking", "true, false", "the family's", "whether there are spikes at all"),
            (
                "rescale_every",
                "0 to 1024",
                "the family's",
                "blocks after which the residual stream is halved; 0: never",
            ),
        ],
        misspelt: "name = \"x\"\ntask = {}\n[checkpoint.neuron]\nx_ = 1",
    },
];
