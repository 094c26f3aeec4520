//! The report in a real browser: every plot is drawn, nothing is fetched, nobody complains, a phone can read it.

use qslm_acceptance::browser::Browser;
use qslm_acceptance::{pictures, succeed};

const PLOTS: [&str; 6] = ["front", "hypervolume", "sensitivity", "bits", "firing", "energy"];

/// Runs the plain search in `folder` and gives its store.
fn plain(folder: &std::path::Path) -> String {
    let store = folder.join("q.redb").to_str().unwrap().to_owned();
    succeed(&["run", "experiments/specs/plain.toml", "--quiet", "--store", &store]);
    store
}

#[tokio::test]
async fn a_report_is_one_file_that_any_browser_shows() {
    let folder = tempfile::tempdir().unwrap();
    let store = plain(folder.path());
    let path = folder.path().join("report.html");
    succeed(&["report", "plain", "--store", &store, "--out", path.to_str().unwrap()]);
    let text = std::fs::read_to_string(&path).unwrap();
    let links: Vec<&str> =
        text.match_indices("http").map(|(at, _)| &text[at..text.len().min(at + 40)]).collect();
    assert!(links.iter().all(|link| link.starts_with("http://www.w3.org/2000/svg")), "{links:?}");

    let browser = Browser::desktop().await;
    browser.client.goto(&format!("file://{}", path.display())).await.unwrap();
    for plot in PLOTS {
        let size = format!(
            "(() => {{ const box = document.querySelector('#{plot} svg').getBoundingClientRect(); return box.width * box.height; }})()"
        );
        assert!(browser.value(&size).await.as_f64().unwrap() > 50_000.0, "{plot} is not drawn");
        let texts = browser.value(&format!("document.querySelectorAll('#{plot} svg text').length")).await;
        assert!(texts.as_u64().unwrap() > 3, "{plot} has {texts} texts");
    }
    let rows = browser.value("document.querySelectorAll('#front-table tr').length").await;
    assert!(rows.as_u64().unwrap() > 5, "{rows} rows");
    assert_eq!(browser.value("document.querySelectorAll('#front-table tr.chosen').length").await, 1);
    assert_eq!(browser.value("performance.getEntriesByType('resource').length").await, 0);
    browser.fits_its_width().await;
    assert!(browser.printed_bytes().await > 20_000);
    browser.picture(&pictures().join("report.png")).await;
    browser.has_no_complaints().await;

    let phone = Browser::phone().await;
    phone.client.goto(&format!("file://{}", path.display())).await.unwrap();
    phone.fits_its_width().await;
    phone.picture(&pictures().join("report-phone.png")).await;
    phone.has_no_complaints().await;
}

#[test]
fn every_plot_is_there_as_svg_and_png() {
    let folder = tempfile::tempdir().unwrap();
    let store = plain(folder.path());
    let (plots, out) = (folder.path().join("plots"), folder.path().join("report.json"));
    let (plots_name, out) = (plots.to_str().unwrap(), out.to_str().unwrap());
    let arguments =
        ["report", "plain", "--store", &store, "--format", "json", "--out", out, "--plots", plots_name];
    let printed = succeed(&[&arguments[..], &["--scale", "1"]].concat());
    assert_eq!(printed.lines().count(), 2 * PLOTS.len() + 1, "{printed}");
    for plot in PLOTS {
        let svg = std::fs::read_to_string(plots.join(format!("{plot}.svg"))).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{plot}");
        let png = std::fs::read(plots.join(format!("{plot}.png"))).unwrap();
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n", "{plot}");
        // The width of the header's first chunk, at one pixel per unit.
        assert_eq!(u32::from_be_bytes(png[16..20].try_into().unwrap()), 720, "{plot}");
    }
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(out).unwrap()).unwrap();
    let spots = report["spots"].as_array().unwrap().iter();
    let counted: u64 = spots.map(|spot| spot["count"].as_u64().unwrap()).sum();
    assert_eq!(Some(counted), report["front"]["measured"].as_u64());
    let stages = report["stages"].as_array().unwrap().iter();
    assert_eq!(stages.map(|stage| stage["measured"].as_u64().unwrap()).sum::<u64>(), counted);
    assert!(report["timeline"].as_array().unwrap().len() > 3, "{}", report["timeline"]);
}
