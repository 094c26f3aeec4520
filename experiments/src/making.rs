//! Making: artifacts without which a spec is no experiment yet, by jobs on workers or here. Both make the same bytes, so an
//! experiment has the same id wherever they were made.

mod here;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_proto::convert;
use qslm_proto::v1::job_status::State;
use qslm_proto::v1::{JobStatus, MakeRequest};
use qslm_transport::Connector;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, connect, fetch, upload_missing};
use crate::exit::{Exit, Failure, Outcome, unless};
use crate::input::Input;
use crate::patience::Patience;
pub use here::{Here, HereWith};

/// Time between two questions whether everything is made.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Files that jobs read, by content hash.
pub type Files<'a> = &'a [(ContentHash, &'a Input)];

/// An artifact that was made.
pub struct MadeFile {
    /// Its content hash.
    pub hash: ContentHash,
    /// The file, if it is here and nowhere else.
    pub file: Option<Input>,
}

/// Whoever makes artifacts.
pub trait Maker {
    /// Makes the artifacts of jobs, in their order.
    ///
    /// # Errors
    /// One line that names the job that failed, and why.
    fn make(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<Vec<u8>>>;

    /// Makes the artifacts of jobs, in their order, which nobody here needs to read.
    ///
    /// # Errors
    /// As [`Maker::make`].
    fn make_files(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<MadeFile>>;

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
    /// Time for which a worker that is able to is waited for; `None` for ever.
    no_worker: Option<Duration>,
    interrupted: CancellationToken,
    runtime: Handle,
}

impl<'a> OnWorkers<'a> {
    /// The workers of a coordinator, which is waited for `patience` at most if it is not there, and they `no_worker` at most
    /// if none is able to, until that is `interrupted`.
    pub fn new(
        connector: &'a Connector,
        patience: Duration,
        no_worker: Option<Duration>,
        interrupted: &CancellationToken,
    ) -> Self {
        let interrupted = interrupted.clone();
        Self { connector, patience, no_worker, interrupted, runtime: Handle::current() }
    }

    /// What is asked of the coordinator, over restarts of it.
    fn wait_for<T>(&self, ask: impl AsyncFnMut(&mut Client) -> Outcome<T>) -> Outcome<T> {
        self.runtime.block_on(unless(&self.interrupted, async {
            let mut client = connect(self.connector, self.patience).await?;
            Patience::new(self.connector, self.patience).call(&mut client, ask).await
        }))
    }
}

impl Maker for OnWorkers<'_> {
    fn make(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<Vec<u8>>> {
        self.wait_for(async |client| {
            let mut artifacts = Vec::new();
            for (job, hash) in jobs.iter().zip(make_remotely(client, jobs, files, self.no_worker).await?) {
                artifacts.push(fetch(client, hash, job.largest).await?);
            }
            Ok(artifacts)
        })
    }

    fn make_files(&self, jobs: &[Job], files: Files<'_>) -> Outcome<Vec<MadeFile>> {
        self.wait_for(async |client| {
            let made = make_remotely(client, jobs, files, self.no_worker).await?;
            Ok(made.into_iter().map(|hash| MadeFile { hash, file: None }).collect())
        })
    }
}

/// Waits until the artifacts of all jobs are made, and returns their hashes.
async fn make_remotely(
    client: &mut Client,
    jobs: &[Job],
    files: Files<'_>,
    no_worker: Option<Duration>,
) -> Outcome<Vec<ContentHash>> {
    let read: HashSet<ContentHash> =
        jobs.iter().flat_map(|job| job.inputs.values().filter_map(JobInput::artifact)).collect();
    let wanted = files.iter().filter(|(hash, _)| read.contains(hash));
    upload_missing(client, wanted.map(|(hash, input)| (hash, *input))).await?;
    let texts: Vec<String> = jobs.iter().map(Job::encode).collect();
    // What failed before is tried again, once.
    let mut request = MakeRequest { jobs: texts, retry: true };
    let mut told = String::new();
    let mut absent_since = None;
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
            let hash = |(job, status): (&Job, &JobStatus)| {
                convert::hash("artifact", &status.artifact).map_err(|error| failed(job, &error))
            };
            return jobs.iter().zip(&answer.jobs).map(hash).collect();
        }
        absent_since = absent_since.or(Some(Instant::now())).filter(|_| answer.able_workers == 0);
        if let (Some(most), Some(since)) = (no_worker, absent_since)
            && since.elapsed() >= most
        {
            return Err(Failure::no_worker("what the spec needs is made once there is one", most));
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
