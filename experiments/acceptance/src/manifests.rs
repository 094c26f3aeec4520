//! Kubernetes manifests as kustomize and helm put them together, as values, and as the schemas of Kubernetes see them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::root;

/// Everything that is applied as it is.
pub const OVERLAYS: [&str; 13] = [
    "base",
    "overlays/local",
    "overlays/batch",
    "overlays/large",
    "overlays/pool",
    "overlays/keda",
    "overlays/hpa",
    "overlays/gpu",
    "overlays/kueue",
    "overlays/tls",
    "overlays/sweep",
    "submit",
    "overlays/submit-tls",
];
/// Components that people add to an overlay of theirs, with those that they come after.
pub const COMPONENTS: [&[&str]; 7] = [
    &["traces"],
    &["prometheus-operator"],
    &["backup"],
    &["backup", "object-storage"],
    &["batch", "sweep", "sweep-inputs"],
    &["batch", "sweep", "sweep-outside", "sweep-objects"],
    &["batch", "sweep", "sweep-outside", "tls"],
];
/// Versions of Kubernetes that they are for.
const VERSIONS: [&str; 2] = ["1.32", "1.37"];
/// Kinds that are not Kubernetes' own, for which there is no schema.
const FOREIGN: [&str; 3] = ["ScaledObject", "ServiceMonitor", "PodMonitor"];

/// What kustomize makes of a folder of `k8s`.
pub fn kustomize(overlay: &str) -> String {
    put_together(&root().join("k8s").join(overlay))
}

/// What kustomize makes of a folder.
pub fn put_together(folder: &Path) -> String {
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output().expect("kubectl");
    assert!(output.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder of its own in `target`, from which the way to `k8s` is short; gone when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty one.
    pub fn new() -> Self {
        // Tests run side by side.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = root().join("target").join(format!("overlay-{process}-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The base with components and the image of all, as an overlay of somebody's own.
pub fn with_components(components: &[&str]) -> String {
    let scratch = Scratch::new();
    let all = components.iter().chain(&["image"]).map(|name| format!("../../k8s/components/{name}"));
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../k8s/base]\ncomponents: \
         [{}]\n",
        all.collect::<Vec<_>>().join(", ")
    );
    std::fs::write(scratch.path().join("kustomization.yaml"), text).unwrap();
    put_together(scratch.path())
}

/// The documents of an overlay.
pub fn documents(overlay: &str) -> Vec<Value> {
    parsed(&kustomize(overlay))
}

/// The documents of a text.
pub fn parsed(yaml: &str) -> Vec<Value> {
    let mut python = Command::new(root().join("target/python/bin/python"));
    python.args(["-c", "import sys, yaml, json; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)"]);
    let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), yaml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// The pod that a document is, or makes.
pub fn pod_of(document: &Value) -> Option<&Value> {
    let spec = &document["spec"];
    let pods = [&spec["template"]["spec"], &spec["jobTemplate"]["spec"]["template"]["spec"]];
    let itself = (document["kind"] == "Pod").then_some(spec);
    pods.into_iter().find(|pod| !pod.is_null()).or(itself)
}

/// Kind and name of a document.
pub fn name_of(document: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    format!("{}/{}", word(&document["kind"]), word(&document["metadata"]["name"]))
}

/// The documents of every overlay, and of the base with every component.
pub fn every_document() -> impl Iterator<Item = (&'static str, Value)> {
    let overlays = OVERLAYS.into_iter().map(|overlay| (overlay, documents(overlay)));
    let components = COMPONENTS.into_iter().map(|all| (all[all.len() - 1], parsed(&with_components(all))));
    overlays.chain(components).flat_map(|(name, all)| all.into_iter().map(move |document| (name, document)))
}

/// Fails unless a text fits the schemas of all versions, strictly.
pub fn fits_the_schemas(what: &str, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.yaml");
    std::fs::write(&path, text).unwrap();
    for version in VERSIONS {
        let output = Command::new(root().join("target/python/bin/kubernetes-validate"))
            .args(["--strict", "-k", version])
            .arg(&path)
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("ERROR"), "{what}, {version}: {said}");
        let unknown = said.lines().filter(|line| line.contains("Couldn't find schema"));
        for line in unknown {
            assert!(FOREIGN.iter().any(|kind| line.contains(kind)), "{what}: {line}");
        }
    }
}

/// A program of `k8s` with its arguments, in a folder.
pub fn script(name: &str, arguments: &[&str], folder: &Path) -> std::process::Output {
    Command::new(root().join("k8s").join(name)).args(arguments).current_dir(folder).output().unwrap()
}
