//! Keys of `[task]` and of further tasks.

use super::Table;

/// The tables.
pub(super) const TASK: &[Table] = &[
    Table {
        name: "[task] kind = \"perplexity\"",
        about: "",
        keys: &[
            ("text", "file", "required", "UTF-8 text"),
            (
                "window",
                "1 or more",
                "required",
                "tokens per window; the network's state starts afresh in each",
            ),
            ("stride", "1 to window", "window", "tokens from one window's start to the next"),
            (
                "windows",
                "1 or more",
                "all",
                "stop after so many windows; all, with a warning, if the text has fewer",
            ),
        ],
        misspelt: "[task]\nkind = \"perplexity\"\nx_ = 1",
    },
    Table {
        name: "[task] kind = \"accuracy\"",
        about: "",
        keys: &[
            ("labelled", "file", "required", "lines of sentence TAB label, labels from 0"),
            (
                "sentences",
                "1 or more",
                "all",
                "stop after so many sentences; all, with a warning, if there are fewer",
            ),
        ],
        misspelt: "[task]\nkind = \"accuracy\"\nx_ = 1",
    },
    Table {
        name: "[tasks.NAME] kind = \"perplexity\"",
        about: "Up to 8 further tasks of 1 to 16 of `a-z 0-9 - _`: every candidate is measured on each, which may be bounded \
                (`constraints.tasks`) and an objective (`tasks.NAME`). Sensitivities, trade-offs and recovery go by `[task]`. \
                Not with racing.",
        keys: &[
            ("text", "file", "required", "as in [task]"),
            ("window", "1 or more", "required", "as in [task]"),
            ("stride", "1 to window", "window", "as in [task]"),
            ("windows", "1 or more", "all", "as in [task]"),
        ],
        misspelt: "[tasks.name]\nkind = \"perplexity\"\nx_ = 1",
    },
    Table {
        name: "[tasks.NAME] kind = \"accuracy\"",
        about: "",
        keys: &[
            ("labelled", "file", "required", "as in [task]"),
            ("sentences", "1 or more", "all", "as in [task]"),
        ],
        misspelt: "[tasks.name]\nkind = \"accuracy\"\nx_ = 1",
    },
    Table {
        name: "[tasks.NAME] kind = \"choice\"",
        about: "Multiple choice by likelihood, of a language model: the share of questions whose right answer is the likeliest \
                continuation of its context. Only a further task.",
        keys: &[
            (
                "questions",
                "file",
                "required",
                "lines of JSON: `context`, `choices` (2 to 64 texts that may follow it, each with the space before it) and \
                 `label`, the index of the right one from 0; other keys are left alone",
            ),
            (
                "first",
                "1 or more",
                "all",
                "stop after so many questions; all, with a warning, if there are fewer",
            ),
            (
                "per_byte",
                "true or false",
                "false",
                "compare log-likelihoods per byte of the choice, which does not favour short ones",
            ),
        ],
        misspelt: "[tasks.name]\nkind = \"choice\"\nx_ = 1",
    },
];
