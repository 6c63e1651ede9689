//! What a plain task waits for, and under which conditions it runs: for a page that shows it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bindings::core::keys::address;
use crate::bindings::core::options::Start;
use crate::bindings::core::policy;
use crate::bindings::core::task::Task;
use crate::bindings::core::transition::Phase;

/// A moment of the monotonic clock in seconds since 1970.
fn seconds(at: Instant) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let left = at.saturating_duration_since(Instant::now());
    (now.unwrap_or_default() + left).as_secs_f64()
}

/// The conditions of a task that has not ended, and what it waits for. See `Future._standing`.
pub(crate) fn of<'py>(this: &Bound<'py, Task>) -> PyResult<Bound<'py, PyDict>> {
    let (py, cell) = (this.py(), this.get());
    let dict = PyDict::new(py);
    if let Some(policy) = policy::policy(this) {
        let asked = policy.get();
        dict.set_item("priority", asked.priority)?;
        dict.set_item("timeout", asked.timeout.map(|it| it.as_secs_f64()))?;
        dict.set_item("retry", asked.retry(py))?;
        if let Some(terms) = asked.terms(0) {
            dict.set_item("limit", terms.limit)?;
            let rate = terms.rate.map(|it| (it.count, it.per.as_secs_f64()));
            dict.set_item("rate", rate)?;
        }
        if let Some(key) = asked.given_key(py) {
            dict.set_item("key", key)?;
        }
    }
    let lane = policy::lane(this);
    let (mut holds, mut next) = (false, None);
    if let Some(lane) = &lane {
        let inner = lane.get().inner.lock();
        let running = inner.running.len();
        holds = inner.running.contains(&address(this));
        next = inner.lane.next(Instant::now());
        drop(inner);
        dict.set_item("running", running)?;
    }
    if cell.phase() != Phase::Pending {
        return Ok(dict);
    }
    if let Some(open) = policy::followed(this).filter(|it| !it.is_empty()) {
        dict.set_item("waits", "after")?;
        dict.set_item("after", open)?;
        return Ok(dict);
    }
    let times = policy::with(cell, |rules| {
        let again = rules.alarm.filter(|_| rules.attempts > 0);
        (again.map(|it| it.at()), rules.from, rules.start)
    });
    let (again, from, start) = times.unwrap_or_default();
    let now = Instant::now();
    let until = match (again, from, start) {
        (Some(at), ..) | (None, Some(at), _) if at > now => Some(seconds(at)),
        (None, None, Some(Start::At(time))) if time > SystemTime::now() => Some(
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64(),
        ),
        _ => None,
    };
    if let Some(until) = until {
        dict.set_item("waits", "scheduled")?;
        dict.set_item("until", until)?;
    } else if lane.is_some() && !holds {
        dict.set_item("waits", "lane")?;
        dict.set_item("until", next.filter(|at| *at > now).map(seconds))?;
    } else {
        dict.set_item("waits", "ready")?;
    }
    Ok(dict)
}
