//! Changes of what runs, held to the fields that Kubernetes lets change: another image, other settings, more workers, another
//! overlay. What it would refuse is what docs/kubernetes.md says to delete first, and nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use qslm_acceptance::manifests::{OVERLAYS, Scratch, documents, name_of, parsed, put_together};
use qslm_acceptance::root;
use serde_json::{Value, json};

/// Objects that the server would refuse to change from what was applied before to what is applied after.
fn refused(before: &[Value], after: &[Value]) -> Vec<String> {
    let known: BTreeMap<String, &Value> =
        before.iter().map(|document| (name_of(document), document)).collect();
    let both = after.iter().filter_map(|new| Some((name_of(new), *known.get(&name_of(new))?, new)));
    both.filter(|(_, old, new)| is_refused(old, new)).map(|(name, ..)| name).collect()
}

/// As the validation of updates of each kind has it (Kubernetes 1.32: `ValidateJobSpecUpdate`, `ValidateStatefulSetUpdate`,
/// `ValidateDeploymentUpdate`, `ValidatePersistentVolumeClaimUpdate`, `ValidateServiceUpdate`).
fn is_refused(old: &Value, new: &Value) -> bool {
    let (old, new) = (&old["spec"], &new["spec"]);
    let differ = |field: &str| old[field] != new[field];
    let all_but = |free: &[&str]| {
        let mut fields = [old, new].into_iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys);
        fields.any(|field| !free.contains(&field.as_str()) && differ(field))
    };
    match old["kind_of"].as_str().unwrap_or_default() {
        "Job" => {
            let fixed =
                ["template", "selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"];
            let more = ["successPolicy", "podReplacementPolicy", "managedBy"];
            // Completions of an Indexed Job change together with its parallelism.
            let elastic = new["completions"] == new["parallelism"] && new["completionMode"] == "Indexed";
            fixed.into_iter().chain(more).any(differ) || (differ("completions") && !elastic)
        }
        "StatefulSet" => {
            let free = ["replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit"];
            all_but(
                &[&free[..], &["persistentVolumeClaimRetentionPolicy", "minReadySeconds", "kind_of"]]
                    .concat(),
            )
        }
        "Deployment" => differ("selector"),
        "PersistentVolumeClaim" => all_but(&["resources", "volumeAttributesClassName", "kind_of"]),
        "Service" => differ("clusterIP"),
        _ => false,
    }
}

/// With its kind in the spec, where the rules look at it.
fn ready(documents: Vec<Value>) -> Vec<Value> {
    let with_kind = |mut document: Value| {
        if document["spec"].is_object() {
            document["spec"]["kind_of"] = document["kind"].clone();
        }
        document
    };
    documents.into_iter().map(with_kind).collect()
}

fn overlay(name: &str) -> Vec<Value> {
    ready(documents(name))
}

/// The documents of an overlay after a file of `k8s` was changed.
fn changed(overlay: &str, file: &str, from: &str, to: &str) -> Vec<Value> {
    let scratch = Scratch::new();
    let copy: PathBuf = scratch.path().join("k8s");
    assert!(Command::new("cp").arg("-r").arg(root().join("k8s")).arg(&copy).status().unwrap().success());
    let text = std::fs::read_to_string(copy.join(file)).unwrap();
    assert!(text.contains(from), "{file}: {from}");
    std::fs::write(copy.join(file), text.replace(from, to)).unwrap();
    ready(parsed(&put_together(&copy.join(overlay))))
}

/// Jobs among the documents of an overlay.
fn jobs(overlay: &[Value]) -> Vec<String> {
    overlay.iter().filter(|document| document["kind"] == "Job").map(name_of).collect()
}

#[test]
fn another_image_changes_what_may_change_and_the_jobs_that_are_deleted_first() {
    for name in OVERLAYS {
        let before = overlay(name);
        // The GPU overlay names an image of its own.
        let (file, from) = match name {
            "overlays/gpu" => ("overlays/gpu/kustomization.yaml", "newTag: 0.1.0"),
            _ => ("components/image/kustomization.yaml", "newTag: 0.1.0"),
        };
        let after = changed(name, file, from, "newTag: 0.2.0");
        assert_ne!(before, after, "{name}");
        assert_eq!(refused(&before, &after), jobs(&before), "{name}");
    }
}

#[test]
fn other_settings_need_no_other_job() {
    let programs = [("base/coordinator.toml", "log_format", "max_connections = 100\nlog_format")];
    let programs = programs.into_iter().chain([("base/worker.toml", "4 GiB", "3 GiB")]);
    for (file, from, to) in programs {
        for name in ["overlays/batch", "overlays/large", "overlays/pool", "overlays/kueue", "overlays/sweep"]
        {
            let (before, after) = (overlay(name), changed(name, file, from, to));
            let differ = before.iter().zip(&after).filter(|(old, new)| old != new);
            assert_eq!(differ.map(|(old, _)| name_of(old)).collect::<Vec<_>>(), ["ConfigMap/qslm-config"]);
        }
    }
    let files = [("components/tls/worker.toml", "4 GiB", "3 GiB")];
    for (file, from, to) in files {
        assert_eq!(refused(&overlay("overlays/tls"), &changed("overlays/tls", file, from, to)), [""; 0]);
    }
}

#[test]
fn more_workers_in_the_middle_are_completions_and_parallelism_together() {
    let before = overlay("overlays/batch");
    let with = |completions: u32, parallelism: u32| {
        let mut after = before.clone();
        let job = after.iter_mut().find(|document| document["kind"] == "Job").unwrap();
        job["spec"]["completions"] = completions.into();
        job["spec"]["parallelism"] = parallelism.into();
        refused(&before, &after)
    };
    assert_eq!(with(8, 8), [""; 0]);
    assert_eq!(with(8, 4), ["Job/qslm-worker"], "of one alone nothing is to be had");
}

#[test]
fn another_overlay_changes_nothing_but_the_workers_jobs() {
    let all = [
        "overlays/batch",
        "overlays/large",
        "overlays/pool",
        "overlays/keda",
        "overlays/hpa",
        "overlays/kueue",
        "overlays/tls",
    ];
    for from in all {
        let before = overlay(from);
        for to in all {
            let refused = refused(&before, &overlay(to));
            assert!(refused.iter().all(|name| name == "Job/qslm-worker"), "{from} to {to}: {refused:?}");
        }
    }
    // The sweep's coordinator is a Job beside the StatefulSet of the others: two would be at one store.
    assert!(jobs(&overlay("overlays/sweep")).contains(&"Job/qslm-coordinator".to_owned()));
}

#[test]
fn what_kubernetes_refuses_is_refused_here() {
    let before = overlay("overlays/batch");
    let with = |kind: &str, field: &str, value: Value| {
        let mut after = before.clone();
        let changed = after.iter_mut().find(|document| document["kind"] == kind).unwrap();
        changed["spec"][field] = value;
        refused(&before, &after).len()
    };
    assert_eq!(with("StatefulSet", "volumeClaimTemplates", json!([])), 1);
    assert_eq!(with("StatefulSet", "serviceName", json!("other")), 1);
    assert_eq!(with("StatefulSet", "replicas", json!(0)), 0);
    assert_eq!(with("StatefulSet", "template", json!({})), 0);
    assert_eq!(with("Job", "template", json!({})), 1);
    assert_eq!(with("Job", "activeDeadlineSeconds", json!(60)), 0);
    assert_eq!(with("Service", "clusterIP", json!("None")), 1);
}
