//! What `using` and `task` may ask for beyond a plain task: limits, deadlines, retries.
//!
//! A task without any of it never comes here, but for one look at its marks. Which file does
//! what:
//!
//! - `policy`: what was asked for, checked, one for all tasks of a `using`.
//! - `rules`: what one task keeps of it, and the hooks at its start and its end.
//! - `places`: the bound of the queue and what is done when it is full.
//! - `lanes`: how many of a key at once, and how often; `claims`: only one of a key.
//! - `deadlines`: timeouts, expiry, `stop`; `target`: how running code is interrupted; `frames`:
//!   where it may be; `errands`: what is left to do for a task that ended so.
//! - `dispatch`: the way from a submit, or a retry, to whoever runs the task.
//! - `delays`: not before its time.
//! - `retries`: whether a task that failed runs again, and when.
//! - `composition`: `then` and `gather`; `sequels`: tasks that wait for others to be done.
//! - `ticker`: what comes again and again.
//! - `alarms`: the one timer of the process, and what it is set for; `leftovers`: what its thread
//!   leaves to another.

pub(crate) mod alarms;
pub(crate) mod claims;
pub(crate) mod composition;
pub(crate) mod deadlines;
pub(crate) mod delays;
pub(crate) mod dispatch;
pub(crate) mod errands;
pub(crate) mod frames;
pub(crate) mod lanes;
pub(crate) mod leftovers;
pub(crate) mod places;
pub(crate) mod policy;
pub(crate) mod retries;
pub(crate) mod rules;
pub(crate) mod sequels;
pub(crate) mod table;
pub(crate) mod target;
pub(crate) mod ticker;
