//! A process that uses a journal as a web app does: threads that submit, workers that run.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part, and a failed test has to panic"
)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;

use flask_delay_journal::{
    Accepted, Change, Claim, Claimed, Command, DeadLetter, Error, Host, Journal, Kept, NewTask,
    Outcome, Row, Settings,
};

type Work = dyn Fn(&Claimed) -> Change + Send + Sync;

/// A task that a worker has to run.
struct App {
    journal: OnceLock<Journal>,
    tasks: Mutex<VecDeque<Claimed>>,
    bell: Condvar,
    workers: usize,
    is_closed: AtomicBool,
}

impl Host for App {
    fn capacity(&self) -> [Option<usize>; 3] {
        [Some(self.workers), None, None]
    }

    fn run(&self, tasks: Vec<Claimed>) {
        self.tasks.lock().unwrap().extend(tasks);
        self.bell.notify_all();
    }

    fn ended(&self, _rows: Vec<Row>) {}

    fn stop(&self, _id: &str) {}

    fn command(&self, _command: Command) {}

    fn asked(&self, _at: i64) {}

    fn dead(&self, _letters: Vec<DeadLetter>) {}

    fn report(&self, level: log::Level, text: String) {
        if level <= log::Level::Error && std::env::var_os("QUIET").is_none() {
            #[allow(clippy::print_stderr, reason = "for people that look at a failed test")]
            {
                eprintln!("{}: {text}", std::process::id());
            }
        }
    }
}

/// A running app.
#[derive(Clone)]
pub(crate) struct Running(Arc<App>);

impl Running {
    /// Opens the journal and starts as many workers.
    pub(crate) fn start(
        settings: Settings,
        functions: &[&str],
        workers: usize,
        work: Arc<Work>,
    ) -> Result<Self, Error> {
        let app = Arc::new(App {
            journal: OnceLock::new(),
            tasks: Mutex::default(),
            bell: Condvar::new(),
            workers,
            is_closed: AtomicBool::new(false),
        });
        let journal = Journal::open(settings, app.clone())?;
        assert!(app.journal.set(journal.clone()).is_ok());
        journal.know(functions.iter().map(|&name| name.to_owned()).collect());
        for _ in 0..workers {
            let (app, work) = (Arc::clone(&app), Arc::clone(&work));
            thread::spawn(move || app.work(&*work));
        }
        journal.start()?;
        Ok(Self(app))
    }

    /// Closes the journal and ends the workers.
    pub(crate) fn close(&self) {
        self.journal().close();
        self.0.is_closed.store(true, Ordering::SeqCst);
        drop(self.0.tasks.lock().unwrap());
        self.0.bell.notify_all();
    }

    pub(crate) fn journal(&self) -> &Journal {
        self.0.journal.get().unwrap()
    }

    /// Submits a task, and runs it if it is to be run here at once.
    pub(crate) fn submit(&self, task: NewTask) -> Result<Accepted, Error> {
        let accepted = self.journal().submit(task.clone())?;
        Ok(self.begun(accepted, task))
    }

    pub(crate) fn carry(&self, task: NewTask) -> Result<Accepted, Error> {
        let accepted = self.journal().carry(vec![task.clone()]).remove(0)?;
        Ok(self.begun(accepted, task))
    }

    fn begun(&self, accepted: Accepted, task: NewTask) -> Accepted {
        if let Accepted::Mine(claim) = &accepted {
            self.0.push(*claim, task);
        }
        accepted
    }
}

impl App {
    fn push(&self, claim: Claim, task: NewTask) {
        self.run(vec![Claimed {
            claim,
            id: task.id,
            function: task.function,
            pool: task.pool,
            arguments: task.arguments,
            options: task.options,
            submitted_at: 0,
            began: None,
            tick: None,
            kept: Kept::default(),
        }]);
    }

    fn work(&self, work: &Work) {
        loop {
            let mut tasks = self.tasks.lock().unwrap();
            let task = loop {
                match tasks.pop_front() {
                    Some(task) => break task,
                    None if self.is_closed.load(Ordering::SeqCst) => return,
                    None => tasks = self.bell.wait(tasks).unwrap(),
                }
            };
            drop(tasks);
            let change = work(&task);
            // An error is reported; the task is then run again by another process.
            _ = self.journal.get().unwrap().change(task.claim, change);
        }
    }
}

/// The end of a task that returns nothing.
pub(crate) fn done() -> Change {
    Change::End(Outcome::Finished {
        result: None,
        unkept: None,
    })
}
