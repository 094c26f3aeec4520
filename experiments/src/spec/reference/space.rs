//! Keys of `[space]` and the tables within it.

use super::Table;

/// The tables.
pub(super) const SPACE: &[Table] = &[
    Table {
        name: "[space]",
        about: "Schemes of weights; activations and membranes stay float unless they have a table.",
        keys: &[
            ("bits", "list of 2 to 8, 16, 32", "[8, 6, 4, 3, 2]", "widths; 16 and 32 are floats"),
            (
                "symmetry",
                "\"symmetric\", \"affine\", \"full\", \"ternary\"",
                "\"symmetric\"",
                "without or with a zero point, or full: as many levels on either side of zero, which is none of them, in every \
                 code of up to 7 bits, or ternary: -1, 0 and 1 at 2 bits, five in a byte. Wider codes, and one-dimensional \
                 parameters, are symmetric then. Of a list, the ladder has every width with each of them",
            ),
            (
                "granularity",
                "\"tensor\", \"channel\", \"group:N\"",
                "\"channel\"",
                "how many weights share a scale; of a list, the ladder has every width with each of them",
            ),
            (
                "rounding",
                "\"nearest\", \"truncate\", \"stochastic:SEED\", \"gptq\", \"descent\", \"slim\", \"frequency\"",
                "\"nearest\"",
                "how a weight becomes an integer; gptq makes up for errors by what it sees on [calibration], descent rounds up or \
                 down by the same, slim also gives column groups (full codes, group:N) a bit less or more; frequency gives rows of \
                 the head of a language model (full codes, channel) a bit more or less by how often their tokens occur there, and \
                 is descent elsewhere",
            ),
            (
                "quantizer",
                "list of roundings",
                "",
                "in place of rounding: the ladder has every width with each of them",
            ),
            (
                "schemes",
                "list such as [\"int4:full:channel:f16\", \"int2:ternary:channel:f16\"]",
                "",
                "in place of bits and what goes with them: the ladder itself, the largest first",
            ),
            ("rule", "tables", "", "units with a ladder of their own"),
            (
                "tie",
                "list of matrices, or of such lists",
                "",
                "matrices of a block that move together: [\"att.key\", \"att.value\", \"att.receptance\"]",
            ),
            (
                "range",
                "\"minmax\", \"percentile:P\", \"least_squares\"",
                "\"minmax\"",
                "which weights the integers span",
            ),
            (
                "narrow_range",
                "as range",
                "\"least_squares\", or range if that is given",
                "the same for integers of 2 and 3 bits, whose few levels the outermost weights would take",
            ),
            (
                "scales",
                "\"f32\", \"f16\", \"pow2\"",
                "\"f16\"",
                "what a scale is stored as: 4, 2 or 1 byte; it is rounded before codes are chosen, to a power of two upwards",
            ),
            (
                "embedding",
                "\"sign\", \"quantize\", \"frequency\", \"float\"",
                "\"sign\" if binary_embedding",
                "\"sign\" is one lossless bit of a binary embedding; \"frequency\" is \"quantize\" with rows by how often their \
                 tokens occur, where a scheme has them",
            ),
            (
                "storage",
                "list of \"packed\", \"rans\"",
                "[\"packed\"]",
                "how files may store codes; each matrix takes the smallest. rans is entropy coding: it changes no number",
            ),
            ("vectors", "table", "bits = [16, 8]", "one-dimensional parameters"),
            ("activations", "table", "float", "what enters linear layers"),
            ("membranes", "table", "float", "what LIF neurons remember"),
        ],
        misspelt: "[space]\nx_ = 1",
    },
    Table {
        name: "[[space.rule]]",
        about: "A ladder for the units whose names match; what it leaves out is as in [space]. Of several rules that match, the last one counts.",
        keys: &[
            (
                "units",
                "a pattern",
                "required",
                "names of matrices, where * stands for any text: \"blocks.*.ffn.*\", \"head\"",
            ),
            ("bits", "as in [space]", "as in [space]", "widths"),
            ("symmetry", "as in [space]", "as in [space]", "symmetry of integers, or a list"),
            ("granularity", "as in [space]", "as in [space]", "how many weights share a scale, or a list"),
            ("rounding", "as in [space]", "as in [space]", "how a weight becomes an integer"),
            ("quantizer", "as in [space]", "as in [space]", "in place of rounding, several"),
            ("schemes", "as in [space]", "as in [space]", "in place of bits and what goes with them"),
            ("range", "as in [space]", "as in [space]", "which weights the integers span"),
            ("narrow_range", "as in [space]", "as in [space]", "the same for integers of 2 and 3 bits"),
            ("scales", "as in [space]", "as in [space]", "what a scale is stored as"),
        ],
        misspelt: "[[space.rule]]\nunits = \"*\"\nx_ = 1",
    },
    Table {
        name: "[space.vectors]",
        about: "Layer norms, mixing and decay; all of them move together, one scale each.",
        keys: &[("bits", "list of 2 to 8, 16, 32", "required", "widths; [32] alone leaves them as they are")],
        misspelt: "[space.vectors]\nx_ = 1",
    },
    Table {
        name: "[space.activations]",
        about: "",
        keys: &[
            ("bits", "list of 2 to 8, 32", "required", "widths"),
            ("symmetry", "\"symmetric\", \"affine\"", "\"affine\"", "without or with a zero point"),
            (
                "range",
                "\"dynamic\", \"static\"",
                "\"dynamic\"",
                "each token's own range, or one for all tokens, seen on [calibration]",
            ),
        ],
        misspelt: "[space.activations]\nx_ = 1",
    },
    Table {
        name: "[space.membranes]",
        about: "",
        keys: &[
            ("bits", "list of 2 to 16", "required", "widths of the fixed-point potential"),
            ("integer_bits", "0 to bits - 1", "2", "bits before the point: 2 spans -4 to 4"),
        ],
        misspelt: "[space.membranes]\nx_ = 1",
    },
];
