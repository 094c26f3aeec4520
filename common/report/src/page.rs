//! The page of an experiment: one HTML file that needs nothing else, or a part of a live view.

mod provenance;

use std::borrow::Cow;

use askama::Template;
use qslm_common::cost::Cost;
use qslm_common::front_document::{FrontRow, TaskRow};
use qslm_common::tasks::TaskName;

use crate::words::{
    bytes, cost, costs, date, grouped, interval, loss, loss_with_interval, lost_briefly, percent, quality,
    speed, task_quality,
};
use crate::{Lifecycle, ReportDocument, gain, pace, plots, unmet};
use provenance::provenance;

/// A whole page with the style of all pages.
#[derive(Template)]
#[template(path = "page.html")]
pub struct Page<'a> {
    title: &'a str,
    body: &'a str,
    navigation: &'a [(&'a str, &'a str)],
    live: &'a str,
    revision: &'a str,
    css: &'static str,
}

/// The body of a page. It has a field for every place of the template.
// A template: one field for each thing that it shows.
#[derive(Template)]
#[template(path = "experiment.html")]
struct Body<'a> {
    report: &'a ReportDocument,
    verdict: String,
    gain: String,
    state: &'static str,
    progress: String,
    progress_at: u64,
    progress_of: u64,
    tiles: Vec<Tile>,
    figures: Vec<Figure>,
    quality_name: &'static str,
    /// True if the front has divergences.
    has_kl: bool,
    /// Names of the further tasks.
    tasks: Vec<TaskName>,
    front: Vec<PageRow>,
    uniform: Vec<[String; 9]>,
    costs: Vec<[String; 4]>,
    provenance: Vec<(&'static str, String)>,
    experiment: String,
    footer: String,
}

struct Tile {
    name: Cow<'static, str>,
    value: String,
    note: String,
}

struct Figure {
    name: &'static str,
    title: String,
    caption: String,
    /// Pictures by the names of their views; one without a name, or several of which a reader chooses.
    views: Vec<(&'static str, String)>,
}

struct PageRow {
    chosen: bool,
    cells: Vec<String>,
}

impl<'a> Page<'a> {
    /// A page that stays as it is, around `body`, which is HTML already.
    pub fn still(title: &'a str, body: &'a str) -> Self {
        Self::live(title, body, &[], "", "")
    }

    /// A page that stays as it is, with a way to others.
    pub fn framed(title: &'a str, body: &'a str, navigation: &'a [(&'a str, &'a str)]) -> Self {
        Self::live(title, body, navigation, "", "")
    }

    /// A page that is kept up to date by `/live.js` with the events from `live`, beginning with those that
    /// are of another `revision`. `navigation` are addresses with words.
    pub fn live(
        title: &'a str,
        body: &'a str,
        navigation: &'a [(&'a str, &'a str)],
        live: &'a str,
        revision: &'a str,
    ) -> Self {
        Self { title, body, navigation, live, revision, css: include_str!("../templates/style.css") }
    }

    /// The page as HTML.
    pub fn html(&self) -> String {
        render(self)
    }
}

/// A file that shows the experiment without a network.
pub fn file(report: &ReportDocument) -> String {
    Page::still(&report.id, &body(report)).html()
}

/// Body of the page: what is to see of the experiment.
pub fn body(report: &ReportDocument) -> String {
    let (progress, progress_at, progress_of) = progress(report);
    render(&Body {
        report,
        verdict: verdict(report),
        gain: gain::sentence(&report.front),
        state: state(report),
        progress,
        progress_at,
        progress_of,
        tiles: tiles(report),
        figures: figures(plots::all(report)),
        quality_name: quality_name(report),
        has_kl: report.front.front.iter().any(|row| row.kl.is_some()),
        tasks: report.experiment.tasks.keys().copied().collect(),
        front: front(report),
        uniform: uniform(report),
        costs: report
            .front
            .chosen
            .as_ref()
            .map_or(Vec::new(), |chosen| costs(report.front.float.as_ref(), chosen)),
        provenance: provenance(report),
        experiment: serde_json::to_string_pretty(&report.experiment)
            .expect("the keys of every map of an experiment are text"),
        footer: format!("qslm {}", report.version),
    })
}

/// A figure for each plot, or for all views of the same.
fn figures(plots: Vec<plots::Plot>) -> Vec<Figure> {
    let mut figures: Vec<Figure> = Vec::new();
    for plot in plots {
        let view = (plot.view.unwrap_or_default(), plot.svg());
        match figures.last_mut() {
            Some(figure) if plot.view.is_some() && figure.title == plot.title => figure.views.push(view),
            _ => {
                let plots::Plot { name, title, caption, .. } = plot;
                figures.push(Figure { name, title, caption, views: vec![view] });
            }
        }
    }
    figures
}

/// A template as HTML.
pub fn render(template: &impl Template) -> String {
    template.render().expect("a template writes into memory, which does not fail")
}

fn quality_name(report: &ReportDocument) -> &'static str {
    report.experiment.task.quality().name()
}

/// The result in a sentence.
fn verdict(report: &ReportDocument) -> String {
    let Some(float) = &report.front.float else {
        return "Nothing is measured yet.".to_owned();
    };
    let Some(chosen) = &report.front.chosen else {
        let so_far = if report.state == Lifecycle::Finished { "" } else { " so far" };
        let nearest = unmet::sentences(&report.front.unmet);
        return format!("No candidate that was measured{so_far} meets the constraints. {nearest}")
            .trim_end()
            .to_owned();
    };
    let so_far = if report.state == Lifecycle::Finished { "" } else { " so far" };
    format!(
        "{} of the float model's memory saved{so_far}, at {} {} where the float model has {}.",
        percent(chosen.saving),
        quality_name(report),
        quality(chosen),
        quality(float),
    )
}

/// State as its badge says it: a search that chose nothing came to an end that nobody wanted.
fn state(report: &ReportDocument) -> &'static str {
    let is_unmet =
        report.state == Lifecycle::Finished && report.front.float.is_some() && report.front.chosen.is_none();
    match report.state {
        _ if is_unmet => "unmet",
        Lifecycle::Running if report.workers == 0 => "no worker",
        state => state.name(),
    }
}

/// Words, how far, of how much; no words for one that has ended.
fn progress(report: &ReportDocument) -> (String, u64, u64) {
    let settled = report.front.measured as u64 + report.failed;
    if matches!(report.state, Lifecycle::Finished | Lifecycle::Cancelled) {
        return (String::new(), settled, settled.max(1));
    }
    let open = u64::from(report.generation_trials.saturating_sub(report.generation_settled));
    let ahead = report.remaining_at_most.map(|more| open + more);
    let at_most = ahead.map_or(String::new(), |ahead| format!(", at most {} to go", grouped(ahead)));
    let pace = pace::per_candidate(&report.timeline);
    let about = report.remaining_about.map(|more| open + more);
    let left = pace.zip(ahead).map(|(pace, ahead)| format!(", {}", pace::left(pace, about, ahead)));
    let crew = match report.state {
        Lifecycle::Interrupted => String::new(),
        _ => format!("; {} workers, {}", grouped(report.workers.into()), speed(report.tokens_per_second)),
    };
    let since = report.timeline.first().map(|first| format!("; since {} UTC", date(first.unix_ms)));
    let words = format!(
        "{}: {} candidates settled{at_most}{}{crew}{}",
        if report.stage.is_empty() { "starting" } else { &report.stage },
        grouped(settled),
        left.unwrap_or_default(),
        since.unwrap_or_default(),
    );
    (words, settled, (settled + ahead.unwrap_or(open)).max(1))
}

fn tiles(report: &ReportDocument) -> Vec<Tile> {
    let tile = |name: &'static str, value: String, note: String| Tile { name: name.into(), value, note };
    let mut tiles = Vec::new();
    let float = report.front.float.as_ref();
    if let (Some(float), Some(chosen)) = (float, &report.front.chosen) {
        tiles.push(tile("memory saved", percent(chosen.saving), bytes(chosen.footprint_bytes)));
        let lost = chosen.quality_loss;
        let sure = chosen.quality_loss_interval;
        let lost = lost.map_or(String::new(), |loss| loss_with_interval(chosen.quality(), loss, sure));
        tiles.push(tile(quality_name(report), quality(chosen), format!("{lost}, float {}", quality(float))));
        if let (Some(before), Some(after)) = (energy(float), energy(chosen)) {
            tiles.push(tile("energy per token", after, format!("float {before}")));
        }
        if let Some(kl) = chosen.kl {
            let note = "nats from the float model".to_owned();
            tiles.push(tile("divergence", format!("{kl:.4}"), note));
        }
        tiles.extend(chosen.tasks.iter().map(|(name, task)| task_tile(float, *name, task)));
        if let (Some(before), Some(after)) = (float.firing_rate, chosen.firing_rate) {
            let note = format!("spikes per neuron and token, float {before:.4}");
            tiles.push(tile("firing rate", format!("{after:.4}"), note));
        }
    }
    let measured = grouped(report.front.measured as u64);
    let failed = if report.failed > 0 { format!("{} failed", grouped(report.failed)) } else { String::new() };
    let name = if report.front.racing.is_some() { "measured or pruned" } else { "candidates measured" };
    tiles.push(tile(name, measured, failed));
    tiles.push(tile("on the front", grouped(report.front.front.len() as u64), String::new()));
    if let Some(volume) = report.front.hypervolume {
        let note = "of the box between nothing and the float model".to_owned();
        tiles.push(tile("hypervolume", format!("{volume:.4}"), note));
    }
    tiles
}

/// Tile of the chosen candidate on a further task.
fn task_tile(float: &FrontRow, name: TaskName, task: &TaskRow) -> Tile {
    let lost = task.quality_loss;
    let lost = lost
        .map_or(String::new(), |loss| loss_with_interval(task.quality(), loss, task.quality_loss_interval));
    let before = float.tasks.get(&name).map(task_quality).unwrap_or_default();
    let words = format!("{} on {name}", task.quality().name());
    Tile { name: words.into(), value: task_quality(task), note: format!("{lost}, float {before}") }
}

/// Energy per token with its prefix; `None` where it is not modelled.
fn energy(row: &FrontRow) -> Option<String> {
    let words = cost(Cost::Energy, *row.costs.get(&Cost::Energy)?);
    Some(words.trim_end_matches(" per token").replace(" uJ", " \u{b5}J"))
}

fn front(report: &ReportDocument) -> Vec<PageRow> {
    let chosen = report.front.chosen.as_ref().map(|row| row.candidate);
    let row = |row: &FrontRow| PageRow {
        chosen: Some(row.candidate) == chosen,
        cells: vec![
            row.candidate.short(),
            grouped(row.footprint_bytes),
            percent(row.saving),
            quality(row),
            loss(row),
            interval(row.quality_loss_interval),
            energy(row).unwrap_or_default(),
            row.firing_rate.map_or("no spikes".to_owned(), |rate| format!("{rate:.4}")),
            row.trade_off.map_or(String::new(), |value| format!("{value:.4}")),
        ]
        .into_iter()
        .chain(row.kl.map(|kl| format!("{kl:.4}")))
        .chain(row.tasks.values().flat_map(|task| {
            let lost = task.quality_loss.map_or(String::new(), |loss| lost_briefly(task.quality(), loss));
            [task_quality(task), lost]
        }))
        .collect(),
    };
    report.front.front.iter().map(row).collect()
}

/// Uniform candidates, each beside the smallest of the front that loses no more.
fn uniform(report: &ReportDocument) -> Vec<[String; 9]> {
    let row = |gain: gain::Gain<'_>| {
        let row = &gain.uniform.row;
        let better = gain.better.map(|better| (better.candidate.short(), grouped(better.footprint_bytes)));
        let (better, size) = better.unwrap_or_default();
        [
            gain::name(gain.uniform, &report.front),
            row.candidate.short(),
            grouped(row.footprint_bytes),
            quality(row),
            loss(row),
            interval(row.quality_loss_interval),
            better,
            size,
            if gain.better.is_some() { grouped(gain.fewer_bytes()) } else { "nothing".to_owned() },
        ]
    };
    gain::gains(&report.front).into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use qslm_common::backend::Backend;
    use qslm_common::origins::Origins;
    use qslm_common::recovery::{Recovery, TrainingPlan};

    use super::*;
    use crate::testing::report;
    use crate::{Comparison, GivenArtifact, Reference};

    #[test]
    fn a_page_says_how_far_the_search_is() {
        let page = file(&report());
        for words in [
            "<h1>formula",
            "running",
            "global: 6 candidates settled, at most 12 to go",
            "saved so far",
            "; since 1970-01-01 00:00:01 UTC",
        ] {
            assert!(page.contains(words), "{words}");
        }
        let mut report = report();
        report.timeline[1].measured = 6;
        assert!(file(&report).contains("at most 12 to go, at most 12 s left;"), "a candidate took a second");
        report.remaining_about = Some(3);
        assert!(file(&report).contains("at most 12 to go, about 5 s left (at most 12 s);"));
    }

    #[test]
    fn what_a_worker_says_is_text_and_nothing_else() {
        let mut report = report();
        report.stages[1].name = "<b>".to_owned();
        let point = Reference { label: "<i>".to_owned(), saving: 0.8, quality_loss: 0.01 };
        report.comparisons = vec![Comparison { source: "<b>study</b>".to_owned(), points: vec![point] }];
        let page = file(&report);
        assert!(page.contains("study") && !page.contains("<i>"), "the point is on the plot, as text");
        assert!(
            page.contains("a &#60;script&#62; in a reason") || page.contains("a &lt;script&gt; in a reason")
        );
        assert!(!page.contains("<script>") && !page.contains("<b>"));
    }

    #[test]
    fn a_page_names_the_artifacts_that_jobs_made_for_the_experiment() {
        let artifact = qslm_common::hash::ContentHash::of(b"made");
        let made = GivenArtifact { job: "codes method=gptq".to_owned(), artifact };
        let with = ReportDocument { artifacts: vec![made], ..report() };
        let row = format!("<tr><td>made for it</td><td>codes method=gptq: {artifact}</td></tr>");
        assert!(file(&with).contains(&row) && !file(&report()).contains("made for it"));
        // A document of an earlier version has none.
        assert!(!serde_json::to_string(&report()).unwrap().contains("artifacts"));
    }

    #[test]
    fn a_page_says_where_files_were_fetched_from() {
        let checkpoint = report().experiment.checkpoint;
        let origins = Origins::new([(checkpoint, "hf://a/b@0123/c.pth".to_owned())]).unwrap();
        let with = ReportDocument { origins, ..report() };
        let row = format!("<tr><td>checkpoint</td><td>{checkpoint} from hf://a/b@0123/c.pth</td></tr>");
        assert!(file(&with).contains(&row));
        assert!(!file(&report()).contains(" from hf://"));
        assert!(
            !serde_json::to_string(&report()).unwrap().contains("origins"),
            "as earlier versions wrote it"
        );
    }

    #[test]
    fn a_page_says_what_graphics_cards_trained_and_that_it_is_not_reproducible() {
        let text = qslm_common::hash::ContentHash::of(b"train");
        let (plan, backend) = (TrainingPlan::default(), Backend::Cuda);
        let recovery = Recovery { text, candidates: 1, reach: 2.0, plan, backend };
        let mut with = report();
        with.experiment.recovery = Some(recovery);
        with.front.reproducible = with.experiment.is_reproducible();
        let page = file(&with);
        for words in ["<td>trained on</td><td>cuda, graphics cards", "<td>reproducible</td><td>false"] {
            assert!(page.contains(words) && !file(&report()).contains(words), "{words}");
        }
        assert!(serde_json::to_string(&with).unwrap().contains("\"reproducible\":false"));
        assert!(!serde_json::to_string(&report()).unwrap().contains("reproducible"));
    }

    #[test]
    fn an_experiment_that_has_only_begun_has_a_page() {
        let mut report = report();
        report.front.float = None;
        report.front.chosen = None;
        report.front.front.clear();
        report.spots.clear();
        report.timeline.clear();
        let page = file(&report);
        assert!(page.contains("Nothing is measured yet.") && !page.contains("<figure"));
    }

    #[test]
    fn the_provenance_has_what_the_choice_was_made_by() {
        let mut report = report();
        report.experiment.constraints.max_perplexity_increase = Some(0.03);
        report.experiment.constraints.max.insert(Cost::Energy, 1e-4);
        let page = file(&report);
        for (name, words) in [
            ("constraints", "max.energy = 0.0001, max_perplexity_increase = 0.03"),
            ("trade-off", "kind = "),
            ("space", "int8:symmetric:"),
            ("device", "the default one of 45 nm"),
        ] {
            assert!(page.contains(&format!("<tr><td>{name}</td><td>{words}")), "{name}: {words}");
        }
    }

    #[test]
    fn a_search_that_chose_nothing_has_no_green_badge_and_says_what_is_nearest() {
        let mut report = report();
        report.state = Lifecycle::Finished;
        assert!(file(&report).contains("class=\"state finished\""));
        report.front.chosen = None;
        let bound = qslm_common::unmet::Bound::Footprint;
        let candidate = Some(report.front.front[0].candidate);
        report.front.unmet =
            vec![qslm_common::unmet::Unmet { constraint: bound, limit: 1.0, nearest: Some(2.0), candidate }];
        let page = file(&report);
        assert!(page.contains("class=\"state unmet\"") && !page.contains("state finished\""));
        assert!(page.contains("The smallest is 2 B (") && page.contains("the bound is 1 B. Loosen it."));
    }

    #[test]
    fn a_search_that_nobody_works_on_is_not_running() {
        let mut report = report();
        assert!(file(&report).contains("class=\"state running\">running"));
        report.workers = 0;
        let page = file(&report);
        assert!(page.contains("class=\"state no worker\">no worker") && page.contains("; 0 workers, "));
        report.state = Lifecycle::Interrupted;
        let page = file(&report);
        assert!(page.contains("class=\"state interrupted\">interrupted") && !page.contains(" workers, "));
    }

    #[test]
    fn a_page_names_uniform_candidates_and_what_the_search_bought() {
        let report = report();
        let page = file(&report);
        assert_eq!(report.front.uniform.len(), 3);
        let name = gain::name(&report.front.uniform[0], &report.front);
        assert!(page.contains(&name) && page.contains("id=\"uniform-table\""), "{name}");
        assert!(page.contains(&gain::sentence(&report.front)));
    }
}
