//! The real image: a coordinator and workers in containers that may do no more than Kubernetes' "restricted" pods.

use qslm_acceptance::containers::Engine;
use qslm_acceptance::one_process;
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
    // Who only waits asks again.
    let asked = wait("submit");
    let front = engine.succeed(&[
        "run",
        "--rm",
        "--network=host",
        "--add-host=coordinator.example:127.0.0.1",
        TAG,
        "submit",
        spec,
        "--coordinator",
        &url,
        "--wait",
        "--output",
        "json",
    ]);
    assert!(["0", "5"].contains(&asked.as_str()), "the first submit ended with {asked}");
    assert_eq!((wait("worker-a"), wait("worker-b")), ("0".to_owned(), "0".to_owned()));

    assert_eq!(serde_json::from_str::<Value>(&front).unwrap(), one_process());
    engine.succeed(&["stop", "--time", "20", "coordinator"]);
    assert_eq!(wait("coordinator"), "0");
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
