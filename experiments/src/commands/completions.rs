//! `qslm completions`: what a shell needs to complete this program's words.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::exit::Outcome;
use crate::output::print;

/// Print completions for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm completions bash > ~/.local/share/bash-completion/completions/qslm
  qslm completions zsh > ~/.zfunc/_qslm
  qslm completions fish > ~/.config/fish/completions/qslm.fish")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub fn run(self, command: &mut Command) -> Outcome {
        let mut text = Vec::new();
        generate(self.shell, command, "qslm", &mut text);
        print(&String::from_utf8_lossy(&text))
    }
}
