//! What goes in and comes out: settings, tasks, changes, rows, errors.

use super::chains::Follows;

/// Where a task runs in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// On a worker thread.
    Threads = 0,
    /// On the event loop.
    Loop = 1,
    /// In a child process.
    Processes = 2,
}

impl Pool {
    pub(crate) const ALL: [Self; 3] = [Self::Threads, Self::Loop, Self::Processes];

    pub(crate) fn of(code: i64) -> Self {
        match code {
            1 => Self::Loop,
            2 => Self::Processes,
            _ => Self::Threads,
        }
    }

    pub(crate) fn code(self) -> i64 {
        self as i64
    }
}

/// A task that does not run again by itself, since it has ended too many processes or no process
/// can run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id.
    pub id: String,
    /// The name of its function.
    pub function: String,
    /// How many processes it has taken with it.
    pub deaths: u32,
    /// Its error, as JSON.
    pub error: String,
}

/// A task to submit. Times are in microseconds since 1970.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Unlike any other.
    pub id: String,
    /// The name its function is registered by.
    pub function: String,
    /// Where it runs.
    pub pool: Pool,
    /// Its arguments, as JSON.
    pub arguments: String,
    /// What was asked of it besides, as JSON.
    pub options: Option<String>,
    /// Smaller ones go first.
    pub rank: i64,
    /// Not before this time.
    pub due: Option<i64>,
    /// Not started after this time.
    pub expires: Option<i64>,
    /// No second task with this key before this one has ended.
    pub unique: Option<String>,
    /// No second task with this key as long as this one is known.
    pub once: Option<String>,
    /// How many of its lane may run at once, and how often one may start.
    pub limits: Option<Box<Limits>>,
    /// A task with one of its keys refuses it; otherwise that task stands for it.
    pub is_strict: bool,
    /// On the disk before the answer, whatever the level.
    pub sync: bool,
    /// What it waits for.
    pub follows: Option<Follows>,
}

/// The conditions under which a task may start, among those with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What is counted together.
    pub key: String,
    /// How many may run at once, this one included.
    pub limit: Option<u64>,
    /// How many may start in any span of so many microseconds, this one included.
    pub rate: Option<(u64, u64)>,
}

/// What became of a submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It runs, and the caller has to run it: it is not given to `Host::run`.
    Mine(Claim),
    /// It waits, and this process watches it: `Host::run` or `Host::ended` follows.
    Waiting,
    /// There is a task with the same key.
    Twin {
        /// Its id.
        id: String,
        /// Its function's name.
        function: String,
        /// Which of the keys.
        by: Key,
    },
    /// There is a task with this id, or was.
    Taken,
    /// There is no task with this id to follow.
    Missing(String),
    /// As many tasks wait as may.
    Full,
}

/// A key by which tasks exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `NewTask::unique`
    Unique,
    /// `NewTask::once`
    Once,
}

/// The right to run one attempt of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The task's place in the file.
    pub task: i64,
    /// Counts the claims of the task: the fence.
    pub epoch: i64,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// A task that this process has to run.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// What it is answered by.
    pub claim: Claim,
    /// Its id.
    pub id: String,
    /// The name of its function.
    pub function: String,
    /// Where it runs.
    pub pool: Pool,
    /// Its arguments, as JSON.
    pub arguments: String,
    /// What was asked of it besides, as JSON.
    pub options: Option<String>,
    /// When it was submitted.
    pub submitted_at: i64,
    /// When its first attempt began, if it is not this one.
    pub began: Option<i64>,
    /// The tick of the job that it is a run of.
    pub tick: Option<i64>,
    /// What earlier attempts have kept for this one.
    pub kept: Kept,
}

/// What a task keeps for its next attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The last checkpoint of each place, as JSON.
    pub checkpoints: Vec<(u32, String)>,
    /// The steps that have ended, by name, with their results as JSON.
    pub steps: Vec<(String, String)>,
}

/// How a task ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has returned.
    Finished {
        /// The result, as JSON.
        result: Option<String>,
        /// The type's name of a result that is not kept.
        unkept: Option<String>,
    },
    /// It has raised.
    Failed {
        /// The error, as JSON.
        error: String,
    },
    /// It was cancelled or stopped.
    Cancelled,
}

/// How an attempt ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The task ends.
    End(Outcome),
    /// Another attempt follows.
    Again {
        /// Not before this time.
        due: Option<i64>,
        /// Why, for a page: the class of the error, and in further lines its message.
        why: Option<String>,
    },
    /// Another process may run it; the attempt is not counted.
    PutBack,
    /// It waits for code that can run it; the attempt is not counted.
    Park {
        /// Why, for people.
        reason: String,
    },
    /// It has ended the process that ran it, a child of this one. It runs again, or is a dead letter.
    Died {
        /// The error of a dead letter, as JSON.
        error: String,
    },
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is committed.
    Done,
    /// The task is not this process's any more.
    Fenced,
}

/// The state of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for a worker.
    Ready = 0,
    /// Waits for its time.
    Scheduled = 1,
    /// Runs.
    Running = 2,
    /// Waits for another task, or for its function to be resumed.
    Blocked = 3,
    /// Waits for code that can run it.
    Parked = 4,
    /// Has returned.
    Finished = 6,
    /// Has raised.
    Failed = 7,
    /// Was cancelled.
    Cancelled = 8,
    /// A dead letter.
    Dead = 9,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Ready,
        Self::Scheduled,
        Self::Running,
        Self::Blocked,
        Self::Parked,
        Self::Finished,
        Self::Failed,
        Self::Cancelled,
        Self::Dead,
    ];

    pub(crate) fn of(code: i64) -> Self {
        match code {
            0 => Self::Ready,
            1 => Self::Scheduled,
            2 => Self::Running,
            // 5: set aside, since its function is paused. Below 0: a state that newer code has added,
            // and which is no end.
            3 | 5 | ..0 => Self::Blocked,
            4 => Self::Parked,
            6 => Self::Finished,
            7 => Self::Failed,
            8 => Self::Cancelled,
            _ => Self::Dead,
        }
    }

    pub(crate) fn code(self) -> i64 {
        self as i64
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(
            self,
            Self::Finished | Self::Failed | Self::Cancelled | Self::Dead
        )
    }
}

/// What there is to know of a task. Times are in microseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub struct Row {
    /// Its place in the file.
    pub place: i64,
    /// Its id.
    pub id: String,
    /// The name of its function.
    pub function: String,
    /// Its state.
    pub state: State,
    /// Whether it is not durable, but published.
    pub plain: bool,
    /// How many attempts have begun.
    pub attempt: u32,
    /// How many processes it has taken with it.
    pub deaths: u32,
    /// Whether it is asked to stop.
    pub stop_requested: bool,
    /// Whether this process runs it.
    pub is_mine: bool,
    /// Not before this time.
    pub due: Option<i64>,
    /// Not started after this time.
    pub expires: Option<i64>,
    /// When it was submitted.
    pub submitted_at: i64,
    /// When its first attempt began.
    pub began: Option<i64>,
    /// When it ended.
    pub ended: Option<i64>,
    /// How far it is, of how much, and a note.
    pub progress: Option<(f64, Option<f64>, String)>,
    /// The result, as JSON.
    pub result: Option<String>,
    /// The type's name of a result that is not kept.
    pub unkept: Option<String>,
    /// The error, as JSON.
    pub error: Option<String>,
    /// Why it is parked.
    pub reason: Option<String>,
    /// Whether it waits because its function is paused.
    pub is_paused: bool,
    /// The first task that it waits for: its function and its id.
    pub after: Option<(String, String)>,
    /// How many tasks it waits for.
    pub waiting_for: u32,
    /// Its limit and its rate, until it has ended.
    pub lane: Option<Box<Held>>,
    /// Whether these hold it up.
    pub is_held: bool,
    /// The process that runs it.
    pub pid: Option<i64>,
    /// When its last attempt began.
    pub attempt_began: Option<i64>,
    /// What was asked of it besides, as JSON.
    pub options: Option<String>,
    /// Its arguments as JSON, or the beginning of that; only in lists that are asked for them.
    pub arguments: Option<String>,
}

impl Row {
    /// What holds it up, if that is its limit or its rate.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.lane.as_deref().filter(|_| self.is_held)
    }
}

/// The limit and the rate of a task, and how it is with the others of its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Its conditions.
    pub limits: Limits,
    /// How many run.
    pub running: u64,
    /// When the rate lets the first of those start that wait.
    pub until: Option<i64>,
}

/// What an id leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A task.
    Row(Box<Row>),
    /// A task that was pruned.
    Gone,
    /// Nothing.
    Unknown,
}

/// What a request to cancel or stop has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The task is cancelled.
    Yes,
    /// It runs; if it was asked to stop, its process is told.
    Running,
    /// It has ended before.
    Ended,
    /// There is none.
    Unknown,
}

/// How many tasks are in each state, and how large the files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tasks that wait for a worker.
    pub ready: u64,
    /// Tasks that wait for their time.
    pub scheduled: u64,
    /// Durable tasks that run.
    pub running: u64,
    /// Tasks that wait for others, or whose functions are paused.
    pub blocked: u64,
    /// Tasks that wait for code.
    pub parked: u64,
    /// Dead letters.
    pub dead: u64,
    /// Processes that claim tasks.
    pub processes: u64,
    /// Bytes of the database file and its log.
    pub bytes: u64,
    /// Since when the oldest task waits for a worker, in microseconds since 1970.
    pub oldest: Option<i64>,
}

/// What became of the wish to run a task again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It waits for a worker.
    Yes,
    /// It has not failed: this is its state.
    Not(State),
    /// It is not durable, so the journal does not have its arguments.
    Plain,
    /// It has never been ready, because of how this task before it has ended, if that is still known.
    Follows(Option<String>),
    /// Another task, by its id, has the same `unique` key and has not ended.
    Twin(String),
    /// It was pruned.
    Gone,
    /// There is none.
    Unknown,
}
