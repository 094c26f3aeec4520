//! The real image: a coordinator and workers in containers that may do no more than Kubernetes' "restricted" pods.

use std::process::Output;

use qslm_acceptance::containers::Engine;
use qslm_acceptance::{one_process, succeed};
use serde_json::Value;

const TAG: &str = "qslm:test";
/// Bytes of the image: 39 MB of program, of which object storage and files by address are three, licences and the example.
const LARGEST: u64 = 45_000_000;
/// Rights of a restricted pod; names are looked up as everywhere, in a file here.
const RESTRICTED: [&str; 10] = [
    "--network=host",
    "--add-host=coordinator.example:127.0.0.1",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=1g",
    "--pids-limit=200",
    "--tmpfs=/cache:uid=65532",
    "--env=QSLM_WORKER_CACHE_DIR=/cache",
    "--env=QSLM_WORKER_SLOTS=1",
];

#[test]
fn containers_of_the_image_find_what_one_process_finds() {
    let engine = Engine::start();
    engine.build(TAG);
    let inspect = |format: &str| engine.succeed(&["image", "inspect", "--format", format, TAG]);
    let size: u64 = inspect("{{.Size}}").parse().unwrap();
    assert!(size < LARGEST, "{size} bytes");
    assert_eq!(inspect("{{.Config.User}}"), "65532:65532");
    assert_eq!(inspect("{{index .Config.Labels \"org.opencontainers.image.title\"}}"), "qslm");
    assert_eq!(
        inspect("{{index .Config.Labels \"org.opencontainers.image.licenses\"}}"),
        "MIT OR Apache-2.0"
    );

    let run = |name: &str, more: &[&str], command: &[&str]| {
        let named = ["run", "--detach", "--name", name];
        let (program, rest) = command.split_first().unwrap();
        let entry = format!("--entrypoint={program}");
        engine.succeed(&[&named[..], &RESTRICTED, more, &[&entry, TAG], rest].concat())
    };
    let wait = |name: &str| engine.succeed(&["wait", name]);
    let data = engine.volume("store");
    let volume = format!("--volume={}:/data", data.display());
    let port = free_port().to_string();
    let url = format!("http://coordinator.example:{port}");
    let listen = format!("127.0.0.1:{port}");
    let coordinator = ["qslm-coordinator", "--listen", &listen, "--web", "off", "--store", "/data/s.redb"];
    run("coordinator", &[&volume], &coordinator);
    engine.log("coordinator").wait_for("listening");
    assert_bill_of_materials(&engine);
    let worker = ["qslm-worker", "--coordinator", &url, "--until-done"];
    for name in ["worker-a", "worker-b", "worker-c"] {
        run(name, &[], &worker);
    }
    let spec = "/usr/share/qslm/specs/plain.toml";
    run("submit", &[], &["qslm", "submit", spec, "--coordinator", &url, "--wait", "--output", "json"]);

    // A worker that is told to stop before all is done says so: a Job starts its index again.
    engine.log("worker-c").wait_for("fetched");
    engine.succeed(&["stop", "--time", "20", "worker-c"]);
    assert_eq!(wait("worker-c"), "143");
    // So is the coordinator, as process 1, and it goes on where it was.
    engine.succeed(&["stop", "--time", "20", "coordinator"]);
    assert_eq!(wait("coordinator"), "0");
    engine.succeed(&["start", "coordinator"]);
    // Who waits for the experiment waits for the coordinator meanwhile.
    assert_eq!(wait("submit"), "0");
    assert_eq!((wait("worker-a"), wait("worker-b")), ("0".to_owned(), "0".to_owned()));
    let front = engine.succeed(&["logs", "submit"]);
    assert_eq!(serde_json::from_str::<Value>(&front).unwrap(), one_process());

    assert_object_storage(&engine, spec, &url);
    engine.succeed(&["stop", "--time", "20", "coordinator"]);
    assert_eq!(wait("coordinator"), "0");
}

/// The image's program has object storage, which the one of a plain build has not: results and a backup, in the object store
/// that is a folder.
fn assert_object_storage(engine: &Engine, spec: &str, url: &str) {
    let place = engine.volume("objects");
    let volume = format!("--volume={}:/objects", place.display());
    let run = |arguments: &[&str]| {
        let container = ["run", "--rm", RESTRICTED[0], RESTRICTED[1], &volume, TAG];
        engine.docker(&[&container[..], arguments, &["--coordinator", url]].concat())
    };
    let refused = |code: i32, words: &str, output: Output| {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && errors.contains(words), "{words}: {output:?}");
    };
    let nowhere = run(&["submit", spec, "--wait", "--results", "ftp://a/b"]);
    refused(2, "nothing is known of ftp://", nowhere);
    let results = run(&["submit", spec, "--wait", "--results", "file:///objects/results"]);
    assert!(results.status.success(), "{results:?}");
    for name in ["export.csv", "front.json", "packed.safetensors", "report.html"] {
        assert!(place.join("results").join(name).is_file(), "{name}");
    }
    let backup = ["backup", "--to", "file:///objects/nightly/b.redb", "--output", "json"];
    let copied = run(&backup);
    assert!(copied.status.success(), "{copied:?}");
    let copied: Value = serde_json::from_slice(&copied.stdout).unwrap();
    refused(4, "b.redb: is there already; --force replaces it", run(&backup));
    let again: Value = serde_json::from_slice(&run(&[&backup[..], &["--force"]].concat()).stdout).unwrap();
    assert_eq!((&again["kept"], &again["fetched_bytes"]), (&copied["artifacts"], &0.into()), "{again}");
    succeed(&["db", "check", place.join("nightly/b.redb").to_str().unwrap()]);
}

/// The image says what it is made of.
fn assert_bill_of_materials(engine: &Engine) {
    let path = engine.volume("bill").join("qslm.cdx.json");
    engine.succeed(&["cp", "coordinator:/usr/share/qslm/qslm.cdx.json", path.to_str().unwrap()]);
    let text = std::fs::read_to_string(path).unwrap();
    let bill: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let components = bill["components"].as_array().unwrap();
    let redb = components.iter().find(|component| component["name"] == "redb").unwrap();
    assert!(redb["hashes"][0]["content"].as_str().is_some_and(|hash| hash.len() == 64), "{redb}");
    assert!(redb["purl"].as_str().unwrap().starts_with("pkg:cargo/redb@"), "{redb}");
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "where it was built is nobody's business");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
