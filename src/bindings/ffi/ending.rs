//! Threads that CPython ends at interpreter exit.
//!
//! Before 3.14, CPython ends a thread with `pthread_exit` if it wants the GIL while the
//! interpreter is finalized. Where the C library unwinds the stack for that, it meets Rust's
//! frames. The process aborts, or they drop Python objects without the GIL. Any call into CPython
//! may lead there: dropping a last reference may run `__del__`, which is Python code.
//!
//! So every call of this crate into CPython that may run Python code, PyO3's calls included, goes
//! through a function here. In it an unwinding thread stops for good, as later versions of CPython
//! do. `build.rs` has the linker resolve each function listed here to its `__wrap_` (`--wrap`). So
//! a call into CPython from this crate either returns, attached, or never returns.
//!
//! Functions that only read, count or allocate untracked objects are left out.

#![allow(non_snake_case, reason = "named after what they stand for")]

use std::ffi::{c_char, c_int, c_long, c_ulonglong, c_void};

use pyo3::ffi::{
    Py_hash_t, Py_ssize_t, PyGILState_STATE, PyMethodDef, PyObject, PyThreadState, PyTypeObject,
};

/// Dropped only when the stack unwinds, which must stop here.
struct StopThread;

impl Drop for StopThread {
    fn drop(&mut self) {
        loop {
            // SAFETY: only sleeps.
            unsafe { libc::pause() };
        }
    }
}

type Object = *mut PyObject;

macro_rules! stop_in {
    ($($(#[$on:meta])* fn $name:ident($($value:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        mod real {
            use super::*;

            unsafe extern "C-unwind" {
                $($(#[$on])*
                #[link_name = concat!("__real_", stringify!($name))]
                pub(super) fn $name($($value: $type),*) $(-> $result)?;)*
            }
        }

        mod named {
            unsafe extern "C" {
                $($(#[$on])*
                pub(super) fn $name();)*
            }
        }

        /// LLD wraps only referenced symbols, and otherwise omits the real function.
        #[used]
        static NAMED: &[unsafe extern "C" fn()] = &[$($(#[$on])* named::$name),*];

        $($(#[$on])*
        // SAFETY: no other item has this symbol, which is the linker's for the wrapped function.
        #[unsafe(export_name = concat!("__wrap_", stringify!($name)))]
        unsafe extern "C" fn $name($($value: $type),*) $(-> $result)? {
            let stop = StopThread;
            // SAFETY: the caller of the real function vouches for these arguments.
            let result = unsafe { real::$name($($value),*) };
            std::mem::forget(stop);
            result
        })*
    };
}

// `build.rs` reads this list: one function per line.
#[rustfmt::skip]
stop_in! {
    fn _Py_Dealloc(object: Object);
    fn Py_DecRef(object: Object);
    fn PyGILState_Release(state: PyGILState_STATE);
    fn PyObject_Vectorcall(callable: Object, values: *const Object, count: usize, names: Object) -> Object;
    fn PyObject_VectorcallDict(callable: Object, values: *const Object, count: usize, named: Object) -> Object;
    fn PyObject_VectorcallMethod(name: Object, values: *const Object, count: usize, names: Object) -> Object;
    fn PyObject_Call(callable: Object, values: Object, named: Object) -> Object;
    fn PyObject_CallNoArgs(callable: Object) -> Object;
    fn PyObject_CallOneArg(callable: Object, value: Object) -> Object;
    fn _PyObject_MakeTpCall(thread: *mut PyThreadState, callable: Object, values: *const Object, count: Py_ssize_t, names: Object) -> Object;
    fn PyObject_GetAttr(object: Object, name: Object) -> Object;
    #[cfg(Py_3_13)]
    fn PyObject_GetOptionalAttr(object: Object, name: Object, result: *mut Object) -> c_int;
    fn PyObject_SetAttr(object: Object, name: Object, value: Object) -> c_int;
    fn PyObject_SetAttrString(object: Object, name: *const c_char, value: Object) -> c_int;
    fn PyObject_GenericSetDict(object: Object, value: Object, context: *mut c_void) -> c_int;
    fn PyObject_GetItem(object: Object, key: Object) -> Object;
    fn PyObject_SetItem(object: Object, key: Object, value: Object) -> c_int;
    fn PyObject_DelItem(object: Object, key: Object) -> c_int;
    fn PyObject_GetIter(object: Object) -> Object;
    fn PyObject_Hash(object: Object) -> Py_hash_t;
    fn PyObject_IsInstance(object: Object, class: Object) -> c_int;
    fn PyObject_IsTrue(object: Object) -> c_int;
    fn PyObject_LengthHint(object: Object, default: Py_ssize_t) -> Py_ssize_t;
    fn PyObject_Repr(object: Object) -> Object;
    fn PyObject_RichCompare(object: Object, other: Object, operator: c_int) -> Object;
    fn PyObject_Size(object: Object) -> Py_ssize_t;
    fn PyObject_Str(object: Object) -> Object;
    fn PyIter_Next(iterator: Object) -> Object;
    fn PyNumber_Index(object: Object) -> Object;
    fn PySequence_Contains(sequence: Object, value: Object) -> c_int;
    fn PyFloat_AsDouble(object: Object) -> f64;
    fn PyLong_AsLong(object: Object) -> c_long;
    fn PyLong_AsUnsignedLongLong(object: Object) -> c_ulonglong;
    fn PyDict_Contains(dict: Object, key: Object) -> c_int;
    fn PyDict_DelItem(dict: Object, key: Object) -> c_int;
    fn PyDict_GetItemWithError(dict: Object, key: Object) -> Object;
    #[cfg(Py_3_13)]
    fn PyDict_GetItemRef(dict: Object, key: Object, result: *mut Object) -> c_int;
    fn PyDict_SetItem(dict: Object, key: Object, value: Object) -> c_int;
    #[cfg(Py_3_13)]
    fn PyDict_SetDefaultRef(dict: Object, key: Object, default: Object, result: *mut Object) -> c_int;
    fn PySet_Add(set: Object, key: Object) -> c_int;
    fn PySet_New(iterable: Object) -> Object;
    fn PyDict_Items(dict: Object) -> Object;
    fn PyDict_New() -> Object;
    fn PyDict_Values(dict: Object) -> Object;
    fn PyList_Append(list: Object, item: Object) -> c_int;
    fn PyList_New(size: Py_ssize_t) -> Object;
    fn PyTuple_GetSlice(tuple: Object, low: Py_ssize_t, high: Py_ssize_t) -> Object;
    fn PyTuple_New(size: Py_ssize_t) -> Object;
    fn PyFrozenSet_New(iterable: Object) -> Object;
    fn _PyObject_GC_New(class: *mut PyTypeObject) -> Object;
    fn PyCMethod_New(method: *mut PyMethodDef, this: Object, module: Object, class: *mut PyTypeObject) -> Object;
    fn PyWeakref_NewRef(object: Object, callback: Object) -> Object;
    fn PyContext_Copy(context: Object) -> Object;
    fn PyContext_CopyCurrent() -> Object;
    fn PyContext_Enter(context: Object) -> c_int;
    fn PyContext_Exit(context: Object) -> c_int;
    fn PyContext_New() -> Object;
    fn PyContextVar_Get(variable: Object, default: Object, value: *mut Object) -> c_int;
    fn PyContextVar_Set(variable: Object, value: Object) -> Object;
    fn PyErr_CheckSignals() -> c_int;
    fn PyErr_Clear();
    fn PyErr_NormalizeException(class: *mut Object, value: *mut Object, traceback: *mut Object);
    fn PyErr_PrintEx(keep: c_int);
    fn PyErr_Restore(class: Object, value: Object, traceback: Object);
    fn PyErr_SetObject(class: Object, value: Object);
    #[cfg(Py_3_12)]
    fn PyErr_SetRaisedException(exception: Object);
    fn PyErr_SetString(class: Object, text: *const c_char);
    fn PyErr_WriteUnraisable(object: Object);
    fn PyException_SetCause(exception: Object, cause: Object);
    fn PyException_SetTraceback(exception: Object, traceback: Object) -> c_int;
    fn PyEval_EvalCode(code: Object, globals: Object, locals: Object) -> Object;
    fn PyImport_Import(name: Object) -> Object;
    fn PyTraceBack_Print(traceback: Object, file: Object) -> c_int;
}
