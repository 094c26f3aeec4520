//! `qslm report`: an experiment as one HTML file, and its plots as pictures.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use qslm_proto::v1::GetRequest;
use qslm_report::{ReportDocument as Document, page, plots};

use super::target::Source;
use crate::client::Client;
use crate::ending;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::print;
use crate::place::{Made, OutputPlace, is_same};

/// Write an experiment as one HTML file: front, hypervolume, sensitivity, chosen bits, firing rates, energy, provenance.
///
/// The file needs no network and no other file; it is readable on a phone and in print. An experiment that is under way
/// shows how far it is. `--plots` also writes every plot as SVG and PNG, for papers.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm report quickstart --store runs/quickstart.redb
  qslm report quickstart --coordinator http://10.0.0.5:7477 --out sweep.html
  qslm report quickstart --store runs/quickstart.redb --plots figures --scale 3
  qslm report quickstart --store runs/quickstart.redb --format json --out - | jq .sensitivity")]
pub struct Report {
    /// The experiment's id or the beginning of it, or its name, which means the newest of that name
    experiment: String,
    #[command(flatten)]
    source: Source,
    /// The file to write; - for standard output [default: ID.html]
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One HTML file
    Html,
    /// The document as JSON
    Json,
}

impl Format {
    fn made(self) -> Made {
        match self {
            Self::Html => Made::Page,
            Self::Json => Made::Report,
        }
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
        let request = GetRequest { experiment: self.experiment.clone() };
        let read = async |client: &mut Client| Ok(client.describe(request).await?.into_inner().json);
        let json = self.source.with(read).await?;
        let document: Document = serde_json::from_str(&json).map_err(|error| {
            Failure::new(Exit::Failure, format!("the coordinator's report cannot be read: {error}"))
        })?;
        let (text, extension) = match format {
            Format::Html => (page::file(&document), "html"),
            Format::Json => (json + "\n", "json"),
        };
        let mut written = Vec::new();
        if let Some(folder) = &self.plots {
            written.extend(self.write_plots(&document, folder, &inputs)?);
        }
        match &self.out {
            Some(out) if out == Path::new("-") => return print(&text),
            out => {
                let usual = || PathBuf::from(format!("{}.{extension}", document.id));
                let path = out.clone().unwrap_or_else(usual);
                if let Some(plot) = written.iter().find(|plot| is_same(&path, plot)) {
                    let words = format!("{}: is the plot {}", path.display(), plot.display());
                    return Err(Failure::new(Exit::Conflict, words));
                }
                OutputPlace::new(&path, format.made(), &inputs, self.force)?.write(text.as_bytes())?;
                written.push(path);
            }
        }
        print(&written.iter().map(|path| format!("{}\n", path.display())).collect::<String>())
    }

    fn write_plots(&self, document: &Document, folder: &Path, inputs: &[&Path]) -> Outcome<Vec<PathBuf>> {
        std::fs::create_dir_all(folder).map_err(|error| Failure::folder(folder, &error))?;
        let mut written = Vec::new();
        for plot in plots::all(document) {
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
