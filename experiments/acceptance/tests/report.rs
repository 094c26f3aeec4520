//! The report in a real browser: every plot is drawn, nothing is fetched, nobody complains, a phone can read it.

use qslm_acceptance::browser::Browser;
use qslm_acceptance::{pictures, succeed};

const PLOTS: [&str; 8] =
    ["front", "course", "hypervolume", "sensitivity", "sensitivity-by-loss", "bits", "firing", "energy"];
/// Largest difference of the mean ink of a cell between a plot as SVG and as PNG, without text and with it.
const ALIKE: [f64; 2] = [0.02, 0.06];
/// The same without text where a band is drawn, whose edges two programs smooth in other ways.
const ALIKE_WITH_BAND: f64 = 0.03;
/// Most of a page's height that a printed figure may take, in pixels of CSS, so that two fit: half of 25.4 cm.
const HALF_A_PAGE: f64 = 480.0;

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
    // Both views of the sensitivity are in one figure.
    for plot in PLOTS.into_iter().filter(|plot| *plot != "sensitivity-by-loss") {
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
    // Sorted in another way by a click, without a script.
    let shown = "[...document.querySelectorAll('#sensitivity .figure')].map((view) => view.offsetHeight > 0)";
    assert_eq!(browser.value(shown).await, serde_json::json!([true, false]));
    browser.value("document.getElementById('sensitivity-2').click()").await;
    assert_eq!(browser.value(shown).await, serde_json::json!([false, true]));
    browser.fits_its_width().await;
    browser.picture(&pictures().join("report.png")).await;

    browser.look("screen", "dark").await;
    let light = "document.querySelector('#front svg').checkVisibility() && getComputedStyle(document.body).backgroundColor";
    assert_eq!(browser.value(light).await, "rgb(22, 24, 26)");
    let turned = browser.value("getComputedStyle(document.querySelector('#front svg')).filter").await;
    assert!(turned.as_str().unwrap().contains("invert"), "{turned}");
    browser.picture(&pictures().join("report-dark.png")).await;

    browser.look("print", "dark").await;
    assert_eq!(browser.value(light).await, "rgb(255, 255, 255)", "paper is white");
    let heights =
        "[...document.querySelectorAll('figure:not(#sensitivity)')].map((figure) => figure.offsetHeight)";
    let heights = browser.value(heights).await;
    let heights: Vec<f64> =
        heights.as_array().unwrap().iter().map(|height| height.as_f64().unwrap()).collect();
    assert!(heights.iter().all(|height| *height < HALF_A_PAGE), "{heights:?}");
    let whole = browser.value("document.querySelector('details pre').offsetHeight").await;
    assert!(whole.as_f64().unwrap() > 100.0, "the experiment is printed whole: {whole}");
    let heads = "[...document.querySelectorAll('.table table')].every((table) => table.tHead && getComputedStyle(table.tHead).display == 'table-header-group')";
    assert_eq!(browser.value(heads).await, true, "every page of a table has its head");
    assert!(browser.printed().await.len() > 30_000);
    browser.has_no_complaints().await;

    let phone = Browser::phone().await;
    phone.client.goto(&format!("file://{}", path.display())).await.unwrap();
    phone.fits_its_width().await;
    // Pixels of the smallest text of a plot, as wide as it is shown.
    let letters = "Math.min(...[...document.querySelectorAll('figure svg')].flatMap((svg) => [...svg.querySelectorAll('text')].map((text) => parseFloat(getComputedStyle(text).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width)).filter((size) => size > 0))";
    let letters = phone.value(letters).await;
    assert!(letters.as_f64().unwrap() >= 10.0, "the smallest text is {letters} pixels");
    phone.picture(&pictures().join("report-phone.png")).await;
    phone.has_no_complaints().await;
}

/// Differences of a plot as SVG and as PNG: without text, and with it.
async fn differences(browser: &Browser, svg: &str, png: &[u8]) -> [f64; 2] {
    let arguments = vec![svg.into(), base64(png).into()];
    let found = browser.client.execute_async(include_str!("../src/compare.js"), arguments).await.unwrap();
    assert!(found["texts"].as_u64().is_some_and(|texts| texts > 3), "{found}");
    ["drawing", "text"].map(|kind| found[kind].as_f64().unwrap())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let four = |three: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        let letter = |at: usize| match at <= three.len() {
            true => char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]),
            false => '=',
        };
        (0..4).map(letter).collect::<String>()
    };
    bytes.chunks(3).map(four).collect()
}

#[tokio::test]
async fn a_plot_as_svg_and_as_png_is_one_picture() {
    let folder = tempfile::tempdir().unwrap();
    let store = plain(folder.path());
    let plots = folder.path().join("plots");
    let out = folder.path().join("report.html");
    let arguments = ["report", "plain", "--store", &store, "--out", out.to_str().unwrap(), "--scale", "1"];
    succeed(&[&arguments[..], &["--plots", plots.to_str().unwrap()]].concat());
    let read = |plot: &str| {
        let svg = std::fs::read_to_string(plots.join(format!("{plot}.svg"))).unwrap();
        (svg, std::fs::read(plots.join(format!("{plot}.png"))).unwrap())
    };
    let browser = Browser::desktop().await;
    let is_alike = |[drawing, text]: [f64; 2]| drawing < ALIKE[0] && text < ALIKE[1];
    for plot in PLOTS {
        let (svg, png) = read(plot);
        let [drawing, text] = differences(&browser, &svg, &png).await;
        let most = if plot == "course" { ALIKE_WITH_BAND } else { ALIKE[0] };
        assert!(drawing < most && text < ALIKE[1], "{plot}: {drawing} {text}");
    }
    // It would tell: a picture without its dashes, without one line, without one word, and another one.
    let (front, png) = read("front");
    let without = |svg: &str, start: &str, end: &str| {
        let at = svg.find(start).unwrap();
        let until = at + svg[at..].find(end).unwrap() + end.len();
        [&svg[..at], &svg[until..]].concat()
    };
    assert!(front.contains("stroke-dasharray=\"6 4\""));
    let solid = front.replace("stroke-dasharray=\"6 4\"", "");
    assert!(!is_alike(differences(&browser, &solid, &png).await), "without dashes");
    let (firing, png) = read("firing");
    assert!(!is_alike(differences(&browser, &without(&firing, "<path", "/>"), &png).await), "without a line");
    let (bars, png) = read("sensitivity");
    assert!(
        !is_alike(differences(&browser, &without(&bars, "<text", "</text>"), &png).await),
        "without a word"
    );
    assert!(!is_alike(differences(&browser, &front, &png).await), "another plot");
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

/// What the documents show of plots that the plain search does not have.
#[test]
fn a_budget_three_objectives_and_several_experiments_have_their_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let store = plain(folder.path());
    let run = |name: &str, settings: &[&str]| {
        let named = format!("name={name}");
        let plain = ["run", "experiments/specs/plain.toml", "--quiet", "--store", &store, "--set", &named];
        let settings: Vec<_> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        succeed(&[&plain[..], &settings].concat());
    };
    let objectives = r#"objectives=["footprint", "perplexity", "firing_rate"]"#;
    run("budget", &[objectives, r#"constraints.max_footprint_bytes="570 kB""#]);
    run("random", &[r#"strategy={ kind = "random", tier = "matrix", trials = 60, seed = 1 }"#]);
    let plots = folder.path().join("plots");
    for (experiments, plot, words, picture) in [
        (&["budget"][..], "front", &["at least 8", "at most +3.00 %", "chosen"][..], "budget.png"),
        (&["budget"], "pair-1", &["firing rate", "footprint", "chosen"], "pair.png"),
        (&["plain", "random"], "overlay", &["plain (qslm)", "random (random)"], "overlay.png"),
    ] {
        let out = folder.path().join("report.html");
        let report = ["--store", &store, "--scale", "1", "--plots", plots.to_str().unwrap(), "--out"];
        succeed(&[&["report"], experiments, &report[..], &[out.to_str().unwrap()]].concat());
        let svg = std::fs::read_to_string(plots.join(format!("{plot}.svg"))).unwrap();
        for words in words {
            assert!(svg.contains(words), "{plot}: {words}");
        }
        std::fs::copy(plots.join(format!("{plot}.png")), pictures().join(picture)).unwrap();
    }
}
