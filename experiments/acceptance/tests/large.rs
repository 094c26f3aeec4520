//! A sweep of 100,000 candidates: the live view and the export stay small and quick.

use std::process::{Command, Stdio};

use fantoccini::Locator;
use qslm_acceptance::browser::Browser;
use qslm_acceptance::{Cluster, pictures, succeed};

const TRIALS: usize = 100_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_a_hundred_thousand_candidates() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Trials that cost nothing, through real calls into a real store.
    let trials = TRIALS.to_string();
    let keep = at("sweep.redb");
    succeed(&[
        "bench",
        "coordinator",
        "--workers",
        "4",
        "--trials",
        &trials,
        "--folder",
        &at("bench"),
        "--keep",
        &keep,
    ]);
    let cluster = Cluster::start(folder.path(), false);
    let browser = Browser::desktop().await;
    browser.client.goto(&cluster.web).await.unwrap();
    let id = browser.value("document.querySelector('#experiments a').textContent").await;
    let id = id.as_str().unwrap().to_owned();
    browser.value("document.querySelector('#experiments a').click()").await;
    let wait = browser.client.wait().at_most(std::time::Duration::from_secs(60));
    wait.for_element(Locator::Css("#front-table tr.chosen")).await.unwrap();
    let measured = "[...document.querySelectorAll('.tiles div')].find(div => div.textContent.includes('measured'))\
                    .querySelector('dd').firstChild.textContent";
    let measured: usize = browser.value(measured).await.as_str().unwrap().replace(',', "").parse().unwrap();
    assert!(measured > TRIALS, "{measured}");
    // What is sent does not grow with the candidates.
    let page = browser.client.source().await.unwrap();
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    let spots =
        browser.value("document.querySelectorAll('#front svg circle').length").await.as_u64().unwrap();
    assert!((100..2500).contains(&spots), "{spots} spots");
    browser.picture(&pictures().join("web-large.png")).await;
    browser.has_no_complaints().await;

    let mut export = Command::new(qslm_acceptance::program("qslm"))
        .args(["export", &id, "--coordinator", &cluster.url, "--format", "jsonl"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let rows = std::io::BufRead::lines(std::io::BufReader::new(export.stdout.take().unwrap())).count();
    assert!(export.wait().unwrap().success());
    assert_eq!(rows, measured);
}
