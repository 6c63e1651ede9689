//! What a look has found to be done, for the next transaction.

use crate::rows::store;

/// What a look has found to be done.
#[derive(Default)]
pub(crate) struct Chores {
    pub dead: Vec<store::Process>,
    pub prune: Option<Prune>,
    /// Functions that no process knows.
    pub park: Vec<i64>,
    /// Ends of others that were told.
    pub told: Vec<i64>,
    /// Whether tasks of resumed functions are to become ready.
    pub release: bool,
    /// Tasks that other code has parked, and that this process may be able to run.
    pub misfits: Vec<i64>,
}

/// Which rows go.
#[derive(Clone, Copy)]
pub(crate) struct Prune {
    /// Those that have ended before this time.
    pub since: i64,
    /// Dead letters and parked tasks from before this time.
    pub long_since: i64,
    /// As many of the oldest ends in any case.
    pub surplus: u64,
    /// Whether the file has much free space to give back.
    pub vacuum: bool,
}

impl Chores {
    pub(crate) fn is_empty(&self) -> bool {
        self.dead.is_empty()
            && self.prune.is_none()
            && self.park.is_empty()
            && self.told.is_empty()
            && !self.release
            && self.misfits.is_empty()
    }
}
