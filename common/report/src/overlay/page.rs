//! The page of experiments side by side: one HTML file that needs nothing else.

use askama::Template;

use super::{Budget, OverlayDocument, rows};
use crate::ReportDocument;
use crate::page::{Page, render};
use crate::plots::{self, Plot};

#[derive(Template)]
#[template(path = "overlay.html")]
struct Body<'a> {
    document: &'a OverlayDocument,
    figure: Option<Figure>,
    headings: [&'static str; rows::EXPERIMENTS.len()],
    experiments: Vec<[String; rows::EXPERIMENTS.len()]>,
    of_budget: [&'static str; rows::BUDGET.len()],
    budgets: Vec<Within>,
}

struct Figure {
    title: String,
    caption: String,
    svg: String,
}

/// What each experiment has within a budget.
struct Within {
    title: String,
    rows: Vec<[String; rows::BUDGET.len()]>,
}

/// A file that shows the experiments side by side without a network.
pub fn file(document: &OverlayDocument, reports: &[ReportDocument]) -> String {
    let figure = |plot: Plot| Figure { svg: plot.svg(), title: plot.title, caption: plot.caption };
    let within = |budget: &Budget| Within {
        title: rows::title(document, budget.limit),
        rows: rows::budget(document, budget),
    };
    let body = Body {
        document,
        figure: plots::overlay(document, reports).map(figure),
        headings: rows::EXPERIMENTS,
        experiments: rows::experiments(document),
        of_budget: rows::BUDGET,
        budgets: document.budgets.iter().map(within).collect(),
    };
    Page::still("experiments side by side", &render(&body)).html()
}
