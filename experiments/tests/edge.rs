//! Activations, membranes, costs and measures of sensitivity, through the real program.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{json, refused, succeed};

const MODEL: [&str; 8] = [
    "--checkpoint",
    "experiments/models/wikitext2-xs.safetensors",
    "--tokenizer",
    "experiments/models/tokenizer.json",
    "--text",
    "experiments/data/encyclopaedia.txt",
    "--window",
    "128",
];
const CLASSIFIER: [&str; 6] = [
    "--checkpoint",
    "experiments/models/sst2-xs.safetensors",
    "--tokenizer",
    "experiments/models/tokenizer.json",
    "--labelled",
    "experiments/data/sentences.tsv",
];

fn eval(more: &[&str]) -> Value {
    json(&[&["eval"], &MODEL[..], &["--windows", "8", "--output", "json"], more].concat())
}

fn nll(report: &Value) -> f64 {
    report["nll_sum"].as_f64().unwrap()
}

/// Runs the edge spec on a few windows; its front as printed.
fn edge(store: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["run", "experiments/specs/edge.toml", "--store", store.to_str().unwrap()];
    arguments.extend(["--set", "task.windows=4", "--set", "space.activations.bits=[8, 4]"]);
    arguments.extend(["--set", "space.membranes.bits=[8, 4]", "--output", "json"]);
    arguments.extend(more);
    json(&arguments)
}

#[test]
fn a_search_lowers_activations_and_membranes_and_its_candidate_is_deployed_as_it_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("a/s.redb"), folder.path().join("b/s.redb"));
    let front = edge(&one, &["--workers", "1", "--set", "run.shards=1"]);
    assert_eq!(
        front,
        edge(&other, &["--workers", "3"]),
        "calibration and costs depend on nothing but the spec"
    );

    let rows = || front["front"].as_array().unwrap().iter();
    let with =
        |key: &str| rows().filter(|row| row[key].as_object().is_some_and(|map| !map.is_empty())).count();
    assert!(with("activations") > 0 && with("membranes") > 0);
    let chosen = &front["chosen"];
    let costs = chosen["costs"].as_object().unwrap();
    assert_eq!(costs.len(), 22, "every model is described: {costs:?}");
    assert!(chosen["costs"]["two_memory_area"].as_f64().unwrap() <= 5.0);
    let float = &front["float"]["costs"];
    assert!(chosen["costs"]["energy"].as_f64().unwrap() < float["energy"].as_f64().unwrap() / 5.0);

    // A candidate with both, if need be not the chosen one.
    let both = rows().find(|row| !row["membranes"].is_null() && !row["activations"].is_null()).unwrap();
    let path = one.with_file_name(format!("{}.front.json", front["experiment"].as_str().unwrap()));
    let packed = folder.path().join("packed.safetensors");
    let (id, packed) = (both["candidate"].as_str().unwrap(), packed.to_str().unwrap());
    let apply = ["apply", "--checkpoint", MODEL[1], "--front", path.to_str().unwrap(), "--candidate", id];
    succeed(&[&apply[..], &["--out", packed]].concat());
    let mut arguments = ["eval"].into_iter().chain(MODEL).collect::<Vec<_>>();
    arguments[2] = packed;
    arguments.extend(["--windows", "4", "--output", "json"]);
    let measured = json(&arguments);
    assert_eq!(measured["candidate"], both["candidate"]);
    let units = both["counts"]["nll"].as_u64().unwrap();
    assert_eq!(nll(&measured), units as f64 / f64::from(1 << 24), "the same loss to the bit");

    let inspected = json(&["inspect", packed, "--output", "json"]);
    assert_eq!(inspected["candidate"], both["candidate"]);
    let activations =
        inspected["units"].as_array().unwrap().iter().filter(|unit| unit["activation"].is_string());
    assert_eq!(activations.count(), both["activations"].as_object().unwrap().len());
    assert_eq!(inspected["membranes"], both["membranes"]);
    assert!(succeed(&["inspect", packed]).contains("fixed"));
}

#[test]
fn a_range_seen_beforehand_is_not_each_tokens_own() {
    let float = nll(&eval(&[]));
    let dynamic = nll(&eval(&["--activation-bits", "6"]));
    let calibrated = ["--activation-bits", "6", "--calibration", MODEL[5]];
    let fixed = nll(&eval(&calibrated));
    assert!(dynamic != float && fixed != float && dynamic != fixed);
    // Twice the same, and on any number of threads.
    assert_eq!(fixed, nll(&eval(&[&calibrated[..], &["--threads", "1"]].concat())));
    // Eight bits are enough; two are not.
    let increase = |report: &Value| nll(report) / float - 1.0;
    assert!(increase(&eval(&["--activation-bits", "8"])).abs() < 0.005);
    assert!(increase(&eval(&["--activation-bits", "2"])) > 0.05);
}

#[test]
fn wide_membranes_change_little_and_narrow_ones_much() {
    let float = nll(&eval(&[]));
    let at = |bits: &str| (nll(&eval(&["--membrane-bits", bits])) / float - 1.0).abs();
    assert!(at("16") < 1e-3 && at("8") < 2e-3, "{} {}", at("16"), at("8"));
    assert!(at("2") > 0.004, "{}", at("2"));
}

#[test]
fn every_measure_of_sensitivity_is_reported_and_ranked() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("units.csv");
    let flags = ["--windows", "4", "--mini-batch", "2", "--bits", "3", "--embedding", "sign"];
    let more = ["--csv", csv.to_str().unwrap(), "--output", "json"];
    let report = json(&[&["sensitivity"], &MODEL[..], &flags, &more].concat());
    let units = report["units"].as_array().unwrap();
    assert_eq!(units.len(), 29, "every matrix but the lossless embedding");
    for unit in units {
        let number = |key: &str| unit[key].as_f64().unwrap();
        assert!(number("kl_divergence") > 0.0 && number("weight_error") > 0.0, "{unit}");
        let head = unit["unit"] == "head.weight";
        assert_eq!(number("membrane_drift") == 0.0, head, "nothing spikes after the head: {unit}");
        assert_eq!(unit["lsaq"].is_null(), head, "{unit}");
        assert!(head || (0.0..=1.0).contains(&number("lsaq")));
    }
    let correlations = report["rank_correlation"].as_object().unwrap();
    assert_eq!(correlations["task_loss"], 1.0);
    assert_eq!(correlations.len(), 5);
    let text = std::fs::read_to_string(csv).unwrap();
    let mut lines = text.lines();
    let header = "unit,block,module,scheme,task_loss,kl_divergence,weight_error,membrane_drift,lsaq";
    assert_eq!(lines.next(), Some(header));
    assert!(lines.all(|line| line.split(',').count() == 9));
    assert!(text.contains("\nblocks.2.att.key.weight,2,att,int3:symmetric:channel:f16:least_squares,"));

    // The task loss is what two evaluations differ by.
    let head = units.iter().find(|unit| unit["unit"] == "head.weight").unwrap();
    assert!(head["task_loss"].as_f64().unwrap() > 0.01);

    let words = refused(2, &[&["sensitivity"], &MODEL[..], &["--activation-bits", "4"]].concat());
    assert!(words.contains("no matrix is quantized"), "{words}");

    // A classifier has no tokens to read off its head.
    let report = json(
        &[&["sensitivity"], &CLASSIFIER[..], &["--windows", "20", "--bits", "2", "--output", "json"]]
            .concat(),
    );
    assert!(report["units"].as_array().unwrap().iter().all(|unit| unit["lsaq"].is_null()));
    assert!(report["rank_correlation"]["lsaq"].is_null());
}

#[test]
fn a_comparison_is_paired_and_says_how_sure_it_is() {
    let compare = |more: &[&str]| json(&[&["compare"], &MODEL[..], &["--output", "json"], more].concat());
    let same = compare(&["--against", MODEL[1]]);
    assert_eq!((same["loss"].as_f64(), same["p_value"].as_f64()), (Some(0.0), Some(1.0)));
    let worse = compare(&["--bits", "2", "--embedding", "sign"]);
    assert!(worse["loss"].as_f64().unwrap() > 0.1 && worse["p_value"].as_f64().unwrap() < 0.001, "{worse}");
    let float = json(&[&["eval"], &MODEL[..], &["--output", "json"]].concat());
    assert_eq!(worse["before"], float["perplexity"]);
    let table = succeed(&[&["compare"], &CLASSIFIER[..], &["--bits", "4", "--embedding", "sign"]].concat());
    assert!(table.contains("accuracy") && table.contains("over 208 pairs"), "{table}");
    assert!(!table.contains("significant") && table.contains("points "), "{table}");
    let table = succeed(&[&["compare"], &MODEL[..], &["--bits", "2", "--margin", "0.03"]].concat());
    assert!(table.contains("p <= 0.0001, the least that 10,000 permutations can tell"), "{table}");
    assert!(table.contains("the loss is below +3.00 % with 95 % confidence: no (it is below +"), "{table}");
    let near = compare(&["--bits", "8", "--embedding", "sign", "--margin", "0.03"]);
    assert_eq!((&near["margin"], &near["within_margin"]), (&0.03.into(), &true.into()));
    assert!(
        near["loss_below"].as_f64().unwrap() < near["loss_interval"][1].as_f64().unwrap(),
        "one-sided: {near}"
    );
    let output = support::qslm(&[&["compare"], &MODEL[..], &["--bits", "8", "--margin", "-1"]].concat());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && words.contains("expected a number above 0"), "{words}");
    let words = refused(2, &[&["compare"], &MODEL[..]].concat());
    assert!(words.contains("what to compare with is missing"), "{words}");
}

#[test]
fn an_order_of_importance_is_searched() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let mut arguments =
        vec!["run", "experiments/specs/plain.toml", "--store", store.to_str().unwrap(), "--output", "json"];
    arguments.extend(["--set", "task.windows=4", "--set", "space.bits=[8, 4]"]);
    let lsaq = r#"strategy={ kind = "ranked", metric = "lsaq", tier = "block", sequences = 2 }"#;
    arguments.extend(["--set", lsaq]);
    let front = json(&arguments);
    // Float, two uniform widths, and one to four of the five groups narrow.
    assert_eq!(front["measured"], 7);
}

#[test]
fn a_spec_that_does_not_fit_together_is_refused_in_so_many_words() {
    let refuse = |settings: &[&str]| {
        let mut arguments = vec!["run", "experiments/specs/edge.toml", "--store", "/nonexistent/s.redb"];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        refused(2, &arguments)
    };
    let both = refuse(&["space.activations.bits=[16, 8]", "device.energy.dram_pj=-1"]);
    assert!(both.contains("activations have 2 to 8 bits, or 32"), "{both}");
    assert!(both.contains("device.energy.dram_pj = -1: expected a number of at least 0"), "{both}");
    assert!(refuse(&["space.activations.range=dynamic"]).contains("[calibration] is for"));
    assert!(refuse(&["trade_off.cost=footprint"]).contains("does not depend on activations"));
    assert!(refuse(&["trade_off.cost=joules"]).contains("is no cost: expected one of footprint"));
    assert!(refuse(&["constraints.max.speed=1"]).contains("\"speed\" is no cost"));
    assert!(refuse(&["device.two_memory.nonvolatile=[\"blocks.9\"]"]).contains("\"blocks.9\" names no unit"));
    assert!(refuse(&["device.split.blocks_on_device=5"]).contains("expected 0 to 4"));
    assert!(refuse(&["space.membranes.bits=[20]"]).contains("20 bits"));
    assert!(refuse(&["calibration.sequences=0"]).contains("windows = 0"));
    let missing = ["run", "experiments/specs/edge.toml", "--set", "calibration.text=nowhere.txt"];
    assert!(refused(3, &missing).contains("nowhere.txt: no such file"));
}

#[test]
fn flags_that_make_no_sense_are_named() {
    let eval = |code, more: &[&str]| refused(code, &[&["eval"], &MODEL[..], more].concat());
    assert!(eval(2, &["--activation-bits", "9"]).contains("--activation-bits 9: expected 2 to 8"));
    assert!(eval(2, &["--membrane-bits", "1"]).contains("fixed1:0"));
    let calibrated = ["--activation-bits", "8", "--calibration", "nowhere.txt"];
    assert!(eval(3, &calibrated).contains("nowhere.txt: no such file"));
    let folder = tempfile::tempdir().unwrap();
    let device = folder.path().join("device.toml");
    for (text, words) in [
        ("[energy]\ndrm_pj = 1", "line 2: unknown field `drm_pj`"),
        (
            "[latency]\nmacs_per_s = 1e9\nbytes_per_s = 0",
            "latency.bytes_per_s = 0: expected a number above 0",
        ),
        ("[split]\nblocks_on_device = 1", "missing field"),
    ] {
        std::fs::write(&device, text).unwrap();
        let error = eval(2, &["--device", device.to_str().unwrap()]);
        assert!(error.contains(words), "{error}");
    }
    let packed = folder.path().join("packed.safetensors");
    let packed = packed.to_str().unwrap();
    succeed(&["apply", "--checkpoint", MODEL[1], "--bits", "4", "--out", packed]);
    for command in ["compare", "sensitivity"] {
        let mut arguments = [command].into_iter().chain(MODEL).collect::<Vec<_>>();
        arguments[2] = packed;
        arguments.extend(["--bits", "4"]);
        assert!(refused(2, &arguments).contains("is packed already"));
    }
}
