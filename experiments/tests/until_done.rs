//! A sweep that ends by itself: a coordinator and workers that run until all is done, and a submitter that leaves the results
//! as files, each a real program.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "waits for what other programs do")]

mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{QSLM, Running, SPEC, TINY, broken_checkpoint, program, refused, root, succeed};

const FILES: [&str; 4] = ["export.csv", "front.json", "packed.safetensors", "report.html"];

/// A folder with a store, and a port for its coordinator, also of the one that is started after it.
struct Sweep {
    folder: tempfile::TempDir,
    address: String,
}

impl Sweep {
    fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { folder: tempfile::tempdir().unwrap(), address: free.to_string() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A coordinator whose workers hear of the end within a second.
    fn coordinator(&self, more: &[&str]) -> Running {
        let mut command = Command::new(program("qslm-coordinator"));
        command.args(["--listen", &self.address, "--web", "off", "--until-done", "--lease-ttl-s", "1"]);
        let mut running = Running::start(command.arg("--store").arg(self.at("s.redb")).args(more));
        running.wait_for("listening");
        running
    }

    fn worker(&self, name: &str) -> Running {
        let mut command = Command::new(program("qslm-worker"));
        command.args(["--coordinator", &self.url(), "--name", name, "--slots", "1", "--until-done"]);
        let mut running = Running::start(command.arg("--cache-dir").arg(self.at(name)));
        running.read_on();
        running
    }

    /// A submitter that waits, and leaves results and the reason of its end in the folder.
    fn submit(&self, spec: &Path) -> Running {
        self.submitter(spec, &[])
    }

    fn submitter(&self, spec: &Path, more: &[&str]) -> Running {
        let mut command = Command::new(QSLM);
        command.args(more);
        command.arg("submit").arg(spec).args(TINY).args(["--wait", "--output", "json", "--coordinator"]);
        command.arg(self.url()).arg("--results").arg(self.at("results"));
        Running::start(command.env("QSLM_TERMINATION_MESSAGE", self.at("message")))
    }

    fn message(&self) -> String {
        std::fs::read_to_string(self.at("message")).unwrap()
    }

    fn results(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.at("results")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Exit code of a program that ends by itself.
fn ended(running: &mut Running) -> Option<i32> {
    running.child.wait().unwrap().code()
}

fn spec() -> PathBuf {
    root().join(SPEC)
}

#[test]
fn coordinator_worker_and_submitter_end_by_themselves_also_with_a_restart_in_the_middle() {
    let sweep = Sweep::new();
    // The order does not matter: whoever comes first waits.
    let mut worker = sweep.worker("w");
    let mut first = sweep.coordinator(&[]);
    let mut submit = sweep.submit(&spec());
    first.wait_for("submitted");
    first.kill();
    let mut second = sweep.coordinator(&[]);
    second.read_on();
    let (code, front, errors) = submit.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("; waits for it to come back"), "{errors}");
    assert_eq!(ended(&mut worker), Some(0));
    assert_eq!(ended(&mut second), Some(0));

    assert_eq!(sweep.results(), FILES);
    let at = |name: &str| sweep.at("results").join(name);
    assert_eq!(std::fs::read_to_string(at("front.json")).unwrap(), front);
    let alone = sweep.at("alone.redb");
    let alone = ["run", SPEC, "--store", alone.to_str().unwrap(), "--output", "json"];
    assert_eq!(front, succeed(&[&alone[..], &TINY].concat()));
    // The packed file is the one that `apply` makes of the front, and the export the one of the store.
    let (packed, of_front) = (sweep.at("packed.safetensors"), at("front.json"));
    let apply = ["apply", "--checkpoint", "experiments/models/wikitext2-xs.safetensors", "--front"];
    succeed(&[&apply[..], &[of_front.to_str().unwrap(), "--out", packed.to_str().unwrap()]].concat());
    assert!(std::fs::read(&packed).unwrap() == std::fs::read(at("packed.safetensors")).unwrap());
    let exported = succeed(&["export", "plain", "--store", sweep.at("s.redb").to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(at("export.csv")).unwrap(), exported);
    assert!(std::fs::read_to_string(at("report.html")).unwrap().starts_with("<!doctype html>"));
}

#[test]
fn a_second_submitter_of_an_ended_sweep_gets_the_results_of_a_coordinator_that_is_started_for_it() {
    let sweep = Sweep::new();
    succeed(
        &[&["run", SPEC, "--quiet", "--store", sweep.at("s.redb").to_str().unwrap()][..], &TINY].concat(),
    );
    let mut coordinator = sweep.coordinator(&["--collect-within-s", "3"]);
    coordinator.read_on();
    // Nobody works here, so nobody has to hear of the end; results are ready for a while after it.
    let begun = Instant::now();
    assert_eq!(sweep.submit(&spec()).finish().0, Some(0));
    assert_eq!(sweep.results(), FILES);
    assert_eq!(ended(&mut coordinator), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_cancelled_experiment_ends_a_sweep_and_its_submitter_says_so() {
    let sweep = Sweep::new();
    let mut coordinator = sweep.coordinator(&["--collect-within-s", "60"]);
    let mut submit = sweep.submit(&spec());
    coordinator.wait_for("submitted");
    coordinator.read_on();
    succeed(&["cancel", "plain", "--coordinator", &sweep.url()]);
    let mut worker = sweep.worker("w");
    let (code, _, errors) = submit.finish();
    assert_eq!(code, Some(6), "{errors}");
    assert!(errors.contains("was cancelled"), "{errors}");
    let message = sweep.message();
    assert!(message.starts_with("exit code 6: plain-") && message.ends_with("was cancelled\n"), "{message}");
    assert_eq!(ended(&mut worker), Some(0));
    assert_eq!(ended(&mut coordinator), Some(0), "it has nothing more to do");
}

#[test]
fn a_failed_experiment_ends_a_sweep_and_its_submitter_says_why() {
    let sweep = Sweep::new();
    let checkpoint = sweep.at("broken.safetensors");
    broken_checkpoint(&checkpoint);
    let text = std::fs::read_to_string(spec()).unwrap();
    let text = text.replace("../models/wikitext2-xs.safetensors", checkpoint.to_str().unwrap());
    let bundled = root().join("experiments");
    let written = sweep.at("spec.toml");
    std::fs::write(&written, text.replace("\"../", &format!("\"{}/", bundled.display()))).unwrap();
    let mut coordinator = sweep.coordinator(&[]);
    coordinator.read_on();
    let mut worker = sweep.worker("w");
    let (code, _, errors) = sweep.submit(&written).finish();
    assert_eq!(code, Some(6), "{errors}");
    let message = sweep.message();
    assert!(message.starts_with("exit code 6: ") && message.contains("trials failed: "), "{message}");
    // Nothing was chosen, so there is nothing to deploy; what there is to see is there.
    assert_eq!(sweep.results(), ["export.csv", "front.json", "report.html"]);
    assert_eq!(ended(&mut worker), Some(0));
    assert_eq!(ended(&mut coordinator), Some(0));
}

#[test]
fn a_coordinator_that_is_told_to_stop_before_all_is_done_says_that_it_was() {
    let sweep = Sweep::new();
    let mut coordinator = sweep.coordinator(&[]);
    coordinator.read_on();
    assert_eq!(coordinator.terminate(), Some(143));
}

#[test]
fn a_submitter_waits_for_a_coordinator_that_refuses_connections_for_some_seconds() {
    let sweep = Sweep::new();
    let mut submit = sweep.submitter(&spec(), &["-v"]);
    // As in a pod whose network is not there yet.
    submit.wait_for("tries again");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(submit.child.try_wait().unwrap().is_none(), "it has given up");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut coordinator = sweep.coordinator(&[]);
    coordinator.read_on();
    let mut worker = sweep.worker("w");
    let (code, _, errors) = submit.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(ended(&mut worker), Some(0));
    assert_eq!(ended(&mut coordinator), Some(0));
}

/// A submitter of a spec that needs something made before it is an experiment.
fn submit_ranked(sweep: &Sweep) -> Running {
    let ranked = r#"strategy={ kind = "ranked", metric = "lsaq", tier = "block", sequences = 2 }"#;
    let mut submit = Command::new(QSLM);
    submit.args(["submit", SPEC, "--wait", "--coordinator", &sweep.url(), "--set", ranked]).args(TINY);
    let mut submit = Running::start(&mut submit);
    submit.wait_for("waiting for a worker that can make");
    submit
}

#[test]
fn what_a_spec_needs_is_made_although_the_coordinator_is_started_again_meanwhile() {
    let sweep = Sweep::new();
    let mut first = sweep.coordinator(&[]);
    let mut submit = submit_ranked(&sweep);
    first.kill();
    let mut second = sweep.coordinator(&[]);
    second.read_on();
    let mut worker = sweep.worker("w");
    let (code, _, errors) = submit.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!((ended(&mut worker), ended(&mut second)), (Some(0), Some(0)));
}

/// As the first process of a container, which no signal ends that it does not watch.
#[test]
fn a_submitter_that_is_told_to_stop_does_so_whatever_it_waits_for() {
    let sweep = Sweep::new();
    let mut for_coordinator = sweep.submitter(&spec(), &["-v"]);
    for_coordinator.wait_for("tries again");
    assert_eq!(for_coordinator.terminate(), Some(143));
    assert_eq!(sweep.message(), "exit code 143: interrupted\n");
    let mut coordinator = sweep.coordinator(&[]);
    coordinator.read_on();
    assert_eq!(submit_ranked(&sweep).terminate(), Some(143));
}

#[test]
fn results_go_to_object_storage_in_programs_that_have_it_and_the_others_say_so() {
    let sweep = Sweep::new();
    let to = format!("file://{}", sweep.at("results").display());
    let submit = ["submit", SPEC, "--wait", "--connect-timeout", "0", "--results", &to];
    if !cfg!(feature = "object-store") {
        let said = refused(2, &submit);
        assert!(
            said.contains(&format!("--results {to}: this program was built without object storage")),
            "{said}"
        );
        return;
    }
    assert!(
        refused(2, &["submit", SPEC, "--wait", "--results", "ftp://a/b"])
            .contains("nothing is known of ftp://")
    );
    succeed(
        &[&["run", SPEC, "--quiet", "--store", sweep.at("s.redb").to_str().unwrap()][..], &TINY].concat(),
    );
    let mut coordinator = sweep.coordinator(&[]);
    coordinator.read_on();
    succeed(&[&submit[..], &TINY, &["--coordinator", &sweep.url()]].concat());
    assert_eq!(sweep.results(), FILES);
}
