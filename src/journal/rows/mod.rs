//! SQL on one connection that all subjects share.

pub(crate) mod counts;
pub(crate) mod events;
pub(crate) mod kept;
pub(crate) mod lanes;
pub(crate) mod links;
pub(crate) mod store;
