//! The Kubernetes manifests: every overlay is put together by kustomize and held to the schemas of two versions of
//! Kubernetes, strictly; and to what a platform team asks of pods.

use std::collections::BTreeSet;
use std::process::Command;

use qslm_acceptance::{root, succeed};
use serde_json::Value;

const OVERLAYS: [&str; 8] = [
    "base",
    "overlays/local",
    "overlays/batch",
    "overlays/pool",
    "overlays/gpu",
    "overlays/kueue",
    "overlays/tls",
    "submit",
];
const VERSIONS: [&str; 2] = ["1.32", "1.37"];
/// Kinds that are not Kubernetes' own, for which there is no schema.
const FOREIGN: [&str; 1] = ["ScaledObject"];

fn kustomize(overlay: &str) -> String {
    let folder = root().join("k8s").join(overlay);
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output().expect("kubectl");
    assert!(output.status.success(), "{overlay}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The documents of an overlay.
fn documents(overlay: &str) -> Vec<Value> {
    let mut python = Command::new(root().join("target/python/bin/python"));
    python.args(["-c", "import sys, yaml, json; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)"]);
    let mut child =
        python.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), kustomize(overlay).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn pod_of(document: &Value) -> Option<&Value> {
    let pod = &document["spec"]["template"]["spec"];
    (!pod.is_null()).then_some(pod)
}

#[test]
fn every_overlay_fits_the_schemas() {
    let folder = tempfile::tempdir().unwrap();
    for overlay in OVERLAYS {
        let path = folder.path().join("all.yaml");
        std::fs::write(&path, kustomize(overlay)).unwrap();
        for version in VERSIONS {
            let output = Command::new(root().join("target/python/bin/kubernetes-validate"))
                .args(["--strict", "-k", version])
                .arg(&path)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("ERROR"), "{overlay}, {version}: {said}");
            let unknown = said.lines().filter(|line| line.contains("Couldn't find schema"));
            for line in unknown {
                assert!(FOREIGN.iter().any(|kind| line.contains(kind)), "{overlay}: {line}");
            }
        }
    }
}

#[test]
fn every_pod_is_restricted_and_bounded_and_needs_no_api() {
    let mut seen = BTreeSet::new();
    for overlay in OVERLAYS {
        for document in documents(overlay) {
            let Some(pod) = pod_of(&document) else { continue };
            let what = format!("{overlay}: {} {}", document["kind"], document["metadata"]["name"]);
            seen.insert(document["kind"].as_str().unwrap().to_owned());
            assert_eq!(pod["automountServiceAccountToken"], false, "{what}");
            // Kubernetes' own variables would look like settings.
            assert_eq!(pod["enableServiceLinks"], false, "{what}");
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{what}");
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{what}");
            for container in pod["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{what}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{what}");
                assert_eq!(security["capabilities"]["drop"][0], "ALL", "{what}");
                assert!(container["resources"]["requests"]["memory"].is_string(), "{what}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{what}");
                let tag = container["image"].as_str().unwrap().split(':').nth(1).unwrap();
                assert_eq!(tag, version(), "{what}");
            }
        }
    }
    assert_eq!(seen, BTreeSet::from(["Deployment", "Job", "StatefulSet"].map(str::to_owned)));
}

/// Settings of pods are read by the programs that they are for.
#[test]
fn the_settings_of_pods_are_settings() {
    for overlay in ["overlays/batch", "overlays/tls"] {
        let all = documents(overlay);
        let config = all.iter().find(|document| document["kind"] == "ConfigMap").unwrap();
        let folder = tempfile::tempdir().unwrap();
        for program in ["coordinator", "worker"] {
            let path = folder.path().join(program);
            std::fs::write(&path, config["data"][format!("{program}.toml")].as_str().unwrap()).unwrap();
            let shown = succeed(&["config", "show", program, "--config", path.to_str().unwrap(), "--origin"]);
            assert!(shown.contains("/secrets/tokens/"), "{shown}");
        }
    }
}

#[test]
fn a_failed_index_is_tried_again_unless_no_retry_mends_it() {
    let all = documents("overlays/batch");
    let job = all.iter().find(|document| document["kind"] == "Job").unwrap();
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array().unwrap();
    let codes = |action: &str| {
        let of = rules.iter().filter(|rule| rule["action"] == action);
        of.flat_map(|rule| rule["onExitCodes"]["values"].as_array().into_iter().flatten())
            .map(|code| code.as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    // As `qslm-worker --help` says.
    assert_eq!((codes("Ignore"), codes("FailJob")), (vec![143], vec![2, 4, 7]));
    let help = Command::new(qslm_acceptance::program("qslm-worker")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for words in
        ["  2    settings", "  4    the coordinator", "  7    the coordinator", "  143  told to stop"]
    {
        assert!(help.contains(words), "{help}");
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let reference = succeed(&["reference", "metrics"]);
    let known: BTreeSet<&str> = reference.split('`').filter(|word| word.starts_with("qslm_")).collect();
    for file in ["dashboard.json", "alerts.yaml"] {
        let text = std::fs::read_to_string(root().join("k8s/monitoring").join(file)).unwrap();
        let names = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in names.filter(|name| name.starts_with("qslm_")) {
            let plain = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(known.contains(plain.unwrap_or(name)), "{file}: {name}");
        }
    }
}

fn version() -> String {
    succeed(&["version"]).split_whitespace().nth(1).unwrap().to_owned()
}
