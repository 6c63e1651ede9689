//! Blocking until a task ends, and never in a circle.

pub(crate) mod current;
pub(crate) mod result;
pub(crate) mod stdlib;
