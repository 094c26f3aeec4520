//! On a cluster, any cluster: `KUBECONFIG=... IMAGE=...`. A sweep of the batch overlay in a namespace of its own, of which
//! a worker pod and the coordinator pod are deleted in the middle, finds what one process finds.
#![allow(clippy::disallowed_methods, reason = "the cluster and the image are given by variables")]
#![expect(clippy::disallowed_macros, reason = "what a test prints is shown by its harness")]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use qslm_acceptance::{one_process, root};
use serde_json::Value;

/// Time that anything may take that a cluster does.
const PATIENCE: Duration = Duration::from_secs(600);

struct Namespace(String);

impl Namespace {
    fn kubectl(&self, arguments: &[&str]) -> Output {
        Command::new("kubectl").args(["--namespace", &self.0]).args(arguments).output().expect("kubectl")
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

    /// The namespace, as docs/kubernetes.md makes it.
    fn make(&self) {
        let text = std::fs::read_to_string(root().join("k8s/namespace.yaml")).unwrap();
        self.apply_text(&text.replace("\n  name: qslm\n", &format!("\n  name: {}\n", self.0)));
    }

    /// What kustomize makes of an overlay, in this namespace and with this image.
    fn made(&self, overlay: &str, image: &str) -> String {
        let made =
            Command::new("kubectl").arg("kustomize").arg(root().join("k8s").join(overlay)).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = String::from_utf8(made.stdout).unwrap();
        let text = text.replace("namespace: qslm\n", &format!("namespace: {}\n", self.0));
        let lines = text.lines().map(|line| match line.split_once("image: qslm:") {
            Some((indent, _)) => format!("{indent}image: {image}"),
            None => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn apply(&self, overlay: &str, image: &str) {
        self.apply_text(&self.made(overlay, image));
    }

    /// Fails if the server has something else than was applied, as Argo CD and Flux would see it.
    fn differs_from_nothing(&self, overlay: &str, image: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), self.made(overlay, image)).unwrap();
        let diff = self.kubectl(&["diff", "--filename", file.path().to_str().unwrap()]);
        assert!(diff.status.success(), "{overlay}: {}", String::from_utf8_lossy(&diff.stdout));
    }

    /// Applies the Secret that a script prints.
    fn apply_secret(&self, arguments: &[&str]) {
        let secret = Command::new(root().join("k8s/make-secret")).args(arguments).output().unwrap();
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
        let _ = Command::new("kubectl").args(["delete", "namespace", &self.0, "--wait=false"]).status();
    }
}

#[test]
fn a_sweep_that_loses_pods_finds_what_one_process_finds() {
    let (Some(_), Ok(image)) = (std::env::var_os("KUBECONFIG"), std::env::var("IMAGE")) else {
        eprintln!("SKIPPED: no cluster. Set KUBECONFIG and IMAGE to run this.");
        return;
    };
    let namespace = Namespace(format!("qslm-e2e-{}", std::process::id()));
    namespace.make();
    namespace.apply("overlays/batch", &image);
    namespace.apply_secret(&[]);
    namespace.differs_from_nothing("overlays/batch", &image);
    say("the batch overlay is applied, and the server has nothing else");
    namespace.succeed(&["rollout", "status", "statefulset/qslm-coordinator", "--timeout=600s"]);
    namespace.apply("submit", &image);

    // Deleted when there is something to lose: a worker that has measured, and the coordinator that recorded it.
    let worker = namespace.until("a worker that has fetched the model", || {
        let list = ["get", "pods", "--selector", "app.kubernetes.io/name=qslm-worker", "--output", "name"];
        let pods = namespace.succeed(&list);
        pods.lines().find(|pod| namespace.log(pod).contains("fetched")).map(str::to_owned)
    });
    namespace.succeed(&["delete", &worker, "--wait=false"]);
    namespace.succeed(&["delete", "pod/qslm-coordinator-0"]);
    namespace.succeed(&["rollout", "status", "statefulset/qslm-coordinator", "--timeout=600s"]);

    for job in ["job/qslm-submit", "job/qslm-worker"] {
        namespace.succeed(&["wait", "--for=condition=complete", job, "--timeout=600s"]);
    }
    // A submit that lost its coordinator was started again; the one that waited to the end printed the front.
    let selector = "app.kubernetes.io/name=qslm-submit";
    let ended = "--field-selector=status.phase=Succeeded";
    let pods = namespace.succeed(&["get", "pods", "--selector", selector, ended, "--output", "name"]);
    let front: Value = serde_json::from_str(&namespace.log(pods.lines().next().unwrap())).unwrap();

    assert_eq!(front, one_process());
    say("a sweep that lost a worker and its coordinator found what one process finds");
    second_sweep(&namespace, &image, &front);
    rotation(&namespace);
    clean_up(&namespace, &image);
}

fn say(words: &str) {
    eprintln!("{words}");
}

/// A second sweep on the same volume: workers that are started before it is submitted wait for it by its name.
fn second_sweep(namespace: &Namespace, image: &str, first: &Value) {
    namespace.succeed(&["delete", "job", "qslm-worker", "qslm-submit"]);
    namespace.succeed(&["create", "configmap", "qslm-sweep", "--from-literal", "experiment=second"]);
    namespace.apply("overlays/batch", image);
    namespace.succeed(&["wait", "--for=jsonpath={.status.ready}=4", "job/qslm-worker", "--timeout=600s"]);
    let submit = namespace.made("submit", image);
    let named =
        submit.replace("        - --wait\n", "        - --wait\n        - --set\n        - name=second\n");
    assert_ne!(submit, named);
    namespace.apply_text(&named);
    for job in ["job/qslm-submit", "job/qslm-worker"] {
        namespace.succeed(&["wait", "--for=condition=complete", job, "--timeout=600s"]);
    }
    let front: Value = serde_json::from_str(&namespace.log("job/qslm-submit")).unwrap();
    assert_eq!(front["front"], first["front"]);
    say("a second sweep on the same volume found the same");
}

/// Fresh tokens beside the old ones, and then alone: no coordinator is started again for it.
fn rotation(namespace: &Namespace) {
    let started = || {
        namespace.succeed(&["get", "pod", "qslm-coordinator-0", "--output", "jsonpath={.status.startTime}"])
    };
    let (before, worker) = (started(), namespace.secret("worker"));
    let file = tempfile::NamedTempFile::new().unwrap();
    for way in ["--keep", "--only"] {
        std::fs::write(file.path(), namespace.secret("tokens")).unwrap();
        namespace.apply_secret(&[way, file.path().to_str().unwrap()]);
        assert_eq!(namespace.secret("tokens").contains(&worker), way == "--keep");
    }
    assert_eq!(started(), before);
    say("tokens were rotated");
}

/// Whoever deletes the overlay keeps the volume.
fn clean_up(namespace: &Namespace, image: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), namespace.made("overlays/batch", image)).unwrap();
    namespace.succeed(&["delete", "--filename", file.path().to_str().unwrap(), "--wait=true"]);
    let claims = namespace.succeed(&["get", "persistentvolumeclaims", "--output", "name"]);
    assert!(claims.contains("data-qslm-coordinator-0"), "{claims}");
    say("the overlay is deleted, and the volume is there");
}
