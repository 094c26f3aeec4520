//! `qslm report`: an experiment as one HTML file, and its plots as pictures; several of them side by side.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use qslm_common::bytes;
use qslm_report::overlay::{self, OverlayDocument};
use qslm_report::plots::{self, Plot};
use qslm_report::{ReportDocument as Document, page};

use super::target::Source;
use crate::client::{Client, describe_as_text, read_report};
use crate::ending;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::print;
use crate::overlaid;
use crate::place::{Made, OutputPlace, is_same};

/// Write an experiment as one HTML file: front, hypervolume, sensitivity, chosen bits, firing rates, energy, provenance.
///
/// The file needs no network and no other file; it is readable on a phone and in print. An experiment that is under way
/// shows how far it is. `--plots` also writes every plot as SVG and PNG, for papers.
///
/// Several experiments are laid over each other: their fronts in one plot, a row for each, and which of them is best at the
/// budgets of their constraints, or at those that `--budget` names. These tables are printed, too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm report quickstart --store runs/quickstart.redb
  qslm report quickstart --coordinator http://10.0.0.5:7477 --out sweep.html
  qslm report quickstart --store runs/quickstart.redb --plots figures --scale 3
  qslm report quickstart --store runs/quickstart.redb --format json --out - | jq .sensitivity
  qslm report evolve allocate beam --store runs/sweep.redb --budget '450 kB' --budget '500 kB' --out sweep.html")]
pub struct Report {
    /// The experiment's id or the beginning of it, or its name, which means the newest of that name; several are laid over
    /// each other
    #[arg(required = true, value_name = "EXPERIMENT")]
    experiments: Vec<String>,
    #[command(flatten)]
    source: Source,
    /// The file to write; - for standard output [default: ID.html, overlay.html for several]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A page, or the document that it is made of [default: by the end of the file's name, else html]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Replace what is there even if it is no report; never a store, a checkpoint or an input
    #[arg(long)]
    force: bool,
    /// Also write every plot into this folder, as NAME.svg and NAME.png
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    /// Pixels of a PNG per unit of the SVG, which is 720 wide
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    scale: u8,
    /// Bytes at which several experiments are compared, such as "560 kB"; may be given several times
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    budget: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One HTML file
    Html,
    /// The document as JSON
    Json,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Json => "json",
        }
    }

    fn made(self) -> Made {
        match self {
            Self::Html => Made::Page,
            Self::Json => Made::Report,
        }
    }
}

/// What is written and printed.
struct Shown {
    text: String,
    plots: Vec<Plot>,
    /// Tables for people; empty for one experiment, which has a page of them.
    tables: String,
    /// Path unless one is named.
    usual: PathBuf,
}

impl Shown {
    fn of_one(document: &Document, json: String, format: Format) -> Self {
        let text = if format == Format::Html { page::file(document) } else { json + "\n" };
        let usual = PathBuf::from(format!("{}.{}", document.id, format.extension()));
        Self { text, plots: plots::all(document), tables: String::new(), usual }
    }

    fn of_several(reports: &[Document], budgets: &[u64], format: Format) -> Outcome<Self> {
        let document = OverlayDocument::new(reports, budgets);
        let document = document.map_err(|error| Failure::new(Exit::Usage, error))?;
        let text = match format {
            Format::Html => overlay::page::file(&document, reports),
            Format::Json => {
                let json = serde_json::to_string(&document);
                json.map_err(|error| Failure::new(Exit::Failure, error))? + "\n"
            }
        };
        let plots = plots::overlay(&document, reports).into_iter().collect();
        let usual = PathBuf::from(format!("overlay.{}", format.extension()));
        Ok(Self { text, plots, tables: overlaid::tables(&document), usual })
    }
}

impl Report {
    /// Writes the report and prints where it is.
    pub async fn run(self) -> Outcome {
        // Before anything is asked for or made.
        let named = self.out.as_deref().filter(|out| *out != Path::new("-"));
        let inputs = self.source.inputs();
        let inputs: Vec<_> = inputs.iter().map(PathBuf::as_path).collect();
        named.map_or(Ok(()), |out| OutputPlace::refuse_inputs(out, &inputs))?;
        let known = [("html", Format::Html), ("htm", Format::Html), ("json", Format::Json)];
        let format = ending::choose(self.format, named, &known, Format::Html)?;
        named.map_or(Ok(()), |out| OutputPlace::new(out, format.made(), &inputs, self.force).map(drop))?;
        if self.experiments.len() == 1 && !self.budget.is_empty() {
            let words = "--budget compares experiments: expected at least 2 of them";
            return Err(Failure::new(Exit::Usage, words));
        }
        let mut read = Vec::new();
        let texts = async |client: &mut Client| {
            for experiment in &self.experiments {
                read.push(describe_as_text(client, experiment).await?);
            }
            Ok(())
        };
        self.source.with(texts).await?;
        let documents: Vec<Document> = read.iter().map(|json| read_report(json)).collect::<Outcome<_>>()?;
        let shown = match &documents[..] {
            [document] => Shown::of_one(document, read.swap_remove(0), format),
            several => Shown::of_several(several, &self.budget, format)?,
        };
        let mut written = Vec::new();
        if let Some(folder) = &self.plots {
            written.extend(self.write_plots(&shown.plots, folder, &inputs)?);
        }
        match &self.out {
            Some(out) if out == Path::new("-") => return print(&shown.text),
            out => {
                let path = out.clone().unwrap_or(shown.usual);
                if let Some(plot) = written.iter().find(|plot| is_same(&path, plot)) {
                    let words = format!("{}: is the plot {}", path.display(), plot.display());
                    return Err(Failure::new(Exit::Conflict, words));
                }
                OutputPlace::new(&path, format.made(), &inputs, self.force)?.write(shown.text.as_bytes())?;
                written.push(path);
            }
        }
        let written: String = written.iter().map(|path| format!("{}\n", path.display())).collect();
        print(&(written + &shown.tables))
    }

    fn write_plots(&self, plots: &[Plot], folder: &Path, inputs: &[&Path]) -> Outcome<Vec<PathBuf>> {
        std::fs::create_dir_all(folder).map_err(|error| Failure::folder(folder, &error))?;
        let mut written = Vec::new();
        for plot in plots {
            let png = plot.png(f32::from(self.scale));
            let png =
                png.map_err(|error| Failure::new(Exit::Failure, format!("{}.png: {error}", plot.name)))?;
            for (extension, made, bytes) in
                [("svg", Made::Svg, plot.svg().into_bytes()), ("png", Made::Png, png)]
            {
                let path = folder.join(format!("{}.{extension}", plot.name));
                OutputPlace::new(&path, made, inputs, self.force)?.write(&bytes)?;
                written.push(path);
            }
        }
        Ok(written)
    }
}
