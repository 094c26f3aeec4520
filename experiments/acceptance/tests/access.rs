//! Access: certificates, tokens and roles, with the real programs, and both replaced while they run.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use qslm_acceptance::certificates::Authority;
use qslm_acceptance::{Running, after, program, qslm};

const SPEC: &str = "experiments/specs/plain.toml";
const WORKER: &str = "workerworkerworker";
const SUBMITTER: &str = "submittersubmitter";
const READER: &str = "readerreaderreader";

/// A coordinator with TLS on a port of its own.
struct Guarded {
    url: String,
    coordinator: Running,
}

impl Guarded {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let tokens = format!("worker pool {WORKER}\nsubmitter me {SUBMITTER}\nreader eve {READER}\n");
        std::fs::write(folder.join("tokens"), tokens).unwrap();
        for (name, token) in [("worker", WORKER), ("submitter", SUBMITTER), ("reader", READER)] {
            std::fs::write(folder.join(name), format!("{token}\n")).unwrap();
        }
        let mut command = Command::new(program("qslm-coordinator"));
        command
            .args(["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--store"])
            .arg(folder.join("s.redb"));
        for (flag, file) in [("--tokens", "tokens"), ("--certificate", "server.crt"), ("--key", "server.key")]
        {
            command.arg(flag).arg(folder.join(file));
        }
        let mut coordinator = Running::start(command.args(more));
        let url = format!("https://{}", after(&coordinator.wait_for("listening"), "address="));
        Self { url, coordinator }
    }

    /// Runs `qslm` against it, with these files.
    fn qslm(&self, folder: &Path, command: &[&str], files: &[(&str, &str)]) -> Output {
        let mut arguments: Vec<String> = command.iter().map(ToString::to_string).collect();
        arguments.extend(["--coordinator".to_owned(), self.url.clone()]);
        for (flag, file) in files {
            arguments.extend([flag.to_string(), folder.join(file).to_str().unwrap().to_owned()]);
        }
        qslm(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn refused(output: &Output, code: i32, words: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(words) && errors.trim_end().lines().count() == 1, "{errors}");
}

fn fine(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn each_role_may_do_what_it_is_there_for_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let authority = Authority::new();
    authority.write(&at.join("ca.crt"));
    authority.sign("127.0.0.1", &at.join("server.crt"), &at.join("server.key"));
    let guarded = Guarded::start(at, &[]);
    let ask = |command: &[&str], token: &str| {
        guarded.qslm(at, command, &[("--ca", "ca.crt"), ("--token-file", token)])
    };
    let id = fine(&ask(&["submit", SPEC], "submitter"));
    let id = id.trim();
    assert!(fine(&ask(&["list"], "reader")).contains(id));
    fine(&ask(&["get", id], "submitter"));
    refused(&ask(&["submit", SPEC], "reader"), 7, "eve is a reader; this takes a submitter");
    refused(&ask(&["cancel", id], "reader"), 7, "eve is a reader; this takes a submitter");
    refused(&ask(&["list"], "worker"), 7, "pool is a worker; this takes a reader");
    refused(&guarded.qslm(at, &["list"], &[("--ca", "ca.crt")]), 7, "a token is needed");
    std::fs::write(at.join("stranger"), "strangerstrangerstranger").unwrap();
    refused(&ask(&["list"], "stranger"), 7, "this token is not known");

    // A worker without the right token ends and says so; with it, it works over TLS.
    let worker = |token: &str| {
        let mut command = Command::new(program("qslm-worker"));
        command.args(["--coordinator", &guarded.url, "--until-done", "--ca"]).arg(at.join("ca.crt"));
        command.arg("--token-file").arg(at.join(token)).arg("--cache-dir").arg(at.join("cache"));
        command
    };
    assert_eq!(Running::start(&mut worker("reader")).ended(), Some(7));
    let mut impatient = worker("stranger");
    assert_eq!(Running::start(impatient.args(["--token-patience-s", "0.1"])).ended(), Some(7));
    // One whose token is on its way waits for it: in its file, or on the side of the coordinator.
    let mut early = Running::start(&mut worker("stranger"));
    early.wait_for("does not know this worker's token");
    std::fs::copy(at.join("worker"), at.join("stranger")).unwrap();
    assert_eq!(early.ended(), Some(0));
    // Whatever is called so, whether by its id or by its name, now or later.
    let mut of_name = worker("worker");
    let name = id.rsplit_once('-').unwrap().0;
    assert_eq!(Running::start(of_name.args(["--experiment", name])).ended(), Some(0));
    assert!(fine(&ask(&["get", id, "--output", "json"], "reader")).contains("\"finished\""));
}

#[test]
fn certificates_and_tokens_are_replaced_under_a_running_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (first, second, clients) = (Authority::new(), Authority::new(), Authority::new());
    first.write(&at.join("first.crt"));
    second.write(&at.join("second.crt"));
    clients.write(&at.join("clients.crt"));
    first.sign("127.0.0.1", &at.join("server.crt"), &at.join("server.key"));
    clients.sign("me", &at.join("me.crt"), &at.join("me.key"));
    let client_ca = at.join("clients.crt");
    let mut guarded = Guarded::start(at, &["--client-ca", client_ca.to_str().unwrap()]);
    let me = [("--certificate", "me.crt"), ("--key", "me.key"), ("--token-file", "reader")];
    let list = |guarded: &Guarded, files: &[(&str, &str)]| guarded.qslm(at, &["list"], files);
    let with = |ca: &'static str| [&[("--ca", ca)], &me[..]].concat();

    fine(&list(&guarded, &with("first.crt")));
    let begun = Instant::now();
    refused(&list(&guarded, &with("second.crt")), 5, "no coordinator answers at https://");
    // Mutual: without a certificate, or with one that somebody else signed, there is no connection.
    refused(&list(&guarded, &[("--ca", "first.crt"), ("--token-file", "reader")]), 5, "");
    second.sign("me", &at.join("forged.crt"), &at.join("forged.key"));
    let forged = [("--ca", "first.crt"), ("--certificate", "forged.crt"), ("--key", "forged.key")];
    refused(&list(&guarded, &[&forged[..], &[("--token-file", "reader")]].concat()), 5, "");
    assert!(begun.elapsed() < Duration::from_secs(5), "certificates do not get better by waiting");

    // Another certificate, signed by another authority, from the next connection on.
    second.sign("127.0.0.1", &at.join("server.crt"), &at.join("server.key"));
    until(|| list(&guarded, &with("second.crt")).status.success());
    guarded.coordinator.wait_for("read again");
    refused(&list(&guarded, &with("first.crt")), 5, "no coordinator answers at https://");

    // A token that is taken away is not known any more; a file that makes no sense takes none away.
    std::fs::write(at.join("tokens"), "nonsense").unwrap();
    // Long enough for the file to be looked at again.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        fine(&list(&guarded, &with("second.crt")));
    }
    guarded.coordinator.wait_for("a changed file cannot be used; what it said before stays");
    std::fs::write(at.join("tokens"), format!("worker pool {WORKER}\n")).unwrap();
    until(|| !list(&guarded, &with("second.crt")).status.success());
    refused(&list(&guarded, &with("second.crt")), 7, "this token is not known");
}

/// Files are looked at once a second, when somebody asks.
fn until(mut happens: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happens() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not happen");
    }
}

#[test]
fn a_browser_needs_a_readers_token() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let authority = Authority::new();
    authority.write(&at.join("ca.crt"));
    authority.sign("127.0.0.1", &at.join("server.crt"), &at.join("server.key"));
    let mut guarded = Guarded::start(at, &[]);
    let web = after(&guarded.coordinator.wait_for("live view"), "address=");
    let ask = |more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "10"]);
        let output = curl.arg("--cacert").arg(at.join("ca.crt")).args(more).arg(&web).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask(&[]), "401");
    assert_eq!(ask(&["--user", &format!("me:{WORKER}")]), "403");
    assert_eq!(ask(&["--user", &format!("me:{READER}")]), "200");
    assert_eq!(ask(&["--header", &format!("Authorization: Bearer {SUBMITTER}")]), "200");
    assert_eq!(ask(&["--user", "me:guess"]), "401");
    // Whoever shows pages is refused on one, with the way back; what asks for the token stays.
    let page = |more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--max-time", "10", "--header", "Accept: text/html"]);
        let output = curl.arg("--cacert").arg(at.join("ca.crt")).args(more).arg(&web).output().unwrap();
        String::from_utf8(output.stdout).unwrap().to_lowercase()
    };
    let (nobody, worker) = (page(&[]), page(&["--user", &format!("me:{WORKER}")]));
    for words in ["www-authenticate: basic", "content-security-policy", "<nav>", "a token is needed"] {
        assert!(nobody.contains(words), "{words}: {nobody}");
    }
    assert!(worker.contains("<nav>") && worker.contains("this takes the token of a reader"), "{worker}");
    // A page of somebody else whose name points here.
    let rebound = ["--header", "Host: evil.example", "--user", &format!("me:{READER}")];
    assert_eq!(ask(&rebound), "421");
}
