//! The live view in a real browser: submit, watch the front grow, finished.

use std::time::Duration;

use fantoccini::Locator;
use qslm_acceptance::browser::Browser;
use qslm_acceptance::{Cluster, pictures, succeed};

/// Name of another experiment.
const LONG: &str = "name=a-name-that-is-longer-than-anybody-would-want-to-type-twice";
/// Time that an experiment may take.
const PATIENCE: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_sees_the_front_grow_until_the_experiment_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), true);
    let browser = Browser::desktop().await;
    browser.client.goto(&cluster.web).await.unwrap();
    assert!(browser.client.source().await.unwrap().contains("There are none yet"));

    let submit = ["submit", "experiments/specs/plain.toml", "--coordinator", &cluster.url];
    let long = ["--set", "task.windows=4", "--set", LONG, "--priority", "-1"];
    succeed(&[&submit[..], &long].concat());
    let id = succeed(&submit).trim().to_owned();
    // It comes up without anyone asking for it.
    browser.client.wait().at_most(PATIENCE).for_element(Locator::LinkText(&id)).await.unwrap();
    // In one step, because the page may be brought up to date between two.
    browser.value(&format!("document.querySelector('#experiments a[title=\"{id}\"]').click()")).await;
    let wait = || browser.client.wait().at_most(PATIENCE);
    wait().for_element(Locator::Css("#front-table tr.chosen")).await.unwrap();
    // The number, before what it is a share of.
    let volume = "parseFloat([...document.querySelectorAll('.tiles div')].find(div => div.textContent.includes('hypervolume'))\
                  .querySelector('dd').textContent)";
    let mut seen = vec![browser.value(volume).await];
    // The page tells when it was brought up to date, so nothing has to be guessed.
    browser.value("window.changes = 0, new MutationObserver(() => window.changes++).observe(document.getElementById('content'), {childList: true})").await;
    while browser.value("document.querySelector('.state').textContent").await != "finished" {
        let changes = browser.value("window.changes").await;
        let changed = format!(
            "window.changes > {changes} || document.querySelector('.state').textContent == 'finished'"
        );
        tokio::time::timeout(PATIENCE, async {
            while browser.value(&changed).await != true {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("the page stands still");
        seen.push(browser.value(volume).await);
    }
    let volumes: Vec<f64> = seen.iter().map(|volume| volume.as_f64().unwrap()).collect();
    assert!(volumes.is_sorted(), "{volumes:?}");
    let mut different = volumes.clone();
    different.dedup();
    assert!(different.len() > 2, "the front did not grow before our eyes: {volumes:?}");
    assert_eq!(browser.value("document.getElementById('connection').textContent").await, "live");
    browser.fits_its_width().await;
    browser.picture(&pictures().join("web-experiment.png")).await;
    browser.has_no_complaints().await;

    browser.client.goto(&format!("{}/workers", cluster.web)).await.unwrap();
    let page = browser.client.find(Locator::Id("content")).await.unwrap().text().await.unwrap();
    assert!(page.contains("bench-1") && page.contains("submitted") && page.contains("finished"), "{page}");
    browser.picture(&pictures().join("web-workers.png")).await;
    browser.client.goto(&cluster.web).await.unwrap();
    browser.has_no_complaints().await;
    phone_shows_cards(&cluster.web, &id).await;

    // It only looks, and what a browser may do with it is said.
    let status = "fetch('/', { method: 'POST' }).then((response) => response.status)";
    let asked =
        browser.client.execute_async(&format!("{status}.then(arguments[0])"), Vec::new()).await.unwrap();
    assert_eq!(asked, 405);
    let policy =
        "fetch('/').then((response) => response.headers.get('content-security-policy')).then(arguments[0])";
    let policy = browser.client.execute_async(policy, Vec::new()).await.unwrap();
    assert!(policy.as_str().unwrap().starts_with("default-src 'none'"), "{policy}");

    // What the view gives away is what the program prints.
    browser.client.goto(&format!("{}/experiments/{id}/front.json", cluster.web)).await.unwrap();
    let shown = browser.client.find(Locator::Css("body")).await.unwrap().text().await.unwrap();
    let printed = succeed(&["front", &id, "--coordinator", &cluster.url, "--output", "json"]);
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parse(&shown), parse(&printed));
    browser.client.goto(&format!("{}/experiments/nothing", cluster.web)).await.unwrap();
    let page = browser.client.find(Locator::Id("content")).await.unwrap().text().await.unwrap();
    assert!(page.contains("Not Found") && page.contains("no experiment"), "{page}");
    let links = browser.value("document.querySelectorAll('nav a').length").await;
    assert_eq!(links, 2, "what is not there has the way to what is");
    browser.picture(&pictures().join("web-missing.png")).await;
    browser.client.goto(&format!("{}/nothing", cluster.web)).await.unwrap();
    assert!(browser.client.source().await.unwrap().contains("no such page"));
}

/// The list of experiments on a phone and on a desk: nothing sticks out, a long name is shortened, and a bar and a time say
/// how far it is and since when.
async fn phone_shows_cards(web: &str, id: &str) {
    let phone = Browser::phone().await;
    phone.client.goto(web).await.unwrap();
    phone.fits_its_width().await;
    let row = "document.querySelector('#experiments tbody tr')";
    assert_eq!(phone.value(&format!("getComputedStyle({row}).display")).await, "block", "a card");
    let sides = phone.value(&format!("{row}.getBoundingClientRect().right <= innerWidth")).await;
    assert_eq!(sides, true, "no card sticks out");
    let names = format!("[...{row}.cells].map((cell) => getComputedStyle(cell, '::before').content).join()");
    let names = phone.value(&names).await;
    let names = names.as_str().unwrap();
    assert!(["state", "priority", "since (UTC)", "saved"].iter().all(|name| names.contains(name)), "{names}");
    phone.screenshot(&pictures().join("web-experiments-phone.png")).await;
    phone.has_no_complaints().await;

    let desk = Browser::desktop().await;
    desk.client.set_window_size(1280, 700).await.unwrap();
    desk.client.goto(web).await.unwrap();
    desk.fits_its_width().await;
    let table = "document.querySelector('.table')";
    let sides = desk.value(&format!("{table}.scrollWidth <= {table}.clientWidth")).await;
    assert_eq!(sides, true, "the whole table is in the window");
    let bar = format!(
        "[...document.querySelectorAll('#experiments a[title=\"{id}\"]')][0].closest('tr').querySelector('progress')"
    );
    assert_eq!(desk.value(&format!("{bar}.value == {bar}.max")).await, true, "it has finished");
    let long = "[...document.querySelectorAll('#experiments td.name a')].find((link) => link.title.startsWith('a-name'))";
    let is_cut = desk.value(&format!("{long}.scrollWidth > {long}.clientWidth")).await;
    assert_eq!(is_cut, true, "a name that is too long ends in an ellipsis, and stands in its title");
    desk.picture_of_width(1280, &pictures().join("web-experiments.png")).await;
    desk.has_no_complaints().await;
}
