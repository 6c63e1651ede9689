//! Names of Python attributes, interned once, when the module is loaded.
//!
//! PyO3's `intern!` makes each name at its first use, in a cell that releases the GIL meanwhile.
//! In a process forked by another thread at that moment, the cell would stay half made and block
//! forever.

use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyString;

macro_rules! names {
    ($($name:ident),* $(,)?) => {
        #[allow(non_snake_case, reason = "named after what they are")]
        struct Names {
            $($name: Py<PyString>,)*
        }

        impl Names {
            fn new(py: Python<'_>) -> Self {
                Self {
                    $($name: PyString::intern(py, stringify!($name)).unbind(),)*
                }
            }
        }

        $(
            #[allow(non_snake_case, reason = "named after what it is")]
            pub(crate) fn $name(py: Python<'_>) -> &Bound<'_, PyString> {
                names(py).$name.bind(py)
            }
        )*
    };
}

static NAMES: OnceLock<Names> = OnceLock::new();

fn names(py: Python<'_>) -> &'static Names {
    NAMES.get_or_init(|| Names::new(py))
}

pub(crate) fn init(py: Python<'_>) {
    names(py);
}

names! {
    AsyncToSync,
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    PENDING,
    RUNNING,
    SyncToAsync,
    ZoneInfo,
    __call__,
    __code__,
    __enter__,
    __exit__,
    __format__,
    __func__,
    __getinitargs__,
    __module__,
    __name__,
    __next__,
    __qualname__,
    __self__,
    __traceback__,
    __wrapped__,
    _active,
    _flask_delay_follow,
    _set_tstate_lock,
    _warnings_context,
    acquire,
    add_cancelled,
    add_exception,
    add_result,
    ag_code,
    args,
    asgiref,
    async_single_thread_context,
    clear,
    close,
    co_flags,
    copy,
    current_async_library_cvar,
    current_thread,
    deadlock_context,
    event,
    exc_info,
    f_back,
    f_code,
    f_globals,
    f_lasti,
    flask_delay,
    func,
    future,
    gi_code,
    ident,
    inspect,
    int,
    is_set,
    iscoroutinefunction,
    items,
    key,
    keywords,
    logging,
    name,
    pop,
    release,
    remove,
    set,
    sniffio,
    sync,
    sys,
    thread_sensitive_context,
    threading,
    throw,
    value,
    wait,
    zoneinfo,
}
