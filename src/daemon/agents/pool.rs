//! Threads that read image chunks from the disk: few, and our own, so that a
//! lab full of machines being imaged does not starve anything else.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::oneshot;

const THREADS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads, started when the first job comes.
#[derive(Default)]
pub struct Pool {
    jobs: OnceLock<Sender<Job>>,
}

impl Pool {
    /// Runs `job` on one of the threads. `None`: it could not be run.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            // The asker may have gone.
            let _ = done.send(job());
        });
        self.jobs.get_or_init(start).send(job).ok()?;
        answer.await.ok()
    }
}

fn start() -> Sender<Job> {
    let (sender, jobs) = channel::<Job>();
    let jobs = Arc::new(Mutex::new(jobs));
    for n in 0..THREADS {
        let jobs = Arc::clone(&jobs);
        let work = move || {
            loop {
                // Taken out in a statement of its own: the lock must not be
                // held while the job runs.
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                match job {
                    Ok(job) => job(),
                    Err(_) => return,
                }
            }
        };
        if let Err(e) = std::thread::Builder::new().name(format!("image-{n}")).spawn(work) {
            tracing::warn!("a thread for images cannot be started: {e}");
        }
    }
    sender
}
