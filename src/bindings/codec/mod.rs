//! Values as text, for a journal.

mod dates;
mod form;
pub(crate) mod json;
mod read;
mod refusal;
mod write;
