//! Jobs that are closures, for the ordinary tests and for the models.

use flask_delay_engine::Worker;

type Work = dyn FnOnce(&Worker<Job>) + Send;

pub(crate) struct Job(Box<Work>);

impl Job {
    pub(crate) fn new(work: impl FnOnce(&Worker<Job>) + Send + 'static) -> Self {
        Self(Box::new(work))
    }

    pub(crate) fn run(self, worker: &Worker<Job>) {
        (self.0)(worker);
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

/// The main function of a pool's thread.
pub(crate) fn work(mut worker: Worker<Job>) {
    while let Some(job) = worker.next(|park| _ = park()) {
        job.run(&worker);
    }
}
