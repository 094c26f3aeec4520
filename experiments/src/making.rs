//! Making: artifacts without which a spec is no experiment yet, by jobs on workers or here. Both make the same bytes, so an
//! experiment has the same id wherever they were made.

mod here;

use std::collections::HashSet;
use std::time::Duration;

use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_proto::convert;
use qslm_proto::v1::job_status::State;
use qslm_proto::v1::{FetchArtifactRequest, JobStatus, MakeRequest};
use qslm_transport::Connector;
use tokio::runtime::Handle;

use crate::client::{Client, connect, upload_missing};
use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;
pub use here::Here;

/// Time between two questions whether everything is made.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Files that jobs read, by content hash.
pub type Files<'a> = &'a [(ContentHash, &'a Input)];

/// Whoever makes artifacts.
pub trait Maker {
    /// Makes the artifacts of jobs, in their order.
    ///
    /// # Errors
    /// One line that names the job that failed, and why.
    fn make(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<Vec<u8>>>;

    /// Makes the artifact of one job.
    ///
    /// # Errors
    /// As [`Maker::make`].
    fn make_one(&self, job: &Job, files: Files<'_>) -> Outcome<Vec<u8>> {
        let mut made = self.make(std::slice::from_ref(job), files)?;
        made.pop().ok_or_else(|| failed(job, &"nothing came of it"))
    }
}

fn failed(job: &Job, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format!("cannot make {}: {why}", job.kind))
}

/// Workers of a coordinator, which is asked only if something is to be made: a spec that is refused is refused before that.
/// To be used where blocking is allowed.
pub struct OnWorkers<'a> {
    connector: &'a Connector,
    patience: Duration,
    runtime: Handle,
}

impl<'a> OnWorkers<'a> {
    /// The workers of a coordinator, which is waited for `patience` at most if it is not there.
    pub fn new(connector: &'a Connector, patience: Duration) -> Self {
        Self { connector, patience, runtime: Handle::current() }
    }
}

impl Maker for OnWorkers<'_> {
    fn make(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<Vec<u8>>> {
        self.runtime.block_on(async {
            let client = connect(self.connector, self.patience).await?;
            make_remotely(client, jobs, files).await
        })
    }
}

async fn make_remotely(mut client: Client, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<Vec<u8>>> {
    let read: HashSet<ContentHash> =
        jobs.iter().flat_map(|job| job.inputs.values().filter_map(JobInput::artifact)).collect();
    let wanted = files.iter().filter(|(hash, _)| read.contains(hash));
    upload_missing(&mut client, wanted.map(|(hash, input)| (hash, *input))).await?;
    let texts: Vec<String> = jobs.iter().map(Job::encode).collect();
    // What failed before is tried again, once.
    let mut request = MakeRequest { jobs: texts, retry: true };
    let mut told = String::new();
    loop {
        let answer = client.make(request.clone()).await?.into_inner();
        request.retry = false;
        if let Some((job, status)) =
            jobs.iter().zip(&answer.jobs).find(|(_, status)| status.state() == State::Failed)
        {
            return Err(failed(job, &status.reason));
        }
        let made = answer.jobs.iter().filter(|status| status.state() == State::Made).count();
        if made == jobs.len() {
            return fetch_all(&mut client, jobs, &answer.jobs).await;
        }
        let words = match answer.able_workers {
            0 => "waiting for a worker that can make what the spec needs; --local makes it here".to_owned(),
            _ => {
                let under_way: Vec<String> = answer.jobs.iter().filter_map(under_way).collect();
                let number = jobs.len();
                format!("{made} of {number} artifacts that the spec needs are made {}", under_way.join(", "))
            }
        };
        if words != told {
            qslm_program::say(format_args!("{}", words.trim_end()));
            told = words;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Who does a job, and how far they are.
fn under_way(status: &JobStatus) -> Option<String> {
    let worker = status.workers.first()?;
    Some(match status.of {
        0 => format!("({worker})"),
        of => format!("({worker}: {} of {of} steps)", status.done),
    })
}

async fn fetch_all(client: &mut Client, jobs: &[Job], made: &[JobStatus]) -> Outcome<Vec<Vec<u8>>> {
    let mut artifacts = Vec::new();
    for (job, status) in jobs.iter().zip(made) {
        let hash = convert::hash("artifact", &status.artifact).map_err(|error| failed(job, &error))?;
        let request = FetchArtifactRequest { hash: status.artifact.clone() };
        let mut stream = client.fetch_artifact(request).await?.into_inner();
        let mut artifact = Vec::new();
        while let Some(piece) = stream.message().await? {
            artifact.extend(piece.data);
            if artifact.len() as u64 > job.largest {
                return Err(failed(
                    job,
                    &format!("it has more than the {} bytes that it states", job.largest),
                ));
            }
        }
        if ContentHash::of(&artifact) != hash {
            return Err(failed(job, &format!("the coordinator sent something else than artifact {hash}")));
        }
        artifacts.push(artifact);
    }
    Ok(artifacts)
}
