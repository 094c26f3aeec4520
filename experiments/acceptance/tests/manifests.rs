//! The Kubernetes manifests: every overlay is put together by kustomize and held to the schemas of two versions of
//! Kubernetes, strictly; and to what a platform team asks of pods.

use std::collections::BTreeSet;
use std::process::Command;

use qslm_acceptance::manifests::{
    COMPONENTS, OVERLAYS, documents, every_document, fits_the_schemas, kustomize, name_of, parsed, pod_of,
    with_components,
};
use qslm_acceptance::{root, succeed};
use serde_json::Value;

#[test]
fn every_overlay_fits_the_schemas() {
    for overlay in OVERLAYS {
        fits_the_schemas(overlay, &kustomize(overlay));
    }
    for components in COMPONENTS {
        fits_the_schemas(components[components.len() - 1], &with_components(components));
    }
    for file in ["backup-claim.yaml", "sweep-claims.yaml", "results.yaml", "namespace.yaml"] {
        fits_the_schemas(file, &std::fs::read_to_string(root().join("k8s").join(file)).unwrap());
    }
}

#[test]
fn every_pod_is_restricted_and_bounded_and_needs_no_api() {
    let mut seen = BTreeSet::new();
    for (overlay, document) in every_document() {
        let Some(pod) = pod_of(&document) else { continue };
        let what = format!("{overlay}: {}", name_of(&document));
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
            // Exit code and reason of its end, also where it cannot say them.
            assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError", "{what}");
            let message =
                serde_json::json!({"name": "QSLM_TERMINATION_MESSAGE", "value": "/dev/termination-log"});
            assert!(container["env"].as_array().unwrap().contains(&message), "{what}");
        }
    }
    assert_eq!(seen, BTreeSet::from(["CronJob", "Deployment", "Job", "StatefulSet"].map(str::to_owned)));
}

#[test]
fn what_is_deleted_with_an_overlay_is_no_result_and_overlays_share_one_coordinator() {
    let mut claims = BTreeSet::new();
    for (overlay, document) in every_document() {
        assert_ne!(document["kind"], "Namespace", "{overlay}: the volume would go with it");
        assert_ne!(document["kind"], "PersistentVolumeClaim", "{overlay}: what is on it would go with it");
        if document["kind"] == "StatefulSet" {
            assert_eq!(document["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"], "Retain");
            claims.insert(document["spec"]["volumeClaimTemplates"].to_string());
            claims.insert(document["spec"]["selector"].to_string());
        }
    }
    // Neither may change, so that one overlay can be applied over another.
    assert_eq!(claims.len(), 2, "{claims:?}");
}

#[test]
fn what_was_applied_differs_from_nothing_that_the_server_gives_back() {
    for (overlay, document) in every_document() {
        let what = format!("{overlay}: {}", name_of(&document));
        let spec = &document["spec"];
        let empty = |rules: &Value| rules.as_array().is_some_and(Vec::is_empty);
        assert!(!empty(&spec["egress"]) && !empty(&spec["ingress"]), "{what}: an empty list is left out");
        let rules =
            ["ingress", "egress"].into_iter().flat_map(|way| spec[way].as_array().into_iter().flatten());
        let of_rules = rules.flat_map(|rule| rule["ports"].as_array().into_iter().flatten());
        let of_service = spec["ports"].as_array().into_iter().flatten();
        for port in of_rules.chain(of_service) {
            assert!(port["protocol"].is_string(), "{what}: the server would add TCP");
        }
    }
}

/// What a script prints, given these arguments.
fn script(name: &str, arguments: &[&str]) -> std::process::Output {
    Command::new(root().join("k8s").join(name)).args(arguments).output().unwrap()
}

#[test]
fn tokens_are_rotated_with_the_old_ones_beside_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let secret = |arguments: &[&str]| {
        let output = script("make-secret", arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let all = parsed(&String::from_utf8(output.stdout).unwrap());
        let data = all[0]["stringData"].clone();
        std::fs::write(&file, data["tokens"].as_str().unwrap()).unwrap();
        data
    };
    let of_file = file.to_str().unwrap();
    let lines = |data: &Value| data["tokens"].as_str().unwrap().lines().count();
    let first = secret(&[]);
    let both = secret(&["--keep", of_file]);
    assert_eq!((lines(&first), lines(&both)), (3, 6));
    assert_ne!(first["worker"], both["worker"]);
    for role in ["worker", "submitter", "reader"] {
        let tokens = both["tokens"].as_str().unwrap();
        assert!(tokens.contains(first[role].as_str().unwrap()), "the old {role} goes on");
        assert!(tokens.contains(both[role].as_str().unwrap()));
    }
    let only = secret(&["--only", of_file]);
    assert_eq!((lines(&only), &only["worker"], &only["reader"]), (3, &both["worker"], &both["reader"]));
    assert_eq!(script("make-secret", &["--keep", "/none"]).status.code(), Some(2));
    std::fs::write(&file, "reader team x\n").unwrap();
    let refused = script("make-secret", &["--only", of_file]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no token of the role worker"));
}

#[test]
fn certificates_are_signed_for_the_names_that_pods_and_port_forwards_use() {
    let output = script("make-certificates", &["2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let secrets = parsed(&String::from_utf8(output.stdout).unwrap());
    let wanted: BTreeSet<&str> = ["qslm-coordinator-tls", "qslm-worker-tls"].into();
    assert_eq!(
        secrets.iter().map(|secret| secret["metadata"]["name"].as_str().unwrap()).collect::<BTreeSet<_>>(),
        wanted
    );
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).current_dir(folder.path()).output().expect("openssl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for secret in &secrets {
        assert_eq!(secret["type"], "kubernetes.io/tls");
        for (name, encoded) in secret["data"].as_object().unwrap() {
            let coded = folder.path().join("coded");
            std::fs::write(&coded, encoded.as_str().unwrap()).unwrap();
            openssl(&["base64", "-d", "-A", "-in", "coded", "-out", name]);
        }
        let server = secret["metadata"]["name"] == "qslm-coordinator-tls";
        let purpose = if server { "sslserver" } else { "sslclient" };
        openssl(&["verify", "-CAfile", "ca.crt", "-purpose", purpose, "tls.crt"]);
        if server {
            openssl(&["verify", "-CAfile", "ca.crt", "-verify_hostname", "qslm-coordinator", "tls.crt"]);
            openssl(&["verify", "-CAfile", "ca.crt", "-verify_hostname", "localhost", "tls.crt"]);
        }
        assert!(openssl(&["pkey", "-in", "tls.key", "-noout", "-text"]).contains("prime256v1"));
    }
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
fn a_backup_is_a_command_that_there_is_with_a_token_that_may_and_a_claim_that_no_overlay_has() {
    let text = with_components(&["backup", "tls"]);
    let all = parsed(&text);
    let job = all.iter().find(|document| document["kind"] == "CronJob").unwrap();
    let pod = pod_of(job).unwrap();
    let container = &pod["containers"][0];
    let command: Vec<&str> =
        container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command[0], "qslm");
    // Its arguments are some, and what it lacks here is the coordinator.
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("qslm.redb");
    let arguments = command[1..].iter().map(|word| word.replace("/backup/qslm.redb", here.to_str().unwrap()));
    let tried = Command::new(qslm_acceptance::program("qslm"))
        .args(arguments)
        .args(["--connect-timeout", "0", "--coordinator", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    let said = String::from_utf8(tried.stderr).unwrap();
    assert!(tried.status.code() == Some(5) && said.contains("no coordinator answers"), "{said}");
    // Over mutual TLS, where that component comes after.
    let env = container["env"].as_array().unwrap();
    let value = |name: &str| &env.iter().find(|variable| variable["name"] == name).unwrap()["value"];
    assert_eq!(value("QSLM_CLIENT_COORDINATOR"), "https://qslm-coordinator:7477");
    assert_eq!(value("QSLM_CLIENT_CERTIFICATE"), "/secrets/tls/tls.crt");
    assert_eq!(value("QSLM_CLIENT_TOKEN_FILE"), "/secrets/tokens/submitter");
    let claim = std::fs::read_to_string(root().join("k8s/backup-claim.yaml")).unwrap();
    let claimed = pod["volumes"].as_array().unwrap().iter();
    let claimed = claimed.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    assert_eq!(claimed.collect::<Vec<_>>(), [parsed(&claim)[0]["metadata"]["name"].as_str().unwrap()]);
}

#[test]
fn the_dashboard_the_alerts_and_the_scalers_ask_for_metrics_that_there_are() {
    let reference = succeed(&["reference", "metrics"]);
    let known: BTreeSet<&str> = reference.split('`').filter(|word| word.starts_with("qslm_")).collect();
    let scalers = ["../overlays/keda/scaler.yaml", "../overlays/hpa/scaler.yaml"];
    for file in ["dashboard.json", "alerts.yaml", "adapter.yaml"].into_iter().chain(scalers) {
        let text = std::fs::read_to_string(root().join("k8s/monitoring").join(file)).unwrap();
        let names = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in names.filter(|name| name.starts_with("qslm_")) {
            let plain = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(known.contains(plain.unwrap_or(name)), "{file}: {name}");
        }
    }
    // For the operator the same rules under another head.
    let printed = script("monitoring/rule", &[]);
    let [rule] = &parsed(&String::from_utf8(printed.stdout).unwrap())[..] else { panic!("one document") };
    let alerts = std::fs::read_to_string(root().join("k8s/monitoring/alerts.yaml")).unwrap();
    assert_eq!((&rule["kind"], &rule["spec"]), (&Value::from("PrometheusRule"), &parsed(&alerts)[0]));
}

fn version() -> String {
    succeed(&["version"]).split_whitespace().nth(1).unwrap().to_owned()
}
