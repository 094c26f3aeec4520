//! Samplers of Optuna as strategies: a coordinator, a worker, an experiment whose strategy is `external`, and the example of
//! the Python client, as people run them.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Results, output, program};

/// Candidates of a generation, and generations: a hundred together, as the other strategies have.
const SIZE: &str = "20";
const GENERATIONS: &str = "5";
/// Interpreter that has `experiments/python/requirements.txt`, unless the environment names another.
const PYTHON: &str = "target/python/bin/python";

/// A program that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Results {
    /// Front of an experiment that a sampler of Optuna searched, with these settings of its spec.
    pub(super) fn by_optuna(&self, sampler: &str, seed: u32, settings: &[String]) -> Result<Value> {
        let python = std::env::var_os("PYTHON").map_or_else(|| PathBuf::from(PYTHON), PathBuf::from);
        let knows = Command::new(&python).args(["-c", "import grpc_tools, optuna"]).output();
        ensure!(
            knows.is_ok_and(|known| known.status.success()),
            "{}: has no optuna: pip install -r experiments/python/requirements.txt, or set PYTHON",
            python.display()
        );
        let address = free_address()?;
        let url = format!("http://{address}");
        let store = self.store(&format!("optuna-{sampler}-{seed}"));
        let store = store.to_string_lossy();
        let coordinator =
            ["--listen", &address, "--store", &store, "--web", "off", "--log", "error"].map(str::to_owned);
        let _coordinator = start("qslm-coordinator", &coordinator)?;
        let _worker = start("qslm-worker", &["--coordinator", &url, "--log", "error"].map(str::to_owned))?;

        // Experiments that differ in nothing would be one.
        let name = format!("name=optuna-{sampler}-{seed}");
        let mut submit = vec!["submit", "experiments/specs/strategies.toml", "--coordinator", &url];
        for setting in settings.iter().map(String::as_str).chain(["strategy={kind=\"external\"}", &name]) {
            submit.extend(["--set", setting]);
        }
        let id = output(&mut program("qslm")?, &submit)?;
        let (id, seed) = (id.trim(), seed.to_string());
        let search = ["experiments/python/optuna_search.py", &address, id, "--front", "--sampler", sampler];
        let more = ["--seed", &seed, "--tier", "matrix", "--size", SIZE, "--generations", GENERATIONS];
        output(&mut Command::new(&python), &[&search[..], &more].concat())?;
        let front = output(&mut program("qslm")?, &["front", id, "--coordinator", &url, "--output", "json"])?;
        serde_json::from_str(&front).context("the front of an experiment")
    }
}

/// An address that nobody listens on.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a free port")?;
    Ok(listener.local_addr()?.to_string())
}

fn start(name: &str, arguments: &[String]) -> Result<Running> {
    let mut command = program(name)?;
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Running(command.spawn().with_context(|| name.to_owned())?))
}
