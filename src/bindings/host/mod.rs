//! Flask and the process: contexts, loggers, signals, gevent, the switch interval.

pub(crate) mod app_context;
pub(crate) mod event_loop;
pub(crate) mod gevent;
pub(crate) mod logging;
pub(crate) mod signals;
pub(crate) mod switch_interval;
