//! Ids of tasks.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// A task's id: a random UUID, or a text that its submitter has chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Id {
    /// Any id in the usual notation of UUIDs, chosen or not.
    Uuid(Uuid),
    Text(Arc<str>),
}

impl Id {
    pub(crate) fn random() -> Self {
        Self::Uuid(Uuid::new_v4())
    }

    /// The id that is shown as `text`.
    pub(crate) fn new(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().to_string() == text => Self::Uuid(uuid),
            _ => Self::Text(text.into()),
        }
    }

    /// The ids that `text` may mean: UUIDs have other notations.
    pub(crate) fn meant_by(text: &str) -> impl Iterator<Item = Self> {
        let other = Uuid::try_parse(text).ok().map(Self::Uuid);
        std::iter::once(Self::new(text)).chain(other)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.hyphenated().fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}
