//! Experiments of a store side by side: one picture, a row for each, and the best of each within a budget.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{json, qslm, refused, succeed};

/// Runs the plain spec under a name with another strategy, and gives its front.
fn run(store: &str, name: &str, strategy: &str) -> Value {
    let (name, strategy) = (format!("name={name}"), format!("strategy={strategy}"));
    let mut arguments =
        vec!["run", "experiments/specs/plain.toml", "--quiet", "--store", store, "--output", "json"];
    for setting in ["task.windows=2", &name, &strategy] {
        arguments.extend(["--set", setting]);
    }
    json(&arguments)
}

/// Fewest loss among the front's candidates of at most so many bytes.
fn least_loss(front: &Value, most: u64) -> Option<f64> {
    let rows = front["front"].as_array().unwrap().iter();
    let within = rows.filter(|row| row["footprint_bytes"].as_u64().unwrap() <= most);
    within.map(|row| row["quality_loss"].as_f64().unwrap()).min_by(f64::total_cmp)
}

#[test]
fn several_experiments_are_laid_over_each_other_and_the_best_within_each_budget_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let store = at("s.redb");
    let fronts = [
        run(&store, "grid", r#"{kind="grid", tier="global"}"#),
        run(&store, "random", r#"{kind="random", tier="block", trials=6, seed=1}"#),
    ];
    let report = ["report", "grid", "random", "--store", &store];
    let (out, plots, budget) = (at("both.html"), at("plots"), ["--budget", "650 kB", "--budget", "1"]);
    let printed =
        succeed(&[&report[..], &["--out", &out, "--plots", &plots, "--scale", "1"], &budget].concat());
    for name in ["plots/overlay.svg", "plots/overlay.png", "both.html"] {
        assert!(Path::new(&at(name)).is_file() && printed.contains(name), "{name}: {printed}");
    }
    for title in
        ["Within 1 B: the least loss", "Within 650,000 B: the least loss", "Within +3.00 %: the fewest bytes"]
    {
        assert!(printed.contains(title), "{title}: {printed}");
    }
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(page.contains("grid (grid)") && page.contains("random (random)") && page.contains("<svg "));

    let document = json(&[&report[..], &["--format", "json", "--out", "-"], &budget].concat());
    let experiments = document["experiments"].as_array().unwrap();
    let ids: Vec<&Value> = experiments.iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, fronts.iter().map(|front| &front["experiment"]).collect::<Vec<_>>());
    let within = &document["budgets"][1];
    assert_eq!(within["limit"]["footprint_bytes"], 650_000);
    let losses: Vec<Option<f64>> = fronts.iter().map(|front| least_loss(front, 650_000)).collect();
    let least = losses.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    for (best, loss) in within["best"].as_array().unwrap().iter().zip(&losses) {
        assert_eq!(best["candidate"]["quality_loss"].as_f64(), *loss);
        assert_eq!(best["is_best"], *loss == Some(least));
    }
    assert!(
        document["budgets"][0]["best"].as_array().unwrap().iter().all(|best| best["candidate"].is_null())
    );

    // What cannot be compared is told in a line.
    let said = refused(2, &["report", "grid", "grid", "--store", &store, "--out", "-"]);
    assert!(said.contains("is named twice"), "{said}");
    let said = refused(2, &["report", "grid", "--budget", "5", "--store", &store, "--out", "-"]);
    assert!(said.contains("--budget compares experiments: expected at least 2 of them"), "{said}");
    let wrong = qslm(&["report", "grid", "random", "--budget", "some", "--store", &store]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("\"some\": expected bytes"));

    // Bits of every matrix are columns on request.
    let rows = |more: &[&str]| {
        let arguments = [&["export", "grid", "--store", &store, "--format", "jsonl"], more].concat();
        let lines = succeed(&arguments);
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    assert!(rows(&[])[1].get("bits:head.weight").is_none());
    let rows = rows(&["--unit-bits"]);
    assert_eq!(
        (&rows[0]["bits:head.weight"], &rows[1]["bits:blocks.0.att.key.weight"]),
        (&32.0.into(), &8.0.into())
    );
    let said = refused(3, &["report", "grid", "nothing", "--store", &store, "--out", "-"]);
    assert!(said.contains("nothing"), "{said}");
}
