//! Scheduling: the timer, dispatch, limits, dependents, and what follows the end of a task.

pub(crate) mod backpressure;
pub(crate) mod completion;
pub(crate) mod dependents;
pub(crate) mod dispatch;
pub(crate) mod limits;
pub(crate) mod permits;
pub(crate) mod queue;
pub(crate) mod sampling;
pub(crate) mod standing;
pub(crate) mod timer;
