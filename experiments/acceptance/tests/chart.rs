//! The Helm chart: what helm makes of it is what kustomize makes of the overlays, and its values are where they belong.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use qslm_acceptance::manifests::{documents, fits_the_schemas, name_of, parsed, pod_of};
use qslm_acceptance::root;
use serde_json::{Value, json};

/// Helm of the machine, or the one that `experiments/acceptance/helm` has put beside.
fn helm(arguments: &[&str]) -> Output {
    let beside = root().join("target/tools/helm");
    let helm = if beside.is_file() { beside } else { PathBuf::from("helm") };
    let mut command = Command::new(helm);
    command.args(arguments).current_dir(root());
    command
        .output()
        .unwrap_or_else(|error| panic!("helm: {error}: experiments/acceptance/helm puts it there"))
}

fn template(values: &[&str]) -> String {
    let sets = values.iter().flat_map(|value| ["--set", value]);
    let arguments: Vec<&str> =
        ["template", "q", "k8s/chart", "--namespace", "qslm"].into_iter().chain(sets).collect();
    let output = helm(&arguments);
    assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn by_name(all: Vec<Value>) -> BTreeMap<String, Value> {
    all.into_iter().map(|document| (name_of(&document), document)).collect()
}

fn rendered(values: &[&str]) -> BTreeMap<String, Value> {
    by_name(parsed(&template(values)))
}

#[test]
fn the_chart_is_what_kustomize_makes_of_the_overlays() {
    let modes: [(&[&str], &str); 5] = [
        (&["mode=batch"], "overlays/batch"),
        (&["mode=pool"], "overlays/pool"),
        (&["mode=sweep"], "overlays/sweep"),
        (&["tls.enabled=true"], "overlays/tls"),
        (
            &[
                "workers.resources.requests.cpu=4",
                "workers.resources.requests.memory=16Gi",
                "workers.resources.limits.cpu=4",
                "workers.resources.limits.memory=20Gi",
            ],
            "overlays/large",
        ),
    ];
    for (values, overlay) in modes {
        let mut of_chart = rendered(values);
        let wanted = by_name(documents(overlay));
        // Tokens are made, and claims kept, by the chart itself.
        of_chart
            .retain(|name, _| name != "Secret/qslm-tokens" && !name.starts_with("PersistentVolumeClaim/"));
        assert_eq!(of_chart.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{overlay}");
        for (name, document) in &wanted {
            assert_eq!(as_text(&of_chart[name]), as_text(document), "{overlay}: {name}");
        }
    }
}

/// With numbers and texts alike where a flag of helm makes one of the other.
fn as_text(document: &Value) -> Value {
    match document {
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), as_text(value))).collect())
        }
        Value::Array(all) => all.iter().map(as_text).collect(),
        Value::Number(number) => Value::String(number.to_string()),
        other => other.clone(),
    }
}

#[test]
fn every_mode_of_the_chart_fits_the_schemas_and_helm_has_nothing_to_say() {
    for mode in ["batch", "pool", "sweep"] {
        for tls in ["false", "true"] {
            let values =
                [format!("mode={mode}"), format!("tls.enabled={tls}"), "sweep.outside=true".to_owned()];
            let values = values.each_ref().map(String::as_str);
            fits_the_schemas(&format!("chart {values:?}"), &template(&values));
        }
    }
    let linted = helm(&["lint", "--strict", "k8s/chart"]);
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
}

#[test]
fn values_are_where_they_belong() {
    let all = rendered(&[
        "image.repository=registry.example/qslm",
        "image.tag=9",
        "image.pullPolicy=Never",
        "workers.replicas=7",
        "workers.activeDeadlineSeconds=60",
        "coordinator.storage.size=1Gi",
        "coordinator.storage.className=fast",
        "tokens.secret=mine",
    ]);
    let job = &all["Job/qslm-worker"]["spec"];
    assert_eq!((&job["completions"], &job["parallelism"]), (&json!(7), &json!(7)));
    assert_eq!(job["activeDeadlineSeconds"], 60);
    let claim = &all["StatefulSet/qslm-coordinator"]["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(claim["resources"]["requests"]["storage"], "1Gi");
    assert_eq!(claim["storageClassName"], "fast");
    assert!(!all.contains_key("Secret/qslm-tokens"));
    let mut pods = 0;
    for pod in all.values().filter_map(pod_of) {
        let container = &pod["containers"][0];
        assert_eq!(container["image"], "registry.example/qslm:9");
        assert_eq!(container["imagePullPolicy"], "Never");
        let tokens = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "tokens");
        assert_eq!(tokens.unwrap()["secret"]["secretName"], "mine");
        pods += 1;
    }
    assert_eq!(pods, 2);
}

#[test]
fn a_sweep_of_the_chart_has_its_spec_its_inputs_and_its_results_where_they_are_said() {
    let spec = std::fs::read_to_string(root().join("k8s/components/sweep/spec.toml")).unwrap();
    let all = rendered(&["mode=sweep", "sweep.inputs=models"]);
    assert_eq!(all["ConfigMap/qslm-spec"]["data"]["spec.toml"], spec, "the chart has the same example");
    let submit = pod_of(&all["Job/qslm-submit"]).unwrap();
    let inputs = submit["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "inputs");
    assert_eq!(inputs.unwrap()["persistentVolumeClaim"]["claimName"], "models");
    for claim in ["data-qslm-coordinator-0", "qslm-results"] {
        let kept = &all[&format!("PersistentVolumeClaim/{claim}")]["metadata"]["annotations"];
        assert_eq!(kept["helm.sh/resource-policy"], "keep", "{claim}");
    }
    let all = rendered(&["mode=sweep", "sweep.outside=true", "sweep.resultsUrl=s3://bucket/first"]);
    let submit = &pod_of(&all["Job/qslm-submit"]).unwrap()["containers"][0];
    assert_eq!(submit["command"].as_array().unwrap().last().unwrap(), "s3://bucket/first");
    assert!(!all.contains_key("PersistentVolumeClaim/qslm-results"));
    assert!(all.contains_key("NetworkPolicy/qslm-submit-outside"));
}

#[test]
fn tokens_of_the_chart_are_long_differ_and_are_those_of_the_coordinators_file() {
    let data = || rendered(&[])["Secret/qslm-tokens"]["stringData"].clone();
    let (first, second) = (data(), data());
    for role in ["worker", "submitter", "reader"] {
        let token = first[role].as_str().unwrap();
        assert!(token.len() >= 32 && token != second[role], "{role}");
        let lines = first["tokens"].as_str().unwrap().lines();
        assert!(lines.filter(|line| line.starts_with(role)).any(|line| line.ends_with(token)), "{role}");
    }
}
