//! Tasks and executors: data and leaf locks. No user code runs from here.

pub(crate) mod async_check;
pub(crate) mod call;
pub(crate) mod events;
pub(crate) mod executor;
pub(crate) mod flags;
pub(crate) mod frames;
pub(crate) mod held;
pub(crate) mod id;
pub(crate) mod interrupt;
pub(crate) mod keys;
pub(crate) mod leftovers;
pub(crate) mod metrics;
pub(crate) mod options;
pub(crate) mod policy;
pub(crate) mod progress;
pub(crate) mod registry;
pub(crate) mod settings;
pub(crate) mod signature;
pub(crate) mod strays;
pub(crate) mod task;
pub(crate) mod task_name;
pub(crate) mod traces;
pub(crate) mod transition;
pub(crate) mod waiter;
pub(crate) mod worker_slot;
