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

    /// Applies what kustomize makes of an overlay, in this namespace and with this image.
    fn apply(&self, overlay: &str, image: &str) {
        let made =
            Command::new("kubectl").arg("kustomize").arg(root().join("k8s").join(overlay)).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = String::from_utf8(made.stdout).unwrap();
        let text = text.replace("namespace: qslm\n", &format!("namespace: {}\n", self.0));
        // The namespace itself, and the image.
        let text = text.replace("\n  name: qslm\n", &format!("\n  name: {}\n", self.0));
        let lines = text.lines().map(|line| match line.split_once("image: qslm:") {
            Some((indent, _)) => format!("{indent}image: {image}"),
            None => line.to_owned(),
        });
        self.apply_text(&lines.collect::<Vec<_>>().join("\n"));
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
    namespace.apply("overlays/batch", &image);
    let secret = Command::new(root().join("k8s/make-secret")).output().unwrap();
    namespace.apply_text(&String::from_utf8(secret.stdout).unwrap());
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
}
