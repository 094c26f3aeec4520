//! Promises of ARCHITECTURE.md: the edges between packages, and that every invariant is held by tests that
//! exist.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::root;

/// Packages of our own that each may build on, and the foreign packages that are its alone to name.
const EDGES: [(&str, &[&str]); 14] = [
    ("qslm-common", &[]),
    ("qslm-fetch", &[]),
    ("qslm-program", &["qslm-common"]),
    ("qslm-report", &["qslm-common"]),
    ("qslm-transport", &[]),
    ("qslm-proto", &["qslm-common"]),
    ("qslm-engine", &["qslm-common"]),
    ("qslm-train", &["qslm-common", "qslm-engine"]),
    ("qslm-search", &["qslm-common"]),
    ("qslm-testing", &["qslm-common", "qslm-search"]),
    (
        "qslm-coordinator",
        &["qslm-common", "qslm-program", "qslm-proto", "qslm-report", "qslm-search", "qslm-transport"],
    ),
    (
        "qslm-worker",
        &["qslm-common", "qslm-engine", "qslm-program", "qslm-proto", "qslm-train", "qslm-transport"],
    ),
    (
        "qslm",
        &[
            "qslm-common",
            "qslm-coordinator",
            "qslm-engine",
            "qslm-fetch",
            "qslm-program",
            "qslm-proto",
            "qslm-report",
            "qslm-search",
            "qslm-train",
            "qslm-transport",
            "qslm-worker",
        ],
    ),
    ("qslm-fuzz", &["qslm", "qslm-common", "qslm-engine", "qslm-proto", "qslm-search"]),
];

/// Direct dependencies of every package of the workspace, without those of tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let all = package["dependencies"].as_array().unwrap().iter();
            let names = all.filter(|d| d["kind"] != "dev").map(|d| d["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

/// The Rust files below a folder of the repository.
fn sources(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// Fails if a file below `folder`, tests apart, uses one of the `words`.
fn nowhere(folder: &str, words: &[&str]) {
    nowhere_but(folder, &[], words);
}

/// As [`nowhere`], but for what lies in one of the `places`.
fn nowhere_but(folder: &str, places: &[&str], words: &[&str]) {
    for path in sources(folder) {
        let tests = path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
        if tests || places.iter().any(|place| path.starts_with(root().join(place))) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap();
            for word in words {
                assert!(!line.contains(word), "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn packages_build_only_on_those_below_them() {
    let dependencies = dependencies();
    assert_eq!(dependencies.len(), EDGES.len(), "a package is missing in the table of edges");
    for (package, allowed) in EDGES {
        for dependency in dependencies[package].iter().filter(|name| name.starts_with("qslm")) {
            assert!(allowed.contains(&dependency.as_str()), "{package} must not build on {dependency}");
        }
    }
}

#[test]
fn only_the_engine_names_burn_and_only_the_store_names_redb() {
    for (package, dependencies) in dependencies() {
        let names = |name: &str| dependencies.contains(name);
        assert!(!names("burn") || package == "qslm-engine", "{package} names burn");
        assert!(!names("redb") || package == "qslm-coordinator", "{package} names redb");
        let plain = ["qslm-common", "qslm-engine", "qslm-train"].contains(&package.as_str());
        assert!(!plain || !["tokio", "tonic", "prost"].into_iter().any(names), "{package} names the network");
    }
    for folder in ["src/driver", "src/ledger", "src/rpc", "search/src"] {
        nowhere(&format!("coordinator/{folder}"), &["redb::"]);
    }
    // What is on the disk is the store's own; what travels may change. The driver and the ledger speak of the domain, and
    // rpc translates.
    for folder in ["store", "driver", "ledger"] {
        nowhere(&format!("coordinator/src/{folder}"), &["qslm_proto"]);
    }
}

/// Past this, a file holds more than one idea.
const LONGEST: usize = 500;

#[test]
fn no_file_of_product_code_is_longer_than_a_few_pages() {
    for folder in [
        "common",
        "coordinator",
        "proto/src",
        "worker/src",
        "worker/engine/src",
        "worker/engine/train/src",
        "experiments/src",
    ] {
        for path in sources(folder) {
            let is_test = path.components().any(|part| part.as_os_str() == "tests");
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            assert!(is_test || lines <= LONGEST, "{}: {lines} lines", path.display());
        }
    }
}

#[test]
fn ledger_and_search_see_no_clock_runtime_network_or_disk() {
    let words = ["tokio", "tonic", "redb", "Instant", "SystemTime", "std::fs", "std::io", "std::net"];
    nowhere("coordinator/src/ledger", &words);
    nowhere("coordinator/search/src", &words);
    nowhere("common/src", &words);
}

/// The bits of a system's exponentials and logarithms differ in the last place, between glibc with and without fused
/// multiply-adds, musl and others; a result or a decision that took one would be another elsewhere.
#[test]
fn results_and_decisions_take_no_exponential_of_a_systems_library() {
    let words =
        [".exp()", ".exp2()", ".exp_m1()", ".ln()", ".ln_1p()", ".log2()", ".log10()", ".powf(", ".tanh()"];
    nowhere("common/src", &words);
    nowhere("coordinator/src", &words);
    // The network of a test of budgets.
    nowhere_but("coordinator/search/src", &["coordinator/search/src/strategies/allocate/budgets.rs"], &words);
    // Tensors of a graphics card, which promise no bits; a figure that `inspect` prints.
    let promise_none = ["worker/engine/src/autodiff", "worker/engine/src/quant/statistics.rs"];
    nowhere_but("worker/engine/src", &promise_none, &words);
    nowhere("worker/engine/train/src", &words);
    nowhere("worker/src", &words);
}

#[test]
fn unsafe_code_is_in_the_engines_kernels_only() {
    for folder in ["common", "coordinator", "experiments", "proto", "worker"] {
        for path in sources(folder) {
            let kernels = path.starts_with(root().join("worker/engine/src/kernels"));
            let this = path.ends_with("architecture.rs");
            let text = std::fs::read_to_string(&path).unwrap();
            let opens = text.lines().any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
            assert!(kernels || this || !opens, "{} opens unsafe code", path.display());
        }
    }
}

#[test]
fn every_command_resolves_the_same_features_so_that_burn_is_built_once() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids = |key: &str| metadata[key].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
    let all: BTreeSet<String> = ids("workspace_members").collect();
    assert_eq!(ids("workspace_default_members").collect::<BTreeSet<_>>(), all);
    let packages = metadata["packages"].as_array().unwrap();
    let runs = packages.iter().filter(|package| !package["default_run"].is_null());
    let runs: Vec<_> = runs.map(|package| package["default_run"].as_str().unwrap()).collect();
    assert_eq!(runs, ["qslm"], "`cargo run` has one program to mean");
}

#[test]
fn the_live_view_has_routes_that_read_only() {
    nowhere("coordinator/src/web", &["post(", " put(", "(put(", "patch(", "delete(", "routing::any"]);
}

/// True if a path without its ending has these components, one after the other.
fn lies_in(path: &Path, place: &str) -> bool {
    let path = path.with_extension("");
    let (path, place): (Vec<_>, Vec<_>) = (path.iter().collect(), Path::new(place).iter().collect());
    path.windows(place.len()).any(|part| part == place)
}

#[test]
fn every_invariant_is_held_by_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let invariants = text.split("\n## Invariants\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let all: Vec<_> = ["common", "coordinator", "experiments", "proto", "worker"].map(sources).concat();
    let mut numbers = Vec::new();
    for invariant in invariants.split("\n**I").skip(1) {
        let number: usize = invariant.split('.').next().unwrap().parse().unwrap();
        let (_, held_by) =
            invariant.split_once("Held by").unwrap_or_else(|| panic!("I{number} is held by nothing"));
        for name in held_by.split('`').skip(1).step_by(2) {
            let (place, test) =
                name.split_once("::").unwrap_or_else(|| panic!("I{number}: {name} is no test"));
            let function = format!("fn {test}(");
            let mut files = all.iter().filter(|path| lies_in(path, place));
            assert!(
                files.any(|path| std::fs::read_to_string(path).unwrap().contains(&function)),
                "I{number}: {place} has no {test}"
            );
        }
        numbers.push(number);
    }
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "invariants are numbered in order");
    assert!(numbers.len() >= 25, "{} invariants", numbers.len());
}
