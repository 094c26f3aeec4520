use qslm_common::footprint::float_bytes;

use super::*;
use crate::testing::report;

/// Two reports of one space: the second has another strategy and nothing but the widest uniform candidate on its front.
fn two() -> [ReportDocument; 2] {
    let first = report();
    let mut second = report();
    second.experiment.name = "other".to_owned();
    second.id = second.experiment.id();
    let widest = second.front.uniform[0].row.candidate;
    second.front.front.retain(|row| row.candidate == widest);
    assert_eq!(second.front.front.len(), 1, "the widest is on the front");
    [first, second]
}

fn loss(best: &Best) -> Option<f64> {
    best.candidate.map(|found| found.quality_loss)
}

#[test]
fn within_bytes_the_least_loss_is_best_and_within_a_loss_the_fewest_bytes() {
    let [mut first, second] = two();
    let wide = second.front.front[0].clone();
    first.experiment.constraints.max_perplexity_increase = Some(0.03);
    let document = OverlayDocument::new(&[first, second], &[wide.footprint_bytes, 1]).unwrap();
    let limits: Vec<Limit> = document.budgets.iter().map(|budget| budget.limit).collect();
    let expected =
        [Limit::FootprintBytes(1), Limit::FootprintBytes(wide.footprint_bytes), Limit::QualityLoss(0.03)];
    assert_eq!(limits, expected);
    // Nothing takes a byte, and nothing is best of nothing.
    assert!(document.budgets[0].best.iter().all(|best| best.candidate.is_none() && !best.is_best));
    // Both have the wide one, which loses least.
    let [a, b] = &document.budgets[1].best[..] else { panic!("two experiments") };
    assert_eq!((loss(a), loss(b)), (wide.quality_loss, wide.quality_loss));
    assert!(a.is_best && b.is_best);
    // Only the first has something smaller that loses at most 3 %.
    let [a, b] = &document.budgets[2].best[..] else { panic!("two experiments") };
    assert!(a.candidate.unwrap().footprint_bytes < b.candidate.unwrap().footprint_bytes);
    assert!(a.is_best && !b.is_best);
}

#[test]
fn without_a_number_of_bytes_uniform_candidates_are_the_budgets_and_a_saving_is_bytes() {
    let [mut first, second] = two();
    let document = OverlayDocument::new(&[first.clone(), second.clone()], &[]).unwrap();
    let usable = first.front.uniform.iter().filter(|one| one.row.quality_loss.unwrap() <= USABLE);
    let mut bytes: Vec<u64> = usable.map(|one| one.row.footprint_bytes).collect();
    bytes.sort_unstable();
    assert_eq!(bytes.len(), 2, "the narrowest breaks the network");
    let limits = |document: &OverlayDocument| -> Vec<Limit> {
        document
            .budgets
            .iter()
            .map(|budget| budget.limit)
            .filter(|l| matches!(l, Limit::FootprintBytes(_)))
            .collect()
    };
    assert_eq!(limits(&document), bytes.into_iter().map(Limit::FootprintBytes).collect::<Vec<_>>());
    first.experiment.constraints.min_saving = Some(0.75);
    let float = float_bytes(&first.experiment.network);
    let document = OverlayDocument::new(&[first, second], &[]).unwrap();
    assert_eq!(limits(&document), [Limit::FootprintBytes(float / 4)]);
}

#[test]
fn experiments_that_are_called_the_same_are_told_apart_and_what_else_differs_is_said() {
    let [first, mut second] = two();
    let labels = |reports: &[ReportDocument]| -> Vec<String> {
        OverlayDocument::new(reports, &[]).unwrap().experiments.into_iter().map(|one| one.label).collect()
    };
    let kind = first.experiment.strategy.kind().to_owned();
    assert_eq!(
        labels(&[first.clone(), second.clone()]),
        [format!("formula ({kind})"), format!("other ({kind})")]
    );
    second.experiment.name.clone_from(&first.experiment.name);
    let same = labels(&[first.clone(), second.clone()]);
    assert!(same[0] != same[1] && same[0].starts_with(&format!("formula ({kind}) ")), "{same:?}");

    let notes = |second: &ReportDocument| {
        let reports = [first.clone(), second.clone()]
            .map(|report| ReportDocument { state: Lifecycle::Finished, ..report });
        OverlayDocument::new(&reports, &[]).unwrap().notes
    };
    assert!(notes(&second).is_empty());
    second.experiment.strategy = serde_json::from_str(r#"{"kind":"random"}"#).unwrap();
    assert!(notes(&second).is_empty(), "that is what they are compared for");
    second.experiment.checkpoint = qslm_common::hash::ContentHash::of(b"another");
    assert_eq!(notes(&second), ["The experiments differ in more than their strategies: checkpoint."]);
    let document = OverlayDocument::new(&[first.clone(), second.clone()], &[]).unwrap();
    assert_eq!(document.notes[1], format!("Not finished: {}, {}.", first.id, second.id));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let [first, mut second] = two();
    let twice = OverlayDocument::new(&[first.clone(), first.clone()], &[]);
    assert_eq!(twice, Err(NotComparable::Twice(first.id.clone())));
    let many = vec![first.clone(); MOST_EXPERIMENTS + 1];
    assert_eq!(OverlayDocument::new(&many, &[]), Err(NotComparable::TooMany(22)));
    second.experiment.task = qslm_common::task::Task::Accuracy { sentences: None };
    let words = OverlayDocument::new(&[first, second], &[]).unwrap_err().to_string();
    assert!(words.contains(" measures perplexity and ") && words.contains(" accuracy: "), "{words}");
}

#[test]
fn the_page_has_a_line_and_a_row_for_every_experiment_and_a_table_for_every_budget() {
    let reports = two();
    let document = OverlayDocument::new(&reports, &[500_000]).unwrap();
    let page = page::file(&document, &reports);
    for one in &document.experiments {
        let cell = format!("<td>{}</td>", one.label);
        assert_eq!(page.matches(&cell).count(), 1 + document.budgets.len(), "{}", one.label);
        assert!(page.contains(&format!(">{}</text>", one.label)), "{} is in the legend", one.label);
    }
    assert!(page.contains("<h2>Within 500,000 B: the least loss</h2>"));
    assert!(page.contains("Fronts side by side") && page.starts_with("<!doctype html>"));
    let read: OverlayDocument = serde_json::from_str(&serde_json::to_string(&document).unwrap()).unwrap();
    assert_eq!(read, document);
}

#[test]
fn nothing_measured_is_a_page_without_a_picture() {
    let reports = two().map(|mut report| {
        report.front.float = None;
        report.front.front.clear();
        report.front.uniform.clear();
        report
    });
    let document = OverlayDocument::new(&reports, &[500_000]).unwrap();
    let page = page::file(&document, &reports);
    assert!(!page.contains("<figure") && page.contains("none"));
}
