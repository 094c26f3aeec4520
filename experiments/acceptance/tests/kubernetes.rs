//! On a cluster, any cluster: `KUBECONFIG=... IMAGE=...`. What an operator does, a step each, in a namespace of its own: `cargo
//! test .. --test kubernetes STEP` runs one alone. Each names what it did, and ends with the front that one process finds.
#![allow(clippy::disallowed_methods, reason = "the cluster and the image are given by variables")]
#![expect(clippy::disallowed_macros, reason = "what a test prints is shown by its harness")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qslm_acceptance::manifests::{Scratch, kustomize, put_together, script, with_components};
use qslm_acceptance::{one_process, root};
use serde_json::Value;

/// Time that anything may take that a cluster does.
const PATIENCE: Duration = Duration::from_secs(600);

/// A namespace of a step, with the image that its pods have.
struct Namespace {
    name: String,
    image: String,
    /// Small clusters have room for one step at a time.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Namespace {
    /// A namespace that is not there yet; `None`, and a line that says so, without a cluster.
    fn of_step(step: &str) -> Option<Self> {
        let (Some(_), Ok(image)) = (std::env::var_os("KUBECONFIG"), std::env::var("IMAGE")) else {
            eprintln!("SKIPPED {step}: no cluster. Set KUBECONFIG and IMAGE to run this.");
            return None;
        };
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self { name: format!("qslm-{step}-{}", std::process::id()), image, _alone: alone })
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        Command::new("kubectl").args(["--namespace", &self.name]).args(arguments).output().expect("kubectl")
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The namespace with tokens, as docs/kubernetes.md makes it.
    fn make(&self) {
        let text = std::fs::read_to_string(root().join("k8s/namespace.yaml")).unwrap();
        self.apply_text(&text.replace("\n  name: qslm\n", &format!("\n  name: {}\n", self.name)));
        self.apply_secret(&[]);
    }

    /// What kustomize made, in this namespace and with this image.
    fn here(&self, made: &str) -> String {
        let text = made.replace("namespace: qslm\n", &format!("namespace: {}\n", self.name));
        let lines = text.lines().map(|line| match line.split_once("image: qslm:") {
            Some((indent, _)) => format!("{indent}image: {}", self.image),
            None => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn made(&self, overlay: &str) -> String {
        self.here(&kustomize(overlay))
    }

    fn apply(&self, overlay: &str) {
        self.apply_text(&self.made(overlay));
    }

    /// Fails if the server has something else than was applied, as Argo CD and Flux would see it.
    fn differs_from_nothing(&self, overlay: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), self.made(overlay)).unwrap();
        let diff = self.kubectl(&["diff", "--filename", file.path().to_str().unwrap()]);
        assert!(diff.status.success(), "{overlay}: {}", String::from_utf8_lossy(&diff.stdout));
    }

    /// Waits until jobs are complete.
    fn complete(&self, jobs: &[&str]) {
        for job in jobs {
            self.succeed(&["wait", "--for=condition=complete", job, "--timeout=600s"]);
        }
    }

    fn coordinator_is_ready(&self) {
        self.succeed(&["rollout", "status", "statefulset/qslm-coordinator", "--timeout=600s"]);
    }

    /// The front that the submission printed, of the attempt that waited to the end.
    fn front(&self) -> Value {
        let selector = "app.kubernetes.io/name=qslm-submit";
        let ended = "--field-selector=status.phase=Succeeded";
        let pods = self.succeed(&["get", "pods", "--selector", selector, ended, "--output", "name"]);
        serde_json::from_str(&self.log(pods.lines().next().unwrap())).expect("one JSON document")
    }

    /// A worker that has something to lose.
    fn busy_worker(&self) -> String {
        self.until("a worker that has fetched the model", || {
            let list =
                ["get", "pods", "--selector", "app.kubernetes.io/name=qslm-worker", "--output", "name"];
            let pods = self.succeed(&list);
            pods.lines().find(|pod| self.log(pod).contains("fetched")).map(str::to_owned)
        })
    }

    /// The batch overlay and its submission, under way.
    fn sweep(&self) {
        self.make();
        self.apply("overlays/batch");
        self.apply("submit");
    }

    /// A sweep as [`Namespace::sweep`] began it ends with the front of one process.
    fn ends_well(&self) {
        self.complete(&["job/qslm-submit", "job/qslm-worker"]);
        assert_eq!(self.front(), one_process());
    }

    /// Applies the Secret that a script prints.
    fn apply_secret(&self, arguments: &[&str]) {
        let secret = script("make-secret", arguments, Path::new("."));
        assert!(secret.status.success(), "{}", String::from_utf8_lossy(&secret.stderr));
        self.apply_text(&String::from_utf8(secret.stdout).unwrap());
    }

    /// What is in the Secret under a key.
    fn secret(&self, key: &str) -> String {
        let path = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
        self.succeed(&["get", "secret", "qslm-tokens", "--output", &path])
    }

    fn apply_text(&self, text: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        self.succeed(&["apply", "--filename", file.path().to_str().unwrap()]);
    }

    /// Waits until a question has another answer than "not yet".
    fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            if start.elapsed() > PATIENCE {
                let pods = self.kubectl(&["describe", "pods"]);
                panic!("{what}: not within {PATIENCE:?}\n{}", String::from_utf8_lossy(&pods.stdout));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn log(&self, of: &str) -> String {
        String::from_utf8_lossy(&self.kubectl(&["logs", of]).stdout).into_owned()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("kubectl").args(["delete", "namespace", &self.name, "--wait=false"]).status();
    }
}

fn say(words: &str) {
    eprintln!("{words}");
}

#[test]
fn submit_waits_for_a_coordinator_that_is_applied_later_and_prints_one_document() {
    let Some(here) = Namespace::of_step("submit") else { return };
    here.make();
    here.apply("submit");
    here.apply("overlays/batch");
    here.ends_well();
    let failed = here.succeed(&["get", "job/qslm-submit", "--output", "jsonpath={.status.failed}"]);
    assert!(failed.is_empty() || failed == "0", "it was patient: {failed} attempts failed");
    say("submit, applied first, waited for the coordinator, and its log is the front");
}

#[test]
fn what_was_applied_differs_from_nothing() {
    let Some(here) = Namespace::of_step("diff") else { return };
    here.make();
    for overlay in ["overlays/batch", "submit"] {
        here.apply(overlay);
        here.differs_from_nothing(overlay);
        say(&format!("{overlay} is applied, and the server has nothing else"));
    }
}

#[test]
fn a_sweep_that_loses_pods_finds_what_one_process_finds() {
    let Some(here) = Namespace::of_step("loss") else { return };
    here.sweep();
    // As on a node that is gone: nobody is told.
    let worker = here.busy_worker();
    here.succeed(&["delete", &worker, "--force", "--grace-period=0"]);
    here.succeed(&["delete", "pod/qslm-coordinator-0"]);
    here.coordinator_is_ready();
    here.ends_well();
    say(
        "a sweep that lost a worker and its coordinator found what one process finds, and its Job is complete",
    );
}

/// Workers that are started before a second sweep is submitted wait for it by its name.
#[test]
fn a_second_sweep_on_the_same_volume() {
    let Some(here) = Namespace::of_step("second") else { return };
    here.sweep();
    here.ends_well();
    here.succeed(&["delete", "job", "qslm-worker", "qslm-submit"]);
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
    say("a second sweep on the same volume found the same");
}

#[test]
fn settings_and_pods_are_changed_in_the_middle_of_a_sweep() {
    let Some(here) = Namespace::of_step("upgrade") else { return };
    here.sweep();
    here.busy_worker();
    // Settings: nothing is refused, and pods have them when they are started again.
    let changed = here.made("overlays/batch").replace("4 GiB", "3 GiB");
    here.apply_text(&changed);
    here.succeed(&["delete", "pods", "--selector", "app.kubernetes.io/name=qslm-worker"]);
    say("settings were changed, and workers started again with them");
    // Another image, as far as a cluster with one can tell: another template of the Job's pods.
    let upgraded = changed.replace("250m", "200m");
    assert_ne!(changed, upgraded);
    here.succeed(&["delete", "job", "qslm-worker"]);
    here.apply_text(&upgraded);
    here.coordinator_is_ready();
    here.ends_well();
    say("the workers' Job was replaced, and the front is that of one process");
}

/// Fresh tokens beside the old ones, and then alone, in the middle of a sweep: no coordinator is started again for it.
#[test]
fn tokens_are_rotated_in_the_middle_of_a_sweep() {
    let Some(here) = Namespace::of_step("rotation") else { return };
    here.sweep();
    here.busy_worker();
    let started =
        || here.succeed(&["get", "pod", "qslm-coordinator-0", "--output", "jsonpath={.status.startTime}"]);
    let (before, worker) = (started(), here.secret("worker"));
    let file = tempfile::NamedTempFile::new().unwrap();
    for way in ["--keep", "--only"] {
        std::fs::write(file.path(), here.secret("tokens")).unwrap();
        here.apply_secret(&[way, file.path().to_str().unwrap()]);
        assert_eq!(here.secret("tokens").contains(&worker), way == "--keep");
    }
    here.ends_well();
    assert_eq!(started(), before);
    say("tokens were rotated under a sweep");
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
    say("pool was applied over batch");
    here.succeed(&["delete", "deployment", "qslm-worker"]);
    let certificates = script("make-certificates", &["2"], Path::new("."));
    here.apply_text(&String::from_utf8(certificates.stdout).unwrap());
    here.apply("overlays/tls");
    // Settings are read when a program begins.
    here.succeed(&["rollout", "restart", "statefulset/qslm-coordinator"]);
    here.coordinator_is_ready();
    here.apply("overlays/submit-tls");
    here.ends_well();
    say("tls was applied over pool, and a sweep went through it");
}

#[test]
fn a_backup_is_taken_of_what_runs() {
    let Some(here) = Namespace::of_step("backup") else { return };
    here.sweep();
    here.complete(&["job/qslm-submit"]);
    here.apply_text(&std::fs::read_to_string(root().join("k8s/backup-claim.yaml")).unwrap());
    here.apply_text(&here.here(&with_components(&["backup"])));
    here.succeed(&["create", "job", "--from=cronjob/qslm-backup", "backup-now"]);
    here.complete(&["job/backup-now"]);
    let printed: Value = serde_json::from_str(&here.log("job/backup-now")).unwrap();
    assert_eq!(printed["experiments"], 1, "{printed}");
    assert_eq!(printed["measurements"], here.front()["measured"], "{printed}");
    say("a backup was taken, and has every measurement");
}

/// Whoever deletes the overlay keeps the volume.
#[test]
fn clean_up_keeps_the_volume() {
    let Some(here) = Namespace::of_step("cleanup") else { return };
    here.make();
    here.apply("overlays/batch");
    here.coordinator_is_ready();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), here.made("overlays/batch")).unwrap();
    here.succeed(&["delete", "--filename", file.path().to_str().unwrap(), "--wait=true"]);
    let claims = here.succeed(&["get", "persistentvolumeclaims", "--output", "name"]);
    assert!(claims.contains("data-qslm-coordinator-0"), "{claims}");
    say("the overlay is deleted, and the volume is there");
}

#[test]
fn one_act_is_one_sweep_and_all_of_it_ends() {
    let Some(here) = Namespace::of_step("sweep") else { return };
    let scratch = Scratch::new();
    let spec = root().join("k8s/components/sweep/spec.toml");
    let made = script("make-sweep", &[&here.name, spec.to_str().unwrap()], scratch.path());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = here.here(&put_together(&scratch.path().join(&here.name)));
    here.apply_text(&text);
    let ended = "--for=jsonpath={.status.conditions[0].status}=True";
    here.succeed(&["wait", ended, "--timeout=600s", "job/qslm-submit"]);
    here.complete(&["job/qslm-submit", "job/qslm-worker", "job/qslm-coordinator"]);
    assert_eq!(here.front(), one_process());
    say("a sweep was applied in one act, and coordinator, workers and submission are complete");

    // A spec that makes no sense fails the submission, and the reason is in its pod.
    here.succeed(&["delete", "job", "qslm-submit", "qslm-worker", "qslm-coordinator"]);
    let wrong = text.replace("kind = \"qslm\"", "kind = \"nonsense\"");
    assert_ne!(text, wrong);
    here.apply_text(&wrong);
    here.succeed(&["wait", ended, "--timeout=600s", "job/qslm-submit"]);
    let path = "jsonpath={.items[0].status.containerStatuses[0].state.terminated.message}";
    let message = here.succeed(&["get", "pods", "--selector", "job-name=qslm-submit", "--output", path]);
    assert!(message.starts_with("exit code 2: ") && message.contains("nonsense"), "{message}");
    say("a spec that makes no sense ended the submission with its reason");
}
