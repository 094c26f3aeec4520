//! Fetching from a small server that answers the paths of the Hub, as well as it should and as badly as servers do.
#![allow(clippy::unwrap_used)]

mod server;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use qslm_fetch::{Address, FetchError, Found, Settings, Token, fetch};
use server::{COMMIT, Server};

/// Bytes of a file that the Hub keeps outside of git, and of one inside.
fn large() -> Vec<u8> {
    (0..300_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
const SMALL: &[u8] = b"{\"version\":\"1.0\"}\n";

/// Caches, and a server with `model.bin` (large) and `sub/tokenizer.json` (small) in `owner/name`.
struct Fixture {
    server: Server,
    settings: Settings,
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let server = Server::start();
        server.large("owner/name", "model.bin", &large());
        server.small("owner/name", "sub/tokenizer.json", SMALL);
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            endpoint: server.url(""),
            hub_cache: folder.path().join("hub"),
            web_cache: folder.path().join("web"),
            token: None,
            offline: false,
        };
        Self { server, settings, folder }
    }

    fn fetch(&self, address: &str) -> Result<Found, FetchError> {
        let address = Address::parse(address)?.expect("an address");
        fetch(&address, &self.settings, &mut |_, _| ())
    }

    fn refused(&self, address: &str) -> (FetchError, String) {
        let error = self.fetch(address).unwrap_err();
        let words = error.to_string();
        assert!(!words.contains('\n'), "{words}");
        (error, words)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn part(&self) -> PathBuf {
        let sum = server::sha256(&large());
        self.at(&format!("hub/models--owner--name/blobs/{sum}.incomplete"))
    }
}

const MODEL: &str = "hf://owner/name/model.bin";

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_file_of_the_hub_is_where_all_of_its_programs_look_for_it() {
    let hub = Fixture::new();
    let found = hub.fetch(MODEL).unwrap();
    assert_eq!(read(&found.path), large());
    assert_eq!(found.path, hub.at(&format!("hub/models--owner--name/snapshots/{COMMIT}/model.bin")));
    assert_eq!(found.origin, Some(format!("hf://owner/name@{COMMIT}/model.bin")));
    assert_eq!(read(&hub.at("hub/models--owner--name/refs/main")), COMMIT.as_bytes());
    let link = std::fs::read_link(&found.path).unwrap();
    assert_eq!(link, PathBuf::from(format!("../../blobs/{}", server::sha256(&large()))));
    let nested = hub.fetch("hf://owner/name/sub/tokenizer.json").unwrap();
    assert_eq!(read(&nested.path), SMALL);
    let left = |ending: &str| {
        let all = std::fs::read_dir(hub.at("hub/models--owner--name/blobs")).unwrap();
        all.filter(|one| one.as_ref().unwrap().path().extension().is_some_and(|e| e == ending)).count()
    };
    assert_eq!((left("lock"), left("incomplete")), (0, 0));
}

#[test]
fn what_is_kept_is_not_loaded_again() {
    let hub = Fixture::new();
    let first = hub.fetch(MODEL).unwrap();
    let loaded = hub.server.requests("GET");
    assert_eq!(hub.fetch(MODEL).unwrap(), first);
    assert_eq!(hub.server.requests("GET"), loaded, "of a branch it is asked whether it has moved");
    let asked = hub.server.requests("HEAD");
    assert_eq!(hub.fetch(&format!("hf://owner/name@{COMMIT}/model.bin")).unwrap(), first);
    assert_eq!(hub.server.requests("HEAD"), asked, "a commit does not move");
    // The branch moves, and with it the file.
    let newer = "b".repeat(40);
    hub.server.move_to(&newer);
    hub.server.large("owner/name", "model.bin", b"another model");
    let moved = hub.fetch(MODEL).unwrap();
    assert_eq!(read(&moved.path), b"another model");
    assert_eq!(moved.origin, Some(format!("hf://owner/name@{newer}/model.bin")));
    assert_eq!(read(&first.path), large(), "and what was kept stays");
}

#[test]
fn a_broken_connection_goes_on_from_where_it_broke() {
    let hub = Fixture::new();
    hub.server.break_after(100_000);
    let mut seen = Vec::new();
    let address = Address::parse(MODEL).unwrap().unwrap();
    let found = fetch(&address, &hub.settings, &mut |here, of| seen.push((here, of))).unwrap();
    assert_eq!(read(&found.path), large());
    let ranges = hub.server.ranges();
    assert!(ranges.len() >= 2 && ranges.iter().all(|range| range.starts_with("bytes=")), "{ranges:?}");
    assert!(seen.is_sorted() && seen.last() == Some(&(300_000, Some(300_000))), "{:?}", seen.last());
}

#[test]
fn what_an_earlier_process_left_is_gone_on_with_or_loaded_anew_if_it_is_of_another_file() {
    for (there, ranges) in [(large()[..120_000].to_vec(), 1), (vec![7; 120_000], 1), (vec![7; 400_000], 0)] {
        let hub = Fixture::new();
        std::fs::create_dir_all(hub.part().parent().unwrap()).unwrap();
        std::fs::write(hub.part(), there).unwrap();
        assert_eq!(read(&hub.fetch(MODEL).unwrap().path), large());
        assert_eq!(hub.server.ranges().len(), ranges);
    }
    // A server that knows no ranges sends all of it.
    let hub = Fixture::new();
    hub.server.without_ranges();
    std::fs::create_dir_all(hub.part().parent().unwrap()).unwrap();
    std::fs::write(hub.part(), &large()[..5]).unwrap();
    assert_eq!(read(&hub.fetch(MODEL).unwrap().path), large());
}

#[test]
fn a_file_of_another_length_or_hash_is_refused_and_not_kept() {
    let hub = Fixture::new();
    hub.server.send_instead("owner/name", "model.bin", &large()[1..]);
    let (error, words) = hub.refused(MODEL);
    assert!(matches!(error, FetchError::Broken { .. }));
    assert_eq!(words, format!("{MODEL}: it has 299999 bytes, expected 300000"));
    let mut wrong = large();
    wrong[5] ^= 1;
    hub.server.send_instead("owner/name", "model.bin", &wrong);
    let (_, words) = hub.refused(MODEL);
    let (actual, wanted) = (server::sha256(&wrong), server::sha256(&large()));
    assert_eq!(words, format!("{MODEL}: it hashes to sha256 {actual}, expected sha256 {wanted}"));
    assert!(!hub.part().exists());
    hub.server.send_instead("owner/name", "sub/tokenizer.json", &SMALL.to_ascii_uppercase());
    let (_, words) = hub.refused("hf://owner/name/sub/tokenizer.json");
    assert!(words.contains("it hashes to git "), "{words}");
}

#[test]
fn what_is_not_there_is_said_and_what_is_there_instead() {
    let hub = Fixture::new();
    let (error, words) = hub.refused("hf://owner/name/modle.bin");
    assert!(matches!(error, FetchError::NotFound { .. }));
    let expected = "owner/name has no file modle.bin at main; did you mean model.bin?";
    assert_eq!(words, format!("hf://owner/name/modle.bin: {expected}"));
    let (_, words) = hub.refused("hf://owner/name/x");
    assert!(words.ends_with("; it has model.bin, sub/tokenizer.json"), "{words}");
    let (_, words) = hub.refused("hf://owner/name@v9/model.bin");
    assert!(words.ends_with("owner/name has no revision v9"), "{words}");
    // Without a token the Hub does not tell what is private from what is not there.
    let (error, words) = hub.refused("hf://owner/other/model.bin");
    assert!(matches!(error, FetchError::NotAllowed { .. }));
    assert!(
        words.ends_with("401 Unauthorized: there is no owner/other, or set HF_TOKEN if it is private"),
        "{words}"
    );
    hub.server.gate("owner/name");
    let (error, words) = hub.refused(MODEL);
    assert!(matches!(error, FetchError::NotAllowed { .. }));
    let page = hub.server.url("/owner/name");
    assert!(
        words.ends_with(&format!("owner/name is gated: accept its terms at {page}, then set HF_TOKEN")),
        "{words}"
    );
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_where_it_sends_us() {
    let mut hub = Fixture::new();
    hub.server.want_token("hf_secret");
    let (_, words) = hub.refused(MODEL);
    assert!(words.contains("set HF_TOKEN"), "{words}");
    hub.settings.token = Some(Token("hf_wrong".to_owned()));
    let (_, words) = hub.refused(MODEL);
    assert!(words.contains("the token may not read it") && !words.contains("hf_wrong"), "{words}");
    hub.settings.token = Some(Token("hf_secret".to_owned()));
    assert_eq!(read(&hub.fetch(MODEL).unwrap().path), large());
    assert_eq!(hub.server.tokens_elsewhere(), 0, "the storage that the Hub sends us to saw the token");
}

#[test]
fn without_the_hub_what_is_kept_is_taken_and_what_is_not_is_said_how_to_bring() {
    let mut hub = Fixture::new();
    let kept = hub.fetch(MODEL).unwrap();
    hub.settings.offline = true;
    assert_eq!(hub.fetch(MODEL).unwrap(), kept);
    let tokenizer = "hf://owner/name/sub/tokenizer.json";
    let (error, words) = hub.refused(tokenizer);
    assert!(matches!(error, FetchError::Unreachable { .. }));
    let place = hub.at("hub/models--owner--name/snapshots/main/sub/tokenizer.json");
    let url = hub.server.url("/owner/name/resolve/main/sub/tokenizer.json");
    let how = format!("fetch {url} elsewhere and put it at {}", place.display());
    assert_eq!(words, format!("{tokenizer}: HF_HUB_OFFLINE is set, and it is not in the cache; {how}"));
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(&place, SMALL).unwrap();
    assert_eq!(hub.fetch(tokenizer).unwrap().path, place, "there it is found");
    // Nobody listens: what is kept is taken, and that is told.
    hub.settings.offline = false;
    hub.settings.endpoint = server::nobody();
    let found = hub.fetch(MODEL).unwrap();
    assert_eq!(found.path, kept.path);
    assert!(found.note.unwrap().ends_with("refused (os error 111); what is kept of it is taken"));
    let (_, words) = hub.refused("hf://owner/name/new.bin");
    assert!(words.contains("refused (os error 111); fetch http://"), "{words}");
}

#[test]
fn a_busy_server_is_asked_again_and_one_that_is_no_hub_is_refused() {
    let hub = Fixture::new();
    hub.server.be_busy(2);
    assert_eq!(read(&hub.fetch(MODEL).unwrap().path), large());
    let hub = Fixture::new();
    hub.server.without_headers();
    let (error, words) = hub.refused(MODEL);
    assert!(matches!(error, FetchError::Server { .. }));
    let endpoint = &hub.settings.endpoint;
    assert_eq!(words, format!("{MODEL}: it names no commit: {endpoint} is no Hub"));
}

#[test]
fn a_file_of_the_web_is_held_against_its_hash() {
    let mut hub = Fixture::new();
    let address =
        |kind: &str, sum: &str| format!("{}#{kind}={sum}", hub.server.url("/elsewhere/model.bin?k=v"));
    let (sha256, blake3) = (server::sha256(&large()), blake3::hash(&large()).to_hex().to_string());
    for address in [address("sha256", &sha256), address("blake3", &blake3)] {
        let found = hub.fetch(&address).unwrap();
        assert_eq!((read(&found.path), found.path.file_name().unwrap()), (large(), "model.bin".as_ref()));
        assert_eq!(found.origin, Some(hub.server.url("/elsewhere/model.bin")), "without what may be secret");
        let loaded = hub.server.requests("GET");
        hub.fetch(&address).unwrap();
        assert_eq!(hub.server.requests("GET"), loaded);
        // What was damaged since is loaded again.
        std::fs::write(&found.path, "damaged").unwrap();
        assert_eq!(read(&hub.fetch(&address).unwrap().path), large());
    }
    let other = address("sha256", &"0".repeat(64));
    let (error, words) = hub.refused(&other);
    assert!(matches!(error, FetchError::Broken { .. }));
    assert!(
        words.ends_with(&format!("it hashes to sha256 {sha256}, expected sha256 {}", "0".repeat(64))),
        "{words}"
    );
    let (error, _) = hub.refused(&format!("{}#sha256={sha256}", hub.server.url("/elsewhere/none.bin")));
    assert!(matches!(error, FetchError::NotFound { .. }));
    hub.settings.offline = true;
    let (_, words) = hub.refused(&other);
    let place = hub.at(&format!("web/sha256-{}/model.bin", "0".repeat(64)));
    assert!(words.ends_with(&format!("elsewhere and put it at {}", place.display())), "{words}");
}

#[test]
fn a_file_of_this_machine_is_held_against_a_hash_if_one_is_given() {
    let hub = Fixture::new();
    let path = hub.at("a b.bin");
    std::fs::write(&path, large()).unwrap();
    let address = format!("file://{}", path.display()).replace(' ', "%20");
    assert_eq!(hub.fetch(&address).unwrap(), Found { path, origin: None, note: None });
    hub.fetch(&format!("{address}#sha256={}", server::sha256(&large()))).unwrap();
    assert!(hub.refused(&format!("{address}#sha256={}", "0".repeat(64))).1.contains("it hashes to"));
}

/// A reader met no link between the removal of one and the making of the next, of the same file, by another process.
#[test]
fn what_is_kept_is_there_at_every_moment_while_others_fetch_it() {
    let hub = Fixture::new();
    let place = hub.fetch(MODEL).unwrap().path;
    let reference = hub.at("hub/models--owner--name/refs/main");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(place.is_file());
                assert_eq!(read(&reference), COMMIT.as_bytes());
            }
        });
        for _ in 0..100 {
            hub.fetch(MODEL).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    let beside = std::fs::read_dir(place.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "nothing is left beside it");
}

#[test]
fn several_at_once_load_a_file_once() {
    let hub = Fixture::new();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| hub.fetch(MODEL).unwrap())).collect();
        for one in all {
            assert_eq!(read(&one.join().unwrap().path), large());
        }
    });
    assert_eq!(hub.server.requests("GET"), 2, "one from the Hub, which sends us on to its storage");
}
