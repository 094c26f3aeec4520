//! On a cluster, any cluster: `KUBECONFIG=... IMAGE=...`. What an operator does, a step each, in a namespace of its own: `cargo
//! test .. --test kubernetes STEP` runs one alone. Each names what it did, and ends with the front that one process finds; one
//! that fails prints what there is to know of its namespace before that is deleted.
#![allow(clippy::disallowed_methods, reason = "the network has some seconds to come late")]

use std::path::Path;
use std::time::Duration;

use qslm_acceptance::cluster::{Namespace, text};
use qslm_acceptance::manifests::{Scratch, put_together, script, with_components};
use qslm_acceptance::{one_process, root};

/// Logged once a running pod has a new Secret, for which its kubelet looks every 60 to 90 s.
const READ_AGAIN: &str = "read again";

#[test]
fn submit_waits_for_a_coordinator_that_is_applied_later_and_prints_one_document() {
    let Some(here) = Namespace::of_step("submit") else { return };
    here.make();
    // Which come with the overlay, and without which it had no pod.
    here.apply_text(&std::fs::read_to_string(root().join("k8s/base/service-accounts.yaml")).unwrap());
    here.apply("submit");
    here.succeed(&["wait", "--for=jsonpath={.status.ready}=1", "job/qslm-submit", "--timeout=600s"]);
    std::thread::sleep(Duration::from_secs(5));
    here.say("submit runs, and there is no coordinator");
    here.apply("overlays/batch");
    here.ends_well();
    here.say("submit, applied first, waited for the coordinator, and its log is the front");
}

#[test]
fn what_was_applied_differs_from_nothing() {
    let Some(here) = Namespace::of_step("diff") else { return };
    here.make();
    here.apply("overlays/batch");
    // What has a status that changes would differ by it.
    here.coordinator_is_ready();
    here.succeed(&["wait", "--for=jsonpath={.status.ready}=4", "job/qslm-worker", "--timeout=600s"]);
    here.differs_from_nothing("overlays/batch");
    here.say("batch is applied, and the server has nothing else");
    here.apply("submit");
    here.ends_well();
    here.differs_from_nothing("submit");
    here.say("submit is applied, and the server has nothing else");
}

#[test]
fn a_sweep_that_loses_pods_finds_what_one_process_finds() {
    let Some(here) = Namespace::of_step("loss") else { return };
    here.sweep_with(&here.slow());
    // Gone from the API at once, and told a second or two before it is killed: it hands its leases back. Whoever waited for the
    // end of it would wait for the pod in its place, too.
    let worker = here.busy_worker();
    here.succeed(&["delete", &worker, "--force", "--grace-period=0", "--wait=false"]);
    here.is_under_way("a worker was deleted");
    let coordinator = || here.json(&["get", "pods", "--selector", "app.kubernetes.io/name=qslm-coordinator"]);
    let before = coordinator()["items"][0]["metadata"]["uid"].take();
    here.succeed(&["delete", "pod/qslm-coordinator-0"]);
    here.until("another coordinator that is ready", || {
        let pod = coordinator()["items"][0].take();
        let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        (ready && pod["metadata"]["uid"] != before).then_some(())
    });
    here.is_under_way("the coordinator was deleted, and another one is ready");
    here.ends_well();
    here.say("a sweep that lost a worker and its coordinator found what one process finds");
}

/// Workers that are started before a second sweep is submitted wait for it by its name.
#[test]
fn a_second_sweep_on_the_same_volume() {
    let Some(here) = Namespace::of_step("second") else { return };
    here.sweep();
    here.ends_well();
    // With their pods, or those of the first submission would be read as the second's.
    here.succeed(&["delete", "--cascade=foreground", "job", "qslm-worker", "qslm-submit"]);
    here.succeed(&["create", "configmap", "qslm-sweep", "--from-literal", "experiment=second"]);
    here.apply("overlays/batch");
    here.succeed(&["wait", "--for=jsonpath={.status.ready}=4", "job/qslm-worker", "--timeout=600s"]);
    let submit = here.made("submit");
    let named =
        submit.replace("        - --wait\n", "        - --wait\n        - --set\n        - name=second\n");
    assert_ne!(submit, named);
    here.apply_text(&named);
    here.complete(&["job/qslm-submit", "job/qslm-worker"]);
    assert_eq!(here.front()["front"], one_process()["front"]);
    here.say("a second sweep on the same volume found the same");
}

#[test]
fn settings_and_pods_are_changed_in_the_middle_of_a_sweep() {
    let Some(here) = Namespace::of_step("upgrade") else { return };
    let slow = here.slow();
    here.sweep_with(&slow);
    here.busy_worker();
    // Settings: nothing is refused, and pods have them when they are started again. A worker's log shows one.
    let (json, text) = ("4 GiB\"\n    log_format = \"json\"", "3 GiB\"\n    log_format = \"text\"");
    let changed = |made: &str| {
        assert_eq!(made.matches(json).count(), 1);
        made.replace(json, text)
    };
    here.apply_text(&changed(&slow));
    let before = here.workers();
    here.succeed(&["delete", "pods", "--selector", "app.kubernetes.io/name=qslm-worker", "--wait=false"]);
    let logs = here.until("a log of each of four new workers", || {
        let new = here.workers().into_iter().filter(|pod| !before.contains(pod));
        let logs: Vec<_> = new.map(|pod| here.log(&pod)).filter(|log| !log.is_empty()).collect();
        (logs.len() >= 4).then_some(logs)
    });
    assert!(logs.iter().all(|log| !log.starts_with('{')), "not with the changed settings: {logs:?}");
    here.is_under_way("settings were changed, and workers started again with them");
    // Another image, as far as a cluster with one can tell: another template of the Job's pods, which are not slow any more.
    here.succeed(&["delete", "job", "qslm-worker"]);
    here.is_under_way("the workers' Job was deleted");
    here.apply_text(&changed(&here.made("overlays/batch")));
    here.ends_well();
    here.say("the workers' Job was replaced, and the front is that of one process");
}

/// Fresh tokens beside the old ones, and then alone, in the middle of a sweep: no coordinator is started again for it.
#[test]
fn tokens_are_rotated_in_the_middle_of_a_sweep() {
    let Some(here) = Namespace::of_step("rotation") else { return };
    let (four, slow) = (["completions: 4", "parallelism: 4"], here.slow());
    assert!(four.iter().all(|count| slow.contains(count)));
    here.sweep_with(&four.iter().fold(slow, |text, count| text.replace(count, &count.replace('4', "1"))));
    let (worker, coordinator) = (here.busy_worker(), "pod/qslm-coordinator-0".to_owned());
    let started = || here.json(&["get", &coordinator])["status"]["startTime"].take();
    let (before, old) = (started(), here.secret("worker"));
    let file = tempfile::NamedTempFile::new().unwrap();
    // The worker's own is another one beside the old ones, and stays when those go.
    for (way, readers) in [("--keep", &[&coordinator, &worker][..]), ("--only", &[&coordinator][..])] {
        let read = || readers.iter().map(|pod| here.log(pod).matches(READ_AGAIN).count()).collect::<Vec<_>>();
        let known = read();
        std::fs::write(file.path(), here.secret("tokens")).unwrap();
        here.apply_secret(&[way, file.path().to_str().unwrap()]);
        assert_eq!(here.secret("tokens").contains(&old), way == "--keep");
        here.until(&format!("{READ_AGAIN}, {way}: {readers:?}"), || {
            read().iter().zip(&known).all(|(now, before)| now > before).then_some(())
        });
        here.is_under_way(&format!("tokens were rotated ({way}), and are read"));
    }
    assert_eq!((started(), here.workers()), (before, vec![worker]), "none was started again");
    // So that it ends before long.
    let more = "{\"spec\":{\"completions\":8,\"parallelism\":8}}";
    here.succeed(&["patch", "job", "qslm-worker", "--patch", more]);
    here.is_under_way("more workers were started");
    here.ends_well();
    here.say("tokens were rotated under a sweep");
}

#[test]
fn one_overlay_is_applied_over_another() {
    let Some(here) = Namespace::of_step("overlays") else { return };
    here.make();
    here.apply("overlays/batch");
    here.coordinator_is_ready();
    here.succeed(&["delete", "job", "qslm-worker"]);
    here.apply("overlays/pool");
    here.succeed(&["rollout", "status", "deployment/qslm-worker", "--timeout=600s"]);
    here.say("pool was applied over batch");
    here.succeed(&["delete", "deployment/qslm-worker", "pdb/qslm-worker"]);
    let certificates = script("make-certificates", &["2"], Path::new("."));
    assert!(certificates.status.success(), "{}", text(&certificates.stderr));
    here.apply_text(&String::from_utf8(certificates.stdout).unwrap());
    here.apply("overlays/tls");
    // Settings are read when a program begins.
    here.succeed(&["rollout", "restart", "statefulset/qslm-coordinator"]);
    here.coordinator_is_ready();
    here.apply("overlays/submit-tls");
    here.ends_well();
    // One that is over a Job's pods lets none of them go, and no node be drained.
    let budgets = here.succeed(&["get", "poddisruptionbudgets", "--output", "name"]);
    assert_eq!(budgets.lines().collect::<Vec<_>>(), ["poddisruptionbudget.policy/qslm-coordinator"]);
    here.say("tls was applied over pool, and a sweep went through it");
}

#[test]
fn a_backup_is_taken_of_what_runs() {
    let Some(here) = Namespace::of_step("backup") else { return };
    here.sweep();
    here.ends_well();
    here.apply_text(&std::fs::read_to_string(root().join("k8s/backup-claim.yaml")).unwrap());
    here.apply_text(&here.here(&with_components(&["backup"])));
    here.succeed(&["create", "job", "--from=cronjob/qslm-backup", "backup-now"]);
    here.complete(&["job/backup-now"]);
    let printed = here.printed("backup-now");
    assert_eq!(printed["experiments"], 1, "{printed}");
    assert_eq!(printed["measurements"], here.front()["measured"], "{printed}");
    here.say("a backup was taken, and has every measurement");
}

/// Whoever deletes the overlay keeps the volume, and a coordinator on it knows the front without any worker.
#[test]
fn clean_up_keeps_the_volume() {
    let Some(here) = Namespace::of_step("cleanup") else { return };
    here.sweep();
    here.ends_well();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), here.made("overlays/batch")).unwrap();
    here.succeed(&["delete", "--filename", file.path().to_str().unwrap(), "--wait=true"]);
    here.succeed(&["delete", "--cascade=foreground", "job/qslm-submit"]);
    let claims = here.succeed(&["get", "persistentvolumeclaims", "--output", "name"]);
    assert!(claims.contains("data-qslm-coordinator-0"), "{claims}");
    here.say("the overlay is deleted, and the volume is there");
    here.apply("base");
    here.apply("submit");
    here.complete(&["job/qslm-submit"]);
    assert_eq!(here.front(), one_process());
    here.say("a coordinator was applied again, and had the front on its volume");
}

#[test]
fn one_act_is_one_sweep_and_all_of_it_ends() {
    let Some(here) = Namespace::of_step("sweep") else { return };
    let scratch = Scratch::new();
    let spec = root().join("k8s/components/sweep/spec.toml");
    let made = script("make-sweep", &[&here.name, spec.to_str().unwrap()], scratch.path());
    assert!(made.status.success(), "{}", text(&made.stderr));
    let text = here.here(&put_together(&scratch.path().join(&here.name)));
    here.apply_text(&text);
    here.complete(&["job/qslm-submit", "job/qslm-worker", "job/qslm-coordinator"]);
    assert_eq!(here.front(), one_process());
    here.say("a sweep was applied in one act, and coordinator, workers and submission are complete");

    // A spec that makes no sense fails the submission, and the reason is in its pod: the pods before it go first.
    let jobs = ["qslm-submit", "qslm-worker", "qslm-coordinator"];
    here.succeed(&[&["delete", "--cascade=foreground", "job"][..], &jobs[..]].concat());
    let wrong = text.replace("kind = \"qslm\"", "kind = \"nonsense\"");
    assert_ne!(text, wrong);
    here.apply_text(&wrong);
    let (end, why) = here.ended("job/qslm-submit");
    assert_eq!(end, "Failed", "{why}");
    let path = "jsonpath={.items[0].status.containerStatuses[0].state.terminated.message}";
    let message = here.succeed(&["get", "pods", "--selector", "job-name=qslm-submit", "--output", path]);
    assert!(message.starts_with("exit code 2: ") && message.contains("nonsense"), "{message}");
    here.say("a spec that makes no sense ended the submission with its reason");
}
