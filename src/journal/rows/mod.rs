//! SQL on one connection that all subjects share.

pub(crate) mod events;
pub(crate) mod kept;
pub(crate) mod links;
pub(crate) mod store;
