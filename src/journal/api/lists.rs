//! Which tasks a list has.

use super::task::{Row, State};

/// Which tasks are meant.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In one of these states; in any if there are none.
    pub states: Vec<State>,
    /// Of one of these functions; `None` for any.
    pub functions: Option<Vec<String>>,
    /// That have ended before this time, in microseconds since 1970.
    pub ended_before: Option<i64>,
}

impl Filter {
    pub(crate) fn fits(&self, row: &Row) -> bool {
        (self.states.is_empty() || self.states.contains(&row.state))
            && (self.functions.as_ref()).is_none_or(|names| names.contains(&row.function))
            && (self.ended_before)
                .is_none_or(|time| row.state.is_end() && row.ended.is_some_and(|it| it < time))
    }
}

/// Where a list by ends goes on: below a time and, among those that ended then, a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    /// In microseconds since 1970.
    pub ended: i64,
    /// `Row::place`
    pub place: i64,
}

/// A list that is in another order than that of the submissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// What waits for a worker, in the order in which it will start.
    Ready,
    /// What may not start yet: first what has a time, by that, then the oldest.
    Held,
    /// What runs, by its start.
    Running,
    /// What has returned or was cancelled: the last end first.
    Ended(Option<Bound>),
    /// What has failed, the last failure first; with errors of one of these classes, or of any.
    Failed(Option<Bound>, Option<Vec<String>>),
}

/// What is asked for.
pub(crate) enum Query {
    /// Tasks that are meant below a place, the newest first.
    Newest(Filter, i64, usize),
    /// A list of the tasks of some functions, or of all.
    List(List, Option<Vec<String>>, usize, bool),
}

/// A part of a list: newer rows are in the parts before it.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub rows: Vec<Row>,
    /// Where the next part begins; `None` if there is none.
    pub next: Option<i64>,
}

/// Failures of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// The class with its module; `None` for errors that nobody can read.
    pub name: Option<String>,
    /// How many there are.
    pub count: u64,
    /// When the last one ended.
    pub last: i64,
}

/// Changes with each commit to the file, of whichever process. Another process has other ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// How often this process has opened the file.
    pub opened: u64,
    /// For commits of others.
    pub others: i64,
    /// For commits of this process.
    pub own: u64,
}
