//! Conversions between Python values and Rust ones.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDateTime, PyTzInfo};

/// A little less than `threading.TIMEOUT_MAX`.
const LONGEST: f64 = 9e9;

/// The argument `after`, in seconds.
pub(crate) fn after(given: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    if given.is_none() {
        return Ok(None);
    }
    let message = format!(
        "after must be a number of seconds, 0 or more, or None, got {}",
        given.repr()?
    );
    match given.extract::<f64>() {
        // A bool would pass as a number.
        Ok(_) | Err(_) if given.is_instance_of::<PyBool>() => Err(PyTypeError::new_err(message)),
        Err(_) => Err(PyTypeError::new_err(message)),
        Ok(seconds) if (0.0..f64::INFINITY).contains(&seconds) => Ok(Some(seconds)),
        Ok(_) => Err(PyValueError::new_err(message)),
    }
}

/// A timeout in seconds; a negative one has passed already, as in `concurrent.futures`.
pub(crate) fn seconds(timeout: &Bound<'_, PyAny>) -> PyResult<f64> {
    let seconds: f64 = timeout.extract().map_err(|_| {
        PyTypeError::new_err(format!(
            "timeout must be a number of seconds or None, got {}",
            timeout
                .repr()
                .map_or_else(|_| "?".to_owned(), |text| text.to_string())
        ))
    })?;
    if seconds.is_nan() {
        return Err(PyValueError::new_err(
            "timeout must be a number of seconds or None, got nan",
        ));
    }
    Ok(seconds.clamp(0.0, LONGEST))
}

/// Nanoseconds since 1970 as the journal has them.
pub(crate) fn to_micros(nanoseconds: u64) -> i64 {
    (nanoseconds / 1_000).cast_signed()
}

/// Microseconds of the journal since 1970 as tasks have them.
pub(crate) fn to_nanos(microseconds: i64) -> u64 {
    microseconds.cast_unsigned().saturating_mul(1_000)
}

/// A UTC `datetime`; `None` for 0, which means not yet.
pub(crate) fn to_datetime(
    py: Python<'_>,
    nanoseconds: u64,
) -> PyResult<Option<Bound<'_, PyDateTime>>> {
    if nanoseconds == 0 {
        return Ok(None);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a microsecond is exact until 2255"
    )]
    let seconds = (nanoseconds / 1_000) as f64 / 1e6;
    let utc = PyTzInfo::utc(py)?.to_owned();
    PyDateTime::from_timestamp(py, seconds, Some(&utc)).map(Some)
}
