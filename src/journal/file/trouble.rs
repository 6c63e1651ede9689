//! What breaks a transaction.

use rusqlite::ErrorCode;

use super::filesystem::Place;
use super::schema;
use crate::api::{Error, ErrorKind};

/// What breaks a transaction.
pub(crate) enum Trouble {
    Sql(rusqlite::Error),
    Other(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Trouble {
    /// Whether somebody else has one of SQLite's locks.
    pub(crate) fn is_busy(&self) -> bool {
        match self {
            Self::Sql(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ),
            Self::Other(error) => error.kind == ErrorKind::Busy,
        }
    }

    /// Whether the file belongs to newer code.
    pub(crate) fn is_newer(&self) -> bool {
        matches!(self, Self::Other(error) if error.kind == ErrorKind::Newer)
    }

    pub(crate) fn told(&self, place: &Place) -> Error {
        match self {
            Self::Sql(error) => schema::failed(place, error),
            Self::Other(error) => error.clone(),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Trouble>;
