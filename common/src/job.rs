//! A job: a pure function of artifacts and parameters that makes one artifact.
//!
//! What a job computes is its kind's business, and the engine of the workers alone knows the kinds (one file each). Here a
//! job is a kind, what goes in, and a bound for what comes out, so that a coordinator leases, records and shows kinds that
//! it has never heard of. Its canonical text holds everything that its artifact depends on and nothing else; the hash of
//! that text is the key under which the artifact is recorded, once, for all experiments.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::Backend;
use crate::hash::{ContentHash, named_hash};

/// Largest canonical text of a job, in bytes.
pub const LARGEST_TEXT: usize = 1 << 20;
/// Largest artifact that a job may state, in bytes.
pub const LARGEST_ARTIFACT: u64 = 1 << 36;
/// Bytes of a checkpoint of a job at most, as a multiple of what it may make: of what is learned, also two moments of its
/// gradient.
pub const CHECKPOINT_TIMES: u64 = 4;
/// Longest name of a kind, an input or a parameter, in bytes.
pub const LONGEST_NAME: usize = 64;
/// Most inputs of a job.
pub const MOST_INPUTS: usize = 64;

/// What the text of every job begins with: another form of the text is another version.
const VERSION: &str = "qslm job 1";

named_hash! {
    /// Job key: the content address of a job, under which the artifact that it makes is recorded.
    JobKey
}

/// Job: a pure function of artifacts and parameters that makes one artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    version: String,
    /// Kind, such as `ranges`.
    pub kind: String,
    /// [`crate::ENGINE_VERSION`] that the artifact is to come from.
    pub engine_version: u32,
    /// Backend that it is made on. What a graphics card makes has other bits on another one, or made again; it is recorded
    /// once all the same.
    #[serde(default, skip_serializing_if = "is_native")]
    pub backend: Backend,
    /// Inputs by name.
    pub inputs: BTreeMap<String, JobInput>,
    /// Parameters by name, as the kind reads them.
    pub parameters: BTreeMap<String, Value>,
    /// Bound of the artifact, in bytes.
    pub largest: u64,
}

fn is_native(backend: &Backend) -> bool {
    *backend == Backend::Native
}

/// Input of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobInput {
    /// An artifact.
    Artifact(ContentHash),
    /// What another job makes: the job waits until that is made.
    Job(JobKey),
}

impl JobInput {
    /// Hash of the artifact, unless another job makes it.
    pub fn artifact(&self) -> Option<ContentHash> {
        match self {
            Self::Artifact(hash) => Some(*hash),
            Self::Job(_) => None,
        }
    }
}

/// Bytes of a document that a search reads, at most.
pub const LARGEST_DOCUMENT: u64 = 1 << 20;

/// A job that is none: a canonical text that cannot be read, or a value beyond its bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("job: {0}")]
pub struct InvalidJob(String);

impl Job {
    /// A job of this kind, without inputs and parameters, whose artifact has so many bytes at most.
    pub fn new(kind: &str, largest: u64) -> Self {
        Self {
            version: VERSION.to_owned(),
            kind: kind.to_owned(),
            engine_version: crate::ENGINE_VERSION,
            backend: Backend::Native,
            inputs: BTreeMap::new(),
            parameters: BTreeMap::new(),
            largest,
        }
    }

    /// The job on a backend.
    #[must_use]
    pub fn on(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// The job with one more input.
    #[must_use]
    pub fn input(mut self, name: &str, input: JobInput) -> Self {
        self.inputs.insert(name.to_owned(), input);
        self
    }

    /// The job with one more parameter.
    #[must_use]
    pub fn parameter(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters.insert(name.to_owned(), value.into());
        self
    }

    /// The job with these parameters and no others, one for each field.
    ///
    /// # Panics
    /// If they are no map of names to values.
    #[must_use]
    pub fn parameters(mut self, parameters: &impl Serialize) -> Self {
        let value = serde_json::to_value(parameters).expect("parameters are plain values");
        let Value::Object(fields) = value else { panic!("parameters have names") };
        self.parameters = fields.into_iter().collect();
        self
    }

    /// True if its artifact is a document (at most [`LARGEST_DOCUMENT`]) that the search which asks for it reads.
    pub fn is_read(&self) -> bool {
        self.kind == crate::recovery::kinds::CODED_ARTIFACT
    }

    /// Canonical text: the same for the same job, whoever writes it.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("names are texts")
    }

    /// Job of a canonical text.
    ///
    /// # Errors
    /// A text that is longer than [`LARGEST_TEXT`], cannot be read, is not canonical, or says what is beyond a bound.
    pub fn decode(text: &str) -> Result<Self, InvalidJob> {
        if text.len() > LARGEST_TEXT {
            return Err(InvalidJob(format!("{} bytes: expected at most {LARGEST_TEXT}", text.len())));
        }
        let job: Self = serde_json::from_str(text).map_err(|error| InvalidJob(error.to_string()))?;
        job.validate()?;
        // One text for one job, or one job would have two keys.
        if job.encode() != text {
            return Err(InvalidJob("not in its canonical form".to_owned()));
        }
        Ok(job)
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// The first value beyond its bound.
    pub fn validate(&self) -> Result<(), InvalidJob> {
        let refuse = |words: String| Err(InvalidJob(words));
        if self.version != VERSION {
            return refuse(format!("version = {:?}: expected {VERSION:?}", cut(&self.version)));
        }
        if !(is_native(&self.backend) || self.backend.is_gpu()) {
            return refuse(format!("backend = {}: expected native, cuda or wgpu", self.backend));
        }
        let names = self.inputs.keys().chain(self.parameters.keys()).chain([&self.kind]);
        for name in names {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(plain) {
                let name = cut(name);
                return refuse(format!(
                    "{name:?} is no name: expected 1 to {LONGEST_NAME} of a to z, 0 to 9 and _"
                ));
            }
        }
        if self.inputs.len() > MOST_INPUTS {
            return refuse(format!("{} inputs: expected at most {MOST_INPUTS}", self.inputs.len()));
        }
        if !(1..=LARGEST_ARTIFACT).contains(&self.largest) {
            return refuse(format!("largest = {}: expected 1 to {LARGEST_ARTIFACT} bytes", self.largest));
        }
        Ok(())
    }

    /// Kind and backend: what a worker has to be able to do.
    pub fn kind(&self) -> JobKind<'_> {
        JobKind { kind: &self.kind, backend: self.backend }
    }

    /// Bound of a checkpoint of it while it is under way, in bytes.
    pub fn largest_checkpoint(&self) -> u64 {
        self.largest.saturating_mul(CHECKPOINT_TIMES)
    }

    /// Key: the hash of the canonical text.
    pub fn key(&self) -> JobKey {
        JobKey::of(self.encode().as_bytes())
    }

    /// Keys of the jobs whose artifacts it reads.
    pub fn waits_for(&self) -> impl Iterator<Item = JobKey> {
        self.inputs.values().filter_map(|input| match input {
            JobInput::Job(key) => Some(*key),
            JobInput::Artifact(_) => None,
        })
    }
}

/// Kind of a job, and the backend that it is made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobKind<'a> {
    /// Kind, such as `ranges`.
    pub kind: &'a str,
    /// Backend.
    pub backend: Backend,
}

/// `qat`, or `qat on cuda`.
impl fmt::Display for JobKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.backend {
            Backend::Native => f.write_str(self.kind),
            other => write!(f, "{} on {other}", self.kind),
        }
    }
}

/// In a few words: the kind, and what its parameters are.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)?;
        for (name, value) in &self.parameters {
            match value {
                Value::String(text) if text.len() <= 40 => write!(f, " {name}={text}")?,
                Value::Number(number) => write!(f, " {name}={number}")?,
                Value::Bool(value) => write!(f, " {name}={value}")?,
                // Long texts and lists say little at a glance.
                _ => {}
            }
        }
        Ok(())
    }
}

/// The beginning of a text that somebody else wrote.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A job with its key, which takes a hash to work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressedJob {
    /// Job to do.
    pub job: Job,
    /// Its content address.
    pub key: JobKey,
}

impl From<Job> for AddressedJob {
    fn from(job: Job) -> Self {
        let key = job.key();
        Self { job, key }
    }
}

impl From<Job> for Arc<AddressedJob> {
    fn from(job: Job) -> Self {
        Self::new(job.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job::new("ranges", 1000)
            .input("checkpoint", JobInput::Artifact(ContentHash::of(b"c")))
            .input("order", JobInput::Job(JobKey::of(b"j")))
            .parameter("sequences", 64)
            .parameter("label", "calibration")
    }

    #[test]
    fn the_text_of_a_job_decides_its_key_and_is_read_back() {
        let text = job().encode();
        let (c, j) = (ContentHash::of(b"c"), JobKey::of(b"j"));
        assert_eq!(
            text,
            format!(
                "{{\"version\":\"qslm job 1\",\"kind\":\"ranges\",\"engine_version\":3,\"inputs\":\
                 {{\"checkpoint\":{{\"artifact\":\"{c}\"}},\"order\":{{\"job\":\"{j}\"}}}},\"parameters\":\
                 {{\"label\":\"calibration\",\"sequences\":64}},\"largest\":1000}}"
            )
        );
        assert_eq!(Job::decode(&text), Ok(job()));
        assert_eq!(job().key(), JobKey::of(text.as_bytes()));
        assert_eq!(job().waits_for().collect::<Vec<_>>(), [j]);
        assert_eq!(job().to_string(), "ranges label=calibration sequences=64");
    }

    #[test]
    fn the_backend_is_in_the_text_of_a_job_that_asks_for_a_graphics_card() {
        let on_card = job().on(Backend::Cuda);
        assert!(on_card.encode().contains("\"engine_version\":3,\"backend\":\"cuda\",\"inputs\""));
        assert_eq!(Job::decode(&on_card.encode()), Ok(on_card.clone()));
        assert_ne!(on_card.key(), job().key());
        assert_eq!(on_card.to_string(), "ranges on cuda label=calibration sequences=64");
        // Of native there is one text, that without a word of it.
        assert_eq!(job().on(Backend::Native).encode(), job().encode());
        let said = on_card.encode().replace("cuda", "native");
        assert_eq!(Job::decode(&said).unwrap_err().to_string(), "job: not in its canonical form");
    }

    #[test]
    fn the_order_in_which_a_job_is_put_together_does_not_count() {
        let other = Job::new("ranges", 1000)
            .parameter("label", "calibration")
            .input("order", JobInput::Job(JobKey::of(b"j")))
            .parameter("sequences", 64)
            .input("checkpoint", JobInput::Artifact(ContentHash::of(b"c")));
        assert_eq!(other.key(), job().key());
    }

    #[test]
    fn what_is_beyond_a_bound_is_named_with_the_bound() {
        let refused = |job: Job| Job::decode(&job.encode()).unwrap_err().to_string();
        let many = (0..=MOST_INPUTS).fold(job(), |job, index| {
            job.input(&format!("i{index}"), JobInput::Artifact(ContentHash::of(b"")))
        });
        let cases = [
            (Job::new("Ranges!", 1), "\"Ranges!\" is no name: expected 1 to 64 of a to z, 0 to 9 and _"),
            (job().parameter(&"x".repeat(65), 1), "is no name"),
            (job().on(Backend::Flex), "backend = flex: expected native, cuda or wgpu"),
            (Job::new("ranges", 0), "largest = 0: expected 1 to 68719476736 bytes"),
            (many, "67 inputs: expected at most 64"),
        ];
        for (job, words) in cases {
            let error = refused(job);
            assert!(error.starts_with("job: ") && error.contains(words), "{error}");
        }
        assert!(Job::decode("{").unwrap_err().to_string().contains("EOF"));
        assert!(
            Job::decode(&"x".repeat(LARGEST_TEXT + 1)).unwrap_err().to_string().contains("1048577 bytes")
        );
        let spaced = job().encode().replace(':', ": ");
        assert_eq!(Job::decode(&spaced).unwrap_err().to_string(), "job: not in its canonical form");
    }
}
