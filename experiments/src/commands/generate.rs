//! `qslm generate`: continue a text, to hear what a quantized model still says.

use std::path::PathBuf;

use clap::Args;
use qslm_common::network::Network;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Sampler, TokenizerFile};

use crate::codes::{CalibrationArgs, CalibrationWindow};
use crate::exit::{Exit, Failure, Outcome};
use crate::fetched;
use crate::input::Input;
use crate::inputs::Cut;
use crate::known::Known;
use crate::output::print;
use crate::schemes::{ModelArgs, SchemeArgs};
use crate::selected::SelectArgs;

/// Continue a text, token by token as it is drawn.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm generate --checkpoint model.safetensors --tokenizer tokenizer.json --prompt \"The lighthouse was\"
  qslm generate --checkpoint packed.safetensors --tokenizer tokenizer.json --prompt \"In 1871 ,\" --seed 7
  qslm generate --checkpoint model.pth --tokenizer tokenizer.json --prompt \"The\" --bits 3 --embedding sign
  qslm generate --checkpoint model.pth --tokenizer tokenizer.json --prompt \"The\" --front front.json --candidate 9a7d64
  qslm generate --checkpoint model.pth --tokenizer tokenizer.json --prompt \"The\" --bits 3 --rounding gptq \
    --calibration train.txt --window 128")]
pub struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    /// The checkpoint's tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// The beginning of the text
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Tokens to draw
    #[arg(long, default_value_t = 100)]
    tokens: u32,
    /// Temperature, which divides the logits; 0 always takes the likeliest token
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Draw among this many of the likeliest tokens
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Seed of the draw; the same seed draws the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    calibration_window: CalibrationWindow,
}

impl Generate {
    /// The network, and what a search knows of it.
    fn load(&self) -> Outcome<(SpikeGpt, Known)> {
        if let Some((loaded, known)) = self.select.load(&self.model, None, None)? {
            return Ok((loaded.model, known));
        }
        let (calibration, tokenizer) = (&self.calibration, Some(self.tokenizer.clone()));
        let cut = Cut::of_text(self.calibration_window.window, tokenizer)?;
        let ranges = calibration.ranges(&self.model, &cut, &self.scheme)?;
        let codes = |network: &Network, candidate| {
            calibration.codes(&self.model.checkpoint, &cut, network, candidate)
        };
        let loaded = self.scheme.load(&self.model, ranges.as_ref(), None, codes)?;
        Ok((loaded.model, Known::of_file(&self.model)))
    }

    /// Prints the prompt and what follows.
    pub fn run(mut self) -> Outcome {
        let usage = |error: &dyn std::error::Error| Failure::new(Exit::Usage, format!("--{error}"));
        let mut sampler =
            Sampler::new(self.temperature, self.top_k, self.seed).map_err(|error| usage(&error))?;
        self.model.find()?;
        self.calibration.find()?;
        fetched::find([&mut self.tokenizer])?;
        let (model, known) = self.load()?;
        if model.network().is_classifier() {
            let checkpoint = self.model.checkpoint.display();
            let words = format!("{checkpoint}: this checkpoint classifies, it has no next token");
            return Err(Failure::new(Exit::Usage, words));
        }
        known.check_tokenizer(&self.tokenizer)?;
        known.check_backend(self.model.backend);
        let input = Input::tokenizer(&self.tokenizer)?;
        let in_tokenizer = |error: &(dyn std::error::Error + 'static)| input.failure(error);
        let tokenizer = TokenizerFile::load(input.path(), model.network().vocabulary);
        let tokenizer = tokenizer.map_err(|error| in_tokenizer(&error))?;
        let mut next = tokenizer.encode(&self.prompt).map_err(|error| in_tokenizer(&error))?;
        if next.is_empty() {
            return Err(Failure::new(Exit::Usage, "--prompt: it has no tokens to go on from"));
        }
        let (mut state, mut decoder) = (model.start(), tokenizer.decoder());
        let mut spikes = vec![0; model.network().populations().len()];
        print(&self.prompt)?;
        for id in &next {
            // The decoder needs what came before; the prompt itself is printed already.
            decoder.push(*id).map_err(|error| in_tokenizer(&error))?;
        }
        let mut position = 0;
        for _ in 0..self.tokens {
            position += next.len();
            let features = model.features(&next, &mut state, &mut spikes);
            let last = features.len() - model.network().channels as usize;
            let logits = model.logits(features[last..].to_vec());
            if let Some(logit) = logits.iter().find(|logit| !logit.is_finite()) {
                print("\n")?;
                let checkpoint = self.model.checkpoint.display();
                let words =
                    format!("{checkpoint}: a logit behind token {position} is {logit}: nothing can be drawn");
                return Err(Failure::new(Exit::Failure, words));
            }
            let token = sampler.draw(&logits);
            if let Some(text) = decoder.push(token).map_err(|error| in_tokenizer(&error))? {
                print(&text)?;
            }
            next = vec![token];
        }
        print("\n")
    }
}
