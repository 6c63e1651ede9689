//! What the writer and the reader of the journal's values share: the tags, the classes, the depth.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The first character of a tag. No key of a plain object begins with it.
pub(super) const MARK: char = '$';

/// Containers within each other.
///
/// An argument itself is at depth 0. The limit also ends the walk through a container that contains
/// itself, and bounds the stack of the reader.
pub(super) const DEPTH: usize = 100;

macro_rules! tags {
    ($($name:ident = $text:literal,)*) => {
        /// The key of a JSON object that stands for a value without a word in JSON.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Tag {
            $($name,)*
        }

        impl Tag {
            /// The key itself, with the mark.
            pub(super) const fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The tag with this key.
            pub(super) fn of(key: &str) -> Option<Self> {
                match key {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

tags! {
    Bytes = "$bytes",
    Date = "$date",
    Datetime = "$datetime",
    Decimal = "$decimal",
    Dict = "$dict",
    // As the journal itself writes it: `flask_delay_journal::EXCEPTION`.
    Exception = "$exception",
    Frozenset = "$frozenset",
    Int = "$int",
    Set = "$set",
    Time = "$time",
    Timedelta = "$timedelta",
    Tuple = "$tuple",
    Uuid = "$uuid",
}

/// Classes of the standard library that PyO3 does not know.
pub(super) struct Classes {
    pub(super) decimal: Py<PyType>,
    pub(super) uuid: Py<PyType>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

/// The classes, which are looked up when the module is loaded.
pub(super) fn classes(py: Python<'_>) -> PyResult<&Classes> {
    let class = |module: &str, name: &str| {
        let class = py.import(module)?.getattr(name)?;
        PyResult::Ok(class.cast_into::<PyType>()?.unbind())
    };
    CLASSES.get_or_try_init(py, || {
        Ok(Classes {
            decimal: class("decimal", "Decimal")?,
            uuid: class("uuid", "UUID")?,
        })
    })
}
