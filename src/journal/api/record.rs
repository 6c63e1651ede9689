//! What pages show of all processes.

use super::histogram::Histogram;

/// Samples that wait for the writer thread; older ones are lost.
const WAITING: usize = 60;

/// How tasks went on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many returned.
    pub done: u64,
    /// How many raised, or were not started in time.
    pub failed: u64,
    /// How many were cancelled.
    pub cancelled: u64,
    /// How many further attempts were begun.
    pub retried: u64,
    /// How many have become dead letters.
    pub dead: u64,
    /// How long they waited.
    pub wait: Histogram,
    /// How long their last attempts took.
    pub run: Histogram,
}

/// Tasks of a process at a moment: in its queue, held, and running.
pub type Levels = [u32; 3];

/// What has come since the last sample, and what there is now.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The second, since 1970.
    pub at: i64,
    /// What there is.
    pub levels: Levels,
    /// What has come, by the names of functions.
    pub names: Vec<(String, Figures)>,
    /// What there is to say of the process; `None` if that is not known.
    pub vitals: Option<Vitals>,
}

/// How a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// What does not change, as JSON.
    pub about: String,
    /// Its worker threads, those that run tasks, that are idle, that wait for other tasks, and that run
    /// code of tasks which have ended.
    pub threads: [u32; 5],
    /// Bytes.
    pub memory: Option<u64>,
}

/// A step of all processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its first second, since 1970.
    pub at: i64,
    /// How many tasks returned, and failed.
    pub ended: [u64; 2],
    /// The most that waited for a worker, that were held, and that ran at once.
    pub levels: [u64; 3],
    /// The median and the 95th percentile of the waits and of the runs, in microseconds.
    pub times: [Option<[u64; 2]>; 2],
}

/// A process that has the journal open, or has died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its number.
    pub pid: i64,
    /// Whether it runs tasks.
    pub claims: bool,
    /// Since when it has the journal open.
    pub began_at: i64,
    /// When it last told how it is.
    pub seen_at: Option<i64>,
    /// How it was then.
    pub vitals: Vitals,
    /// When its death was seen.
    pub lost_at: Option<i64>,
    /// The ids of the tasks that it ran when it died.
    pub tasks: Vec<String>,
    /// Whether it is the process that asks.
    pub is_own: bool,
}

/// What a page asks.
pub(crate) enum Query {
    Steps(i64),
    Figures,
    Minutes(i64),
    Workers,
    Events(String),
    Others,
    Links(String),
}

/// The answer to a query.
pub(crate) enum Answered {
    Steps(Vec<Step>),
    Figures(Vec<(String, Figures)>),
    /// Names, minutes since 1970, and how many tasks ended then.
    Minutes(Vec<(String, i64, u64)>),
    Workers(Vec<Worker>),
    Events(Vec<Event>),
    /// The slots and the numbers of the other processes.
    Others(Vec<(i64, i64)>),
    Links(Links),
}

/// What a page tells.
pub(crate) enum Told {
    /// What does not change about this process.
    About(String),
    /// What somebody did to a task: its id, what, and the name.
    Act(String, String, Option<String>),
    /// What has happened to a plain task: its id, when, what, and more about it.
    Event(String, i64, &'static str, String),
}

impl Figures {
    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.retried += other.retried;
        self.dead += other.dead;
        self.wait.add(&other.wait);
        self.run.add(&other.run);
    }

    /// How many tasks have ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.done + self.failed + self.cancelled + self.dead
    }
}

/// Adds a sample to those that wait.
pub(crate) fn keep(waiting: &mut Vec<Sample>, sample: Sample) {
    if waiting.len() >= WAITING {
        waiting.remove(0);
    }
    waiting.push(sample);
}

/// An event of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in microseconds since 1970.
    pub at: i64,
    /// What.
    pub kind: String,
    /// More about it.
    pub text: Option<String>,
    /// The person.
    pub actor: Option<String>,
    /// The process in which it happened.
    pub pid: i64,
}

/// Another task: its id and its function.
pub type Link = (String, String);

/// The tasks before and after one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Those that it waits for, or has waited for.
    pub follows: Vec<Link>,
    /// Those that wait for it, or have waited for it.
    pub followed: Vec<Link>,
}
