//! `qslm init`: a spec to start from.

use std::path::{Component, Path, PathBuf};

use clap::Args;
use qslm_engine::checkpoint::{Checkpoint, Inspected};
use qslm_search::{Strategy, Tiered, registry};

use crate::exit::{Exit, Failure, Outcome};
use crate::fetched::{self, is_address};
use crate::input::unreadable;
use crate::member::MemberArgs;
use crate::output::print;
use crate::place::{Made, OutputPlace};
use crate::progress::is_shown;

/// Write a commented spec for a checkpoint and a data set.
///
/// The checkpoint is read to see whether it models language or classifies. Nothing is overwritten unless `--force` says so.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm init --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt
  qslm init --checkpoint model.pth --tokenizer tokenizer.json --labelled dev.tsv --out sst2.toml")]
pub struct Init {
    /// The float checkpoint (PyTorch or safetensors)
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Its tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// Text to predict
    #[arg(long, value_name = "FILE", group = "data")]
    text: Option<PathBuf>,
    /// Lines of `sentence TAB label` to classify
    #[arg(long, value_name = "FILE", group = "data")]
    labelled: Option<PathBuf>,
    #[command(flatten)]
    member: MemberArgs,
    /// Name of the experiment [default: the checkpoint's]
    #[arg(long)]
    name: Option<String>,
    /// The file to write [default: NAME.toml]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace what is there; never a store, a checkpoint or one of these files
    #[arg(long)]
    force: bool,
}

impl Init {
    /// Writes the spec and prints where it is.
    pub fn run(mut self) -> Outcome {
        // What a spec says is the address.
        let named = [&self.checkpoint, &self.tokenizer].map(PathBuf::clone);
        let data_named = self.text.clone().or_else(|| self.labelled.clone());
        fetched::find([&mut self.checkpoint, &mut self.tokenizer])?;
        fetched::find(self.text.iter_mut().chain(&mut self.labelled))?;
        let Inspected { network, manifest, .. } =
            Checkpoint::inspect(&self.checkpoint, self.member.member(&self.checkpoint)?)
                .map_err(|error| unreadable(&self.checkpoint, &error))?;
        if manifest.is_some() {
            let file = self.checkpoint.display();
            let words = format!("{file} is packed already: search from the float checkpoint");
            return Err(Failure::new(Exit::Usage, words));
        }
        let usage = |words: &str| Failure::new(Exit::Usage, words);
        let (flag, data) = match (&self.text, &self.labelled) {
            (Some(text), _) if !network.is_classifier() => ("text", text),
            (_, Some(labelled)) if network.is_classifier() => ("labelled", labelled),
            (Some(_), _) => {
                return Err(usage("this checkpoint classifies: give --labelled instead of --text"));
            }
            (_, Some(_)) => {
                return Err(usage("this checkpoint models language: give --text instead of --labelled"));
            }
            (None, None) => return Err(usage("--text or --labelled is needed")),
        };
        for file in [&self.tokenizer, data] {
            Failure::unless_file(file)?;
        }
        let name = self.name.clone().unwrap_or_else(|| name_of(&named[0]));
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.toml")));
        let written = |named: &Path, file: &Path| match is_address(named) {
            true => Ok(toml::Value::from(named.to_string_lossy().into_owned()).to_string()),
            false => seen_from(&out, file),
        };
        let others = registry().iter().filter(|strategy| strategy.kind != Tiered::KIND);
        let others: Vec<String> = others.map(|strategy| format!("{:?}", strategy.kind)).collect();
        let spec = SPEC
            .replace("{command}", &format!("qslm run {}", out.display()))
            .replace("{name}", &name)
            .replace("{checkpoint}", &written(&named[0], &self.checkpoint)?)
            .replace("{tokenizer}", &written(&named[1], &self.tokenizer)?)
            .replace("{binary}", if network.binary_embedding { "true" } else { "false" })
            .replace("{family}", &self.member.written(&self.checkpoint)?)
            .replace("{task}", if flag == "text" { PERPLEXITY } else { ACCURACY })
            .replace("{data}", &written(data_named.as_deref().unwrap_or(data), data)?)
            .replace("{embedding}", if network.binary_embedding { "sign" } else { "quantize" })
            .replace("{strategies}", &others.join(", "))
            .replace("{constraint}", if flag == "text" { MAX_INCREASE } else { MAX_DROP });
        let inputs = [&*self.checkpoint, &*self.tokenizer, data.as_path()];
        OutputPlace::vacant(&out, Made::Spec, &inputs, self.force)?.write(spec.as_bytes())?;
        let out = out.display();
        print(&format!("{out}\n"))?;
        // What comes next is no part of the answer, which is a path.
        if is_shown() {
            qslm_program::say(format_args!(
                "next: qslm validate {out}; qslm submit {out} --dry-run says what it takes; qslm run {out}"
            ));
        }
        Ok(())
    }
}

/// An experiment's name made from a file's.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let kept: String =
        stem.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    let kept = kept.trim_matches('-').chars().take(60).collect::<String>();
    if kept.is_empty() { "experiment".to_owned() } else { kept }
}

/// A file as a spec may name it: as seen from the spec's folder where both have a folder in common below the root, else with
/// its whole path.
fn seen_from(spec: &Path, file: &Path) -> Outcome<String> {
    // Without links and dots: what is above a link is not above what it leads to.
    let whole = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        std::fs::canonicalize(path).map_err(|error| Failure::file(path, &error))
    };
    let (folder, file) = (whole(spec.parent().unwrap_or(Path::new("")))?, whole(file)?);
    let path = relative(&folder, &file).unwrap_or(file).to_string_lossy().into_owned();
    // As TOML writes a string: with everything escaped that has to be.
    Ok(toml::Value::from(path).to_string())
}

/// The way from a folder to a file; `None` where only the root is above both.
fn relative(folder: &Path, file: &Path) -> Option<PathBuf> {
    let common = folder.components().zip(file.components()).take_while(|(a, b)| a == b).count();
    if common < 2 {
        return None;
    }
    let up = folder.components().skip(common).map(|_| Component::ParentDir);
    Some(up.chain(file.components().skip(common)).collect())
}

const SPEC: &str = "\
# Which bits can this model do without?
#
#   {command}

name = \"{name}\"

[checkpoint]
path = {checkpoint}
tokenizer = {tokenizer}
# Whether the model was trained to see only the sign of its embedding weights.
binary_embedding = {binary}
{family}
{task}
[space]
bits = [8, 6, 4, 3, 2]    # 2 to 8, 16 or 32
symmetry = \"full\"         # every code is used; or \"symmetric\", \"affine\", \"ternary\"
granularity = \"channel\"   # or \"tensor\", \"group:64\"
embedding = \"{embedding}\"        # \"sign\" (one lossless bit), \"quantize\" or \"float\"
# quantizer = [\"gptq\"]    # rounds with data in view, that of a [calibration] table: text = \"train.txt\", sequences = 128
# storage = [\"packed\", \"rans\"]    # entropy coding where it takes less

[constraints]
{constraint}
# max_footprint_bytes = '1 MB'
# min_saving = 0.85                # share of the float bytes

[strategy]
kind = \"qslm\"             # the tiered search; or {strategies}

[trade_off]
# The smallest candidate within the bound on quality, whatever it loses below that:
# kind = \"epsilon_constraint\"    # without mu
kind = \"weighted_sum\"     # P/P0 - mu M/M0: a loss counts even within the bound; or \"product\" with k
mu = 1.0

[run]
shards = 4                # how finely a trial is spread over workers; does not change the result
";

const PERPLEXITY: &str = "\
[task]
kind = \"perplexity\"
text = {data}
window = 128              # tokens per window; the network's state starts afresh in each
# stride = 128            # from one window's start to the next
# windows = 64            # stop after so many: a first look takes a minute
";

const ACCURACY: &str = "\
[task]
kind = \"accuracy\"
labelled = {data}
# sentences = 200         # stop after so many: a first look takes a minute
";

const MAX_INCREASE: &str = "max_perplexity_increase = 0.03   # 3 % above the float model";
const MAX_DROP: &str = "max_accuracy_drop = 0.01         # one point below the float model";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_what_a_name_may_have() {
        assert_eq!(name_of(Path::new("a/SpikeGPT-216M v2.pth")), "spikegpt-216m-v2");
        assert_eq!(name_of(Path::new("___.pth")), "experiment");
    }

    #[test]
    fn files_are_named_as_seen_from_the_spec() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["x/y", "z"] {
            std::fs::create_dir_all(at(name)).unwrap();
            std::fs::write(at(name).join("m.pth"), "").unwrap();
        }
        assert_eq!(seen_from(&at("x/s.toml"), &at("x/y/m.pth")).unwrap(), "\"y/m.pth\"");
        assert_eq!(seen_from(&at("x/s.toml"), &at("z/m.pth")).unwrap(), "\"../z/m.pth\"");
        assert_eq!(relative(Path::new("/a"), Path::new("/b/c")), None, "only the root is above both");
    }
}
