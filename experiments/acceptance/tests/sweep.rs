//! A sweep in one act: the folder that `k8s/make-sweep` writes, the claims that it needs, and the commands of its pods.
//! `experiments/tests/until_done.rs` runs these programs.

use std::path::Path;
use std::process::Command;

use qslm_acceptance::manifests::{
    Scratch, documents, fits_the_schemas, name_of, parsed, pod_of, put_together, script,
};
use qslm_acceptance::{program, root};
use serde_json::Value;

const SPEC: &str = "k8s/components/sweep/spec.toml";

/// Writes a sweep into a folder of its own; its documents.
fn make(scratch: &Scratch, name: &str, components: &[&str]) -> String {
    let spec = root().join(SPEC);
    let output =
        script("make-sweep", &[&[name, spec.to_str().unwrap()], components].concat(), scratch.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    put_together(&scratch.path().join(name))
}

fn job<'a>(all: &'a [Value], name: &str) -> &'a Value {
    all.iter().find(|document| name_of(document) == format!("Job/{name}")).unwrap()
}

/// Words of the command of a job's container.
fn command(job: &Value) -> Vec<&str> {
    let words = pod_of(job).unwrap()["containers"][0]["command"].as_array().unwrap();
    words.iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn one_folder_is_one_sweep_in_a_namespace_of_its_own() {
    let scratch = Scratch::new();
    let text = make(&scratch, "first", &["sweep-outside"]);
    fits_the_schemas("first", &text);
    let all = parsed(&text);
    for document in &all {
        match document["kind"].as_str().unwrap() {
            "Namespace" => assert_eq!(document["metadata"]["name"], "first"),
            _ => assert_eq!(document["metadata"]["namespace"], "first", "{}", name_of(document)),
        }
    }
    // Coordinator, workers and submission all end.
    let pods = all.iter().filter(|document| pod_of(document).is_some());
    let mut pods: Vec<String> = pods.map(name_of).collect();
    pods.sort();
    assert_eq!(pods, ["Job/qslm-coordinator", "Job/qslm-submit", "Job/qslm-worker"]);
    let spec = all.iter().find(|document| name_of(document) == "ConfigMap/qslm-spec").unwrap();
    assert_eq!(spec["data"]["spec.toml"], std::fs::read_to_string(root().join(SPEC)).unwrap());
    // Claims are there that its pods name; whoever deletes the jobs keeps them.
    let claims = |all: &[Value]| all.iter().filter(|one| one["kind"] == "PersistentVolumeClaim").count();
    assert_eq!(claims(&all), 2);
    for job in all.iter().filter(|document| document["kind"] == "Job") {
        for volume in pod_of(job).unwrap()["volumes"].as_array().unwrap() {
            let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() else { continue };
            let there = |one: &Value| name_of(one) == format!("PersistentVolumeClaim/{claim}");
            assert!(all.iter().any(there), "{claim}");
        }
    }
    let jobs = parsed(&put_together(&scratch.path().join("first/jobs")));
    assert!(claims(&jobs) == 0 && jobs.iter().all(|document| document["kind"] != "Namespace"));
    // Tokens of its own, which nobody else reads.
    let token = |all: &[Value]| {
        let secret = all.iter().find(|document| name_of(document) == "Secret/qslm-tokens").unwrap();
        secret["stringData"]["worker"].as_str().unwrap().to_owned()
    };
    assert_ne!(token(&all), token(&parsed(&make(&scratch, "second", &[]))));
    let tokens = scratch.path().join("first/jobs/tokens.yaml").metadata().unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&tokens.permissions()) & 0o77, 0);
}

#[test]
fn what_makes_no_sweep_is_told_in_a_line() {
    let scratch = Scratch::new();
    let spec = root().join(SPEC);
    let refused = |arguments: &[&str], code: i32, words: &str| {
        let output = script("make-sweep", arguments, scratch.path());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(words), "{said}");
    };
    let spec = spec.to_str().unwrap();
    refused(&["My_Sweep", spec], 2, "My_Sweep: no name of a namespace");
    refused(&["first", "none.toml"], 3, "none.toml: no such file");
    refused(&["first", spec, "sweeping"], 2, "sweeping: no component of k8s/components");
    refused(&["first"], 2, "k8s/make-sweep NAME SPEC");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is half made");
    std::fs::create_dir(scratch.path().join("first")).unwrap();
    refused(&["first", spec], 4, "first: is there already");
}

#[test]
fn the_store_is_where_the_other_overlays_look_for_it() {
    let sweep = documents("overlays/sweep");
    let pool = documents("overlays/pool");
    let set = pool.iter().find(|document| document["kind"] == "StatefulSet").unwrap();
    let template = &set["spec"]["volumeClaimTemplates"][0];
    let name = format!("{}-qslm-coordinator-0", template["metadata"]["name"].as_str().unwrap());
    let volumes = pod_of(job(&sweep, "qslm-coordinator")).unwrap()["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["persistentVolumeClaim"]["claimName"] == name.as_str()));
    let claims = parsed(&std::fs::read_to_string(root().join("k8s/sweep-claims.yaml")).unwrap());
    let claim = claims.iter().find(|claim| claim["metadata"]["name"] == name.as_str()).unwrap();
    assert_eq!(claim["spec"], template["spec"]);
    // One writer at a time.
    assert_eq!(job(&sweep, "qslm-coordinator")["spec"]["podReplacementPolicy"], "Failed");
    assert!(sweep.iter().all(|document| document["kind"] != "StatefulSet"));
    // A bound on disruptions of what cannot be scaled would hold up every drain.
    assert!(sweep.iter().all(|document| document["kind"] != "PodDisruptionBudget"));
}

#[test]
fn the_commands_of_a_sweep_are_commands_and_its_spec_is_a_spec() {
    let folder = tempfile::tempdir().unwrap();
    let sweep = documents("overlays/sweep");
    let coordinator = command(job(&sweep, "qslm-coordinator"));
    assert_eq!(coordinator, ["qslm-coordinator", "--config", "/config/coordinator.toml", "--until-done"]);
    let written = std::fs::read_to_string(root().join(SPEC)).unwrap();
    let bundled = root().join("experiments");
    let spec = folder.path().join("spec.toml");
    std::fs::write(&spec, written.replace("/usr/share/qslm", bundled.to_str().unwrap())).unwrap();
    let submit = command(job(&sweep, "qslm-submit"));
    assert_eq!(submit[0], "qslm");
    let here = |word: &&str| match *word {
        "/spec/spec.toml" => spec.to_str().unwrap().to_owned(),
        "/results" => folder.path().to_str().unwrap().to_owned(),
        word => word.to_owned(),
    };
    // All that is wrong with it here is that there is no coordinator.
    let tried = Command::new(program("qslm"))
        .args(submit[1..].iter().map(here))
        .args(["--connect-timeout", "0", "--coordinator", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    let said = String::from_utf8(tried.stderr).unwrap();
    assert!(tried.status.code() == Some(5) && said.contains("no coordinator answers"), "{said}");
}

#[test]
fn what_no_retry_mends_fails_the_jobs_of_a_sweep_and_what_somebody_decided_does_not() {
    let sweep = documents("overlays/sweep");
    let codes = |name: &str, action: &str| {
        let rules = job(&sweep, name)["spec"]["podFailurePolicy"]["rules"].as_array().unwrap();
        let of = rules.iter().filter(|rule| rule["action"] == action);
        let codes = of.flat_map(|rule| rule["onExitCodes"]["values"].as_array().into_iter().flatten());
        codes.map(|code| code.as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(codes("qslm-coordinator", "Ignore"), [143]);
    assert_eq!(codes("qslm-coordinator", "FailJob"), [2]);
    assert_eq!(codes("qslm-submit", "Ignore"), [143]);
    assert_eq!(codes("qslm-submit", "FailJob"), [2, 3, 6, 8]);
    let help =
        |name: &str| String::from_utf8(Command::new(program(name)).arg("--help").output().unwrap().stdout);
    let help = help("qslm-coordinator").unwrap();
    for words in
        ["  0    told to stop, or done", "  2    settings", "  143  told to stop before all was done"]
    {
        assert!(help.contains(words), "{help}");
    }
}

#[test]
fn results_go_to_object_storage_and_inputs_come_from_a_claim_where_that_is_asked_for() {
    let scratch = Scratch::new();
    let text = make(&scratch, "objects", &["sweep-inputs", "sweep-outside", "sweep-objects"]);
    let all = parsed(&text);
    let submit = job(&all, "qslm-submit");
    assert_eq!(command(submit).last().unwrap(), &"$(RESULTS_URL)");
    let pod = pod_of(submit).unwrap();
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mounted = |path: &str| mounts.iter().any(|mount| mount["mountPath"] == path);
    assert!(mounted("/inputs") && mounted("/cache") && !mounted("/results"));
    let named = |volume: &Value| mounts.iter().any(|mount| mount["name"] == volume["name"]);
    assert!(pod["volumes"].as_array().unwrap().iter().all(named), "every volume is mounted");
    assert!(Path::new(&scratch.path().join("objects/jobs/spec.toml")).is_file());
}
