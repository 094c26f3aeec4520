//! A namespace of a cluster, for one step of an operator: what is applied there, what is asked of it, and what is printed of it
//! if the step fails.
#![expect(clippy::disallowed_macros, reason = "what a test prints is shown by its harness")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::manifests::{kustomize, script};
use crate::{one_process, root};

/// Time that anything may take that a cluster does.
const PATIENCE: Duration = Duration::from_secs(600);
/// Of a core, for workers of a sweep that has to be under way for long enough. It takes 13 core-seconds of an AMD EPYC, so one
/// worker goes on for 650 s and four for 165 s, whatever else the cluster has. With less, they would miss their probes.
const SLOW: &str = "cpu: 20m";
/// What workers of `overlays/batch` have instead.
const FULL: &str = "cpu: \"2\"";
const REQUESTED: &str = "cpu: 250m";
/// What to print of a step that failed.
const EVERYTHING: [&[&str]; 8] = [
    &["version"],
    &["get", "nodes,storageclasses", "--output=wide"],
    &["get", "all,persistentvolumeclaims,networkpolicies,poddisruptionbudgets", "--output=wide"],
    &["get", "events", "--sort-by=.metadata.creationTimestamp"],
    &["describe", "jobs,statefulsets,deployments"],
    &["describe", "pods"],
    &["get", "configmap", "qslm-config", "--output=yaml"],
    &["logs", "--selector=app.kubernetes.io/part-of=qslm", "--prefix", "--tail=50", "--ignore-errors"],
];

/// A namespace of a step, with the image that its pods have.
pub struct Namespace {
    /// Name, of this process alone.
    pub name: String,
    image: String,
    begun: Instant,
    /// Small clusters have room for one step at a time.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Namespace {
    /// A namespace that is not there yet; `None`, and a line that says so, without a cluster.
    pub fn of_step(step: &str) -> Option<Self> {
        let (Some(_), Ok(image)) = (std::env::var_os("KUBECONFIG"), std::env::var("IMAGE")) else {
            eprintln!("SKIPPED {step}: no cluster. Set KUBECONFIG and IMAGE to run this.");
            return None;
        };
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, begun) = (format!("qslm-{step}-{}", std::process::id()), Instant::now());
        eprintln!("{name}: begins, with {image}");
        Some(Self { name, image, begun, _alone: alone })
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        Command::new("kubectl").args(["--namespace", &self.name]).args(arguments).output().expect("kubectl")
    }

    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(output.status.success(), "kubectl {arguments:?}: {}", text(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The namespace with tokens, as docs/kubernetes.md makes it.
    pub fn make(&self) {
        let text = std::fs::read_to_string(root().join("k8s/namespace.yaml")).unwrap();
        self.apply_text(&text.replace("\n  name: qslm\n", &format!("\n  name: {}\n", self.name)));
        self.apply_secret(&[]);
    }

    /// What kustomize made, in this namespace and with this image.
    pub fn here(&self, made: &str) -> String {
        let text = made.replace("namespace: qslm\n", &format!("namespace: {}\n", self.name));
        let lines = text.lines().map(|line| match line.split_once("image: qslm:") {
            Some((indent, _)) => format!("{indent}image: {}", self.image),
            None => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    pub fn made(&self, overlay: &str) -> String {
        self.here(&kustomize(overlay))
    }

    pub fn apply(&self, overlay: &str) {
        self.apply_text(&self.made(overlay));
    }

    /// Fails if the server has something else than was applied, as Argo CD and Flux would see it.
    pub fn differs_from_nothing(&self, overlay: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), self.made(overlay)).unwrap();
        let diff = self.kubectl(&["diff", "--filename", file.path().to_str().unwrap()]);
        let (status, differs, says) = (diff.status, text(&diff.stdout), text(&diff.stderr));
        // 1: something differs; more: it could not be asked.
        assert!(status.success(), "{overlay}, {status}: {differs}{says}");
    }

    /// How a job has ended, once it has: `Complete` or `Failed`, with the reason.
    pub fn ended(&self, job: &str) -> (String, String) {
        self.until(&format!("the end of {job}"), || {
            let status = self.json(&["get", job])["status"].take();
            let is = |condition: &Value, end| condition["type"] == end && condition["status"] == "True";
            let of_end = |condition: &&Value| is(condition, "Complete") || is(condition, "Failed");
            let end = status["conditions"].as_array()?.iter().find(of_end)?;
            let words = |field: &str| end[field].as_str().unwrap_or_default().to_owned();
            Some((words("type"), format!("{}: {}", words("reason"), words("message"))))
        })
    }

    /// Waits until jobs are complete. One that fails is not waited for.
    pub fn complete(&self, jobs: &[&str]) {
        for job in jobs {
            let (end, why) = self.ended(job);
            assert_eq!(end, "Complete", "{job}: {why}");
        }
    }

    pub fn coordinator_is_ready(&self) {
        self.succeed(&["rollout", "status", "statefulset/qslm-coordinator", "--timeout=600s"]);
    }

    /// What the pod of a job has printed that succeeded: `logs job/..` would take an earlier attempt.
    pub fn printed(&self, job: &str) -> Value {
        let selector = format!("job-name={job}");
        let ended = "--field-selector=status.phase=Succeeded";
        let pods = self.succeed(&["get", "pods", "--selector", &selector, ended, "--output", "name"]);
        let log = self.log(pods.lines().next().unwrap_or_else(|| panic!("{job}: no pod has succeeded")));
        serde_json::from_str(&log).unwrap_or_else(|error| panic!("{job}: {error}: {log}"))
    }

    pub fn front(&self) -> Value {
        self.printed("qslm-submit")
    }

    /// The workers' pods that are not about to go.
    pub fn workers(&self) -> Vec<String> {
        let pods = self.json(&["get", "pods", "--selector", "app.kubernetes.io/name=qslm-worker"]);
        let all = pods["items"].as_array().unwrap().iter().map(|pod| &pod["metadata"]);
        let stay = all.filter(|pod| pod["deletionTimestamp"].is_null());
        stay.map(|pod| format!("pod/{}", pod["name"].as_str().unwrap())).collect()
    }

    /// A worker that has something to lose, in the middle of a sweep.
    pub fn busy_worker(&self) -> String {
        self.is_under_way("workers are busy");
        self.until("a worker that has fetched the model", || {
            self.workers().into_iter().find(|pod| self.log(pod).contains("fetched"))
        })
    }

    /// The batch overlay and its submission, under way.
    pub fn sweep(&self) {
        self.sweep_with(&self.made("overlays/batch"));
    }

    pub fn sweep_with(&self, overlay: &str) {
        self.make();
        self.apply_text(overlay);
        self.apply("submit");
    }

    /// The batch overlay with workers that take their time.
    pub fn slow(&self) -> String {
        let made = self.made("overlays/batch");
        // Both: a request above its limit would be refused.
        assert!([FULL, REQUESTED].iter().all(|cpu| made.matches(cpu).count() == 1), "{made}");
        made.replace(FULL, SLOW).replace(REQUESTED, SLOW)
    }

    /// Fails unless the experiment has begun, and goes on after something was done: asked from the submission's own pod.
    pub fn is_under_way(&self, after: &str) {
        let mut why_not = String::new();
        let measured = self.until(&format!("an answer about the experiment, after this: {after}"), || {
            let pods = self.json(&["get", "pods", "--selector", "job-name=qslm-submit"]);
            let pods = pods["items"].as_array().unwrap();
            let with = |phase: &str| pods.iter().find(|pod| pod["status"]["phase"] == phase);
            assert!(with("Succeeded").is_none(), "too late, the sweep had ended: {after}. Make SLOW less");
            let name = with("Running")?["metadata"]["name"].as_str().unwrap();
            // Not while the coordinator is away, or tokens are rotated.
            let asked = self.kubectl(&["exec", name, "--", "qslm", "get", "plain", "--output", "json"]);
            if !asked.status.success() {
                if text(&asked.stderr) != why_not {
                    why_not = text(&asked.stderr);
                    self.say(&format!("{after}, and it does not say yet: {why_not}"));
                }
                return None;
            }
            let experiment: Value = serde_json::from_slice(&asked.stdout).expect("JSON");
            assert_eq!(experiment["state"], "running", "too late: {after}. Make SLOW less");
            experiment["measured"].as_u64().filter(|measured| *measured > 0)
        });
        self.say(&format!("{after}, and the sweep is under way; candidates measured: {measured}"));
    }

    /// A sweep as [`Namespace::sweep`] began it ends with the front of one process, at the first attempt.
    pub fn ends_well(&self) {
        self.complete(&["job/qslm-submit", "job/qslm-worker"]);
        self.say("the sweep is complete");
        assert_eq!(self.front(), one_process());
        let failed = self.json(&["get", "job/qslm-submit"])["status"]["failed"].take();
        assert_eq!(failed.as_u64().unwrap_or(0), 0, "attempts of the submission failed: it was not patient");
    }

    /// Applies the Secret that a script prints.
    pub fn apply_secret(&self, arguments: &[&str]) {
        let secret = script("make-secret", arguments, Path::new("."));
        assert!(secret.status.success(), "{}", text(&secret.stderr));
        self.apply_text(&String::from_utf8(secret.stdout).unwrap());
    }

    /// What is in the Secret under a key.
    pub fn secret(&self, key: &str) -> String {
        let path = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
        self.succeed(&["get", "secret", "qslm-tokens", "--output", &path])
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.succeed(&[arguments, &["--output", "json"]].concat())).expect("JSON")
    }

    pub fn apply_text(&self, text: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        self.succeed(&["apply", "--filename", file.path().to_str().unwrap()]);
    }

    /// Waits until a question has another answer than "not yet".
    pub fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    pub fn log(&self, of: &str) -> String {
        text(&self.kubectl(&["logs", of]).stdout)
    }

    /// Says what was done, and when: how much of a sweep was left for it.
    pub fn say(&self, words: &str) {
        eprintln!("{}, {} s: {words}", self.name, self.begun.elapsed().as_secs());
    }
}

/// What a program said, whatever bytes that are.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.say("FAILED; what there is to know:");
            for arguments in EVERYTHING {
                let asked =
                    Command::new("kubectl").args(["--namespace", &self.name]).args(arguments).output();
                let Ok(Output { stdout, stderr, .. }) = asked else { continue };
                eprintln!("--- kubectl {}\n{}{}", arguments.join(" "), text(&stdout), text(&stderr));
            }
        }
        let _ = Command::new("kubectl").args(["delete", "namespace", &self.name, "--wait=false"]).status();
    }
}
