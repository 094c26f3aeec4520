//! Running the real programs, and finding the data they run on.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

pub mod proxy;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use qslm_common::measurement::Nll;
use qslm_coordinator::store::{Store, Write};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

pub const QSLM: &str = env!("CARGO_BIN_EXE_qslm");
/// The spec of the bundled model and text.
pub const SPEC: &str = "experiments/specs/plain.toml";
/// The plain on next to nothing: the smallest experiment that has a front, a chosen candidate, and shards.
pub const TINY: [&str; 10] = [
    "--set",
    "task.window=32",
    "--set",
    "task.windows=2",
    "--set",
    "space.bits=[8, 4]",
    "--set",
    "run.shards=2",
    "--set",
    "constraints.max_perplexity_increase=5.0",
];

/// The top of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A program of another package, built beside `qslm`.
pub fn program(name: &str) -> PathBuf {
    let path = Path::new(QSLM).with_file_name(name);
    assert!(path.is_file(), "{} is not built: test the whole workspace", path.display());
    path
}

/// The folder of reference data. Tests that need it are ignored where `QSLM_SHARED` is not set (see build.rs);
/// where it is set, its absence is a failure.
pub fn shared() -> PathBuf {
    let given = std::env::var_os("QSLM_SHARED").expect("QSLM_SHARED was set when the tests were built");
    let folder = root().join(given);
    assert!(folder.is_dir(), "QSLM_SHARED = {} is no folder", folder.display());
    folder
}

/// Writes a checkpoint whose losses are beyond all bounds: the largest 16-bit floats as final norm and head, with mixed
/// signs.
pub fn broken_checkpoint(path: &Path) {
    let mut bytes = std::fs::read(root().join("experiments/models/wikitext2-xs.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for tensor in ["ln_out.weight", "head.weight"] {
        let offsets = &header[tensor]["data_offsets"];
        let at = |index: usize| 8 + length + offsets[index].as_u64().unwrap() as usize;
        for (index, weight) in bytes[at(0)..at(1)].as_chunks_mut().0.iter_mut().enumerate() {
            let negative = index.wrapping_mul(0x9e37_79b9) & 0x8000 != 0;
            *weight = if negative { half::f16::MIN } else { half::f16::MAX }.to_le_bytes();
        }
    }
    std::fs::write(path, bytes).unwrap();
}

/// A safetensors file of 32-bit tensors of one row, by name.
pub fn safetensors(tensors: &[(&str, &[f32])]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, values), bytes)| {
        (*name, TensorView::new(Dtype::F32, vec![values.len()], bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// A tensor of a file: its name, type, shape and bytes.
pub type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// The tensors of the bundled language model.
pub fn tensors() -> Vec<Tensor> {
    let bytes = std::fs::read(root().join("experiments/models/wikitext2-xs.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (&str, TensorView<'_>)| {
        (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec())
    };
    file.iter().map(tensor).collect()
}

/// Writes tensors, with metadata in the header.
pub fn write_tensors(path: &Path, tensors: &[Tensor], metadata: &[(&str, &str)]) {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    safetensors::serialize_to_file(views, Some(metadata), path).unwrap();
}

/// Writes the bundled model with weights of this size and mixed signs as its head.
pub fn checkpoint_with_head(path: &Path, weight: f32) {
    let mut tensors = tensors();
    let (_, dtype, shape, data) = tensors.iter_mut().find(|(name, ..)| name == "head.weight").unwrap();
    *dtype = Dtype::F32;
    let sign = |index: usize| if index.wrapping_mul(0x9e37_79b9) & 0x8000 != 0 { -weight } else { weight };
    *data = (0..shape.iter().product()).flat_map(|index| sign(index).to_le_bytes()).collect();
    write_tensors(path, &tensors, &[]);
}

/// Changes what a store knows of one of its trials, as no worker would; the trial's key.
pub fn contradict(store: &Path) -> String {
    let store = Store::open(store).unwrap();
    let contents = store.contents().unwrap();
    let (trial, counts) = contents.measurements.iter().next().unwrap();
    let mut counts = counts.keys().next().unwrap().clone();
    counts.nll = Nll(counts.nll.0 + 1);
    store.commit(&[Write::Measurement(*trial, counts.into())]).unwrap();
    trial.to_string()
}

/// Runs `qslm` at the top of the repository until it ends.
pub fn qslm(arguments: &[&str]) -> Output {
    Command::new(QSLM).args(arguments).current_dir(root()).output().unwrap()
}

/// Runs `qslm`, expects success, and gives its standard output.
pub fn succeed(arguments: &[&str]) -> String {
    let output = qslm(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {} {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `qslm`, expects JSON.
pub fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&succeed(arguments)).unwrap()
}

/// Runs `qslm`, expects failure with `code`, nothing on standard output, and one line on standard error,
/// which is returned.
pub fn refused(code: i32, arguments: &[&str]) -> String {
    let output = qslm(arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed to standard output");
    assert!(errors.starts_with("error: ") && errors.trim_end().lines().count() == 1, "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

/// A command that is run where the system allows hardly any threads, by somebody whom such limits are for, who is not root;
/// copies of the programs are put into `folder` for it.
pub fn without_threads(folder: &Path, name: &str, arguments: &[&str]) -> Command {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).unwrap();
    // One file with three names, as in an image.
    let copy = folder.join(name);
    std::fs::hard_link(QSLM, &copy).or_else(|_| std::fs::copy(QSLM, &copy).map(drop)).unwrap();
    let mut command = Command::new("sh");
    // bash and dash have letters of their own.
    let words = "ulimit -u 3 2> /dev/null || ulimit -p 3; exec \"$0\" \"$@\"";
    command.args(["-c", words]).arg(copy).args(arguments).current_dir(folder).stdin(Stdio::null());
    if folder.metadata().unwrap().uid() == 0 {
        command.uid(61_234).gid(61_234);
    }
    command
}

/// A program under way whose log is read. Killed when dropped.
pub struct Running {
    pub child: Child,
    /// Gone when nobody reads what more there is; see [`Running::read_on`].
    stderr: Option<BufReader<ChildStderr>>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .current_dir(root())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr = child.stderr.take().map(BufReader::new);
        Self { child, stderr }
    }

    /// Reads the log up to a line that contains `words`, which is returned.
    pub fn wait_for(&mut self, words: &str) -> String {
        let _limit = Limit::on(&self.child);
        let mut seen = String::new();
        loop {
            let start = seen.len();
            assert!(
                self.stderr.as_mut().unwrap().read_line(&mut seen).unwrap() > 0,
                "ended without {words:?}:\n{seen}"
            );
            if seen[start..].contains(words) {
                return seen[start..].trim_end().to_owned();
            }
        }
    }

    /// Waits until a coordinator listens; its address as a URL.
    pub fn url(&mut self) -> String {
        let line = self.wait_for("listening");
        let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
        format!("http://{}", address.trim_matches(|c: char| !c.is_ascii_digit()))
    }

    /// Reads the rest of the log in the background: a program whose log fills the pipe waits.
    pub fn read_on(&mut self) {
        let mut stderr = self.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    }

    /// Reads the rest of the log in the background and keeps it.
    pub fn keep_log(&mut self) -> Arc<Mutex<String>> {
        let stderr = self.stderr.take().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        log
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, then the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap().code()
    }

    /// Waits for the end; what is left of what it says.
    pub fn output(&mut self) -> Output {
        let _limit = Limit::on(&self.child);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        self.child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        Output { status: self.child.wait().unwrap(), stdout, stderr }
    }

    /// Waits for the end; exit code, standard output and the rest of standard error.
    pub fn finish(&mut self) -> (Option<i32>, String, String) {
        let _limit = Limit::on(&self.child);
        let (mut out, mut errors) = (String::new(), String::new());
        let mut stdout = self.child.stdout.take().unwrap();
        // What is printed at the end fits into the pipe, so reading one after the other cannot block.
        self.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        stdout.read_to_string(&mut out).unwrap();
        (self.child.wait().unwrap().code(), out, errors)
    }
}

/// A limit on how long a test waits for a program: past it the program is killed, so that the wait fails and says for what.
struct Limit(#[expect(dead_code, reason = "dropped: the wait is over")] mpsc::Sender<()>);

impl Limit {
    fn on(child: &Child) -> Self {
        let (over, waiting) = mpsc::channel();
        let id = child.id().to_string();
        std::thread::spawn(move || {
            if waiting.recv_timeout(Duration::from_secs(600)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-KILL", &id]).status();
            }
        });
        Self(over)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
