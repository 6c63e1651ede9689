//! Writes a value as tagged JSON: a walk through exact types.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pyo3::Borrowed;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDate, PyDateTime, PyDelta, PyDeltaAccess, PyDict, PyFloat, PyFrozenSet,
    PyInt, PyList, PySet, PyString, PyTime, PyTuple,
};
use uuid::Uuid;

use super::dates::{self, Unknown, Written};
use super::form::{DEPTH, MARK, Tag, classes};
use super::refusal::{Refusal, Step, of_number, of_surrogate, of_type, of_zone, shown};
use crate::bindings::names;

type Result<T = ()> = std::result::Result<T, Refusal>;

pub(super) struct Writer {
    out: Vec<u8>,
    /// The longest text, in bytes.
    most: usize,
}

impl Writer {
    pub(super) fn new(most: usize) -> Self {
        let out = Vec::with_capacity(128);
        Self { out, most }
    }

    pub(super) fn finish(self) -> PyResult<String> {
        // Only whole strings were written. A second look costs less than `unsafe` would.
        String::from_utf8(self.out).map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    /// Writes text that is JSON already.
    #[inline]
    fn raw(&mut self, text: &str) -> Result {
        self.room(text.len())?;
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Writes a value that has `depth` containers around it.
    pub(super) fn value(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> Result {
        if let Ok(text) = value.cast_exact::<PyString>() {
            self.string(text)
        } else if let Ok(number) = value.cast_exact::<PyInt>() {
            self.int(number)
        } else if value.is_none() {
            self.raw("null")
        } else if let Ok(flag) = value.cast_exact::<PyBool>() {
            self.raw(if flag.is_true() { "true" } else { "false" })
        } else if let Ok(number) = value.cast_exact::<PyFloat>() {
            self.float(number.value())
        } else if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            self.bytes(bytes.as_bytes())
        } else {
            self.container(value, depth)
        }
    }

    fn container(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> Result {
        let inner = depth + 1;
        if let Ok(dict) = value.cast_exact::<PyDict>() {
            within(inner)?;
            self.dict(dict, inner)
        } else if let Ok(list) = value.cast_exact::<PyList>() {
            within(inner)?;
            self.items(list.iter(), inner)
        } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            within(inner)?;
            self.tagged(Tag::Tuple, |it| it.items(tuple.iter(), inner))
        } else if let Ok(set) = value.cast_exact::<PySet>() {
            within(inner)?;
            self.tagged(Tag::Set, |it| it.set(set, inner))
        } else if let Ok(set) = value.cast_exact::<PyFrozenSet>() {
            within(inner)?;
            self.tagged(Tag::Frozenset, |it| it.set(set, inner))
        } else {
            self.other(value)
        }
    }

    fn other(&mut self, value: &Bound<'_, PyAny>) -> Result {
        if let Ok(moment) = value.cast_exact::<PyDateTime>() {
            self.moment(Tag::Datetime, dates::write_datetime(moment))
        } else if let Ok(date) = value.cast_exact::<PyDate>() {
            let text = dates::write_date(date);
            self.tagged(Tag::Date, |it| it.text(&text))
        } else if let Ok(time) = value.cast_exact::<PyTime>() {
            self.moment(Tag::Time, dates::write_time(time))
        } else if let Ok(delta) = value.cast_exact::<PyDelta>() {
            let (days, seconds) = (delta.get_days(), delta.get_seconds());
            let text = format!("[{days},{seconds},{}]", delta.get_microseconds());
            self.tagged(Tag::Timedelta, |it| it.raw(&text))
        } else {
            let classes = classes(value.py())?;
            let class = value.get_type_ptr();
            if class == classes.decimal.bind(value.py()).as_type_ptr() {
                self.decimal(value)
            } else if class == classes.uuid.bind(value.py()).as_type_ptr() {
                self.uuid(value)
            } else {
                Err(of_type(value))
            }
        }
    }

    /// Writes the arguments of a call, and `last` after the positional ones. A refusal comes with
    /// what it is about, as in "argument 1".
    pub(super) fn call(
        &mut self,
        positional: &Bound<'_, PyTuple>,
        named: Option<&Bound<'_, PyDict>>,
        last: Option<char>,
    ) -> std::result::Result<(), (String, Refusal)> {
        // Only the length can be refused there.
        let nowhere = |refusal| (String::new(), refusal);
        self.raw("{\"args\":[").map_err(nowhere)?;
        for (index, value) in positional.iter_borrowed().enumerate() {
            if index > 0 {
                self.raw(",").map_err(nowhere)?;
            }
            let written = self.value(&value, 0);
            written.map_err(|refusal| (format!("argument {}", index + 1), refusal))?;
        }
        if let Some(last) = last {
            let comma = if positional.is_empty() { "" } else { "," };
            self.raw(&format!("{comma}{last}")).map_err(nowhere)?;
        }
        self.raw("],\"kwargs\":{").map_err(nowhere)?;
        // A copy, as in `dict`.
        let named = named.map(PyDictMethods::items);
        for (index, item) in named.iter().flat_map(PyListMethods::iter).enumerate() {
            let (name, value) = self
                .named(index, &item)
                .map_err(|refusal| ("the name of an argument".to_owned(), refusal))?;
            let written = self.value(&value, 0);
            written.map_err(|refusal| (format!("argument {}", shown(&name)), refusal))?;
        }
        self.raw("}}").map_err(nowhere)
    }

    /// Writes the key of a dict's item as that of a member, and returns the key and the value.
    fn named<'a, 'py>(
        &mut self,
        index: usize,
        item: &'a Bound<'py, PyAny>,
    ) -> Result<(Borrowed<'a, 'py, PyAny>, Borrowed<'a, 'py, PyAny>)> {
        let (name, value) = pair(item)?;
        if index > 0 {
            self.raw(",")?;
        }
        let text = name.cast::<PyString>().map_err(PyErr::from)?;
        self.string(&text)?;
        self.raw(":")?;
        Ok((name, value))
    }

    // --- Values without items -------------------------------------------------------

    fn string(&mut self, text: &Bound<'_, PyString>) -> Result {
        let text = text.to_str().map_err(|_| of_surrogate())?;
        self.text(text)
    }

    fn text(&mut self, text: &str) -> Result {
        self.room(text.len())?;
        self.json(text)
    }

    fn int(&mut self, number: &Bound<'_, PyInt>) -> Result {
        if let Ok(number) = number.extract::<i64>() {
            return self.json(&number);
        }
        // Other readers of JSON make floats of longer ones. Sixteen is a base that Python converts
        // in linear time, without a limit on digits.
        let text = number.call_method1(names::__format__(number.py()), ("#x",))?;
        let text = text.cast::<PyString>().map_err(PyErr::from)?;
        self.tagged(Tag::Int, |it| it.string(text))
    }

    fn float(&mut self, number: f64) -> Result {
        if number.is_finite() {
            self.json(&number)
        } else {
            Err(of_number(if number.is_nan() { "nan" } else { "infinite" }))
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result {
        self.room(bytes.len())?;
        self.tagged(Tag::Bytes, |it| it.text(&STANDARD.encode(bytes)))
    }

    fn decimal(&mut self, value: &Bound<'_, PyAny>) -> Result {
        let text = value.str()?;
        let text = text.to_str()?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(of_number(&format!("the Decimal {text}")));
        }
        self.tagged(Tag::Decimal, |it| it.text(text))
    }

    fn uuid(&mut self, value: &Bound<'_, PyAny>) -> Result {
        let number: u128 = value.getattr(names::int(value.py()))?.extract()?;
        let mut text = Uuid::encode_buffer();
        let text = Uuid::from_u128(number).hyphenated().encode_lower(&mut text);
        self.tagged(Tag::Uuid, |it| it.text(text))
    }

    fn moment(
        &mut self,
        tag: Tag,
        written: std::result::Result<Written<'_>, Unknown<'_>>,
    ) -> Result {
        let Written { text, name } = match written {
            Ok(written) => written,
            Err(Unknown::Zone(zone)) => return Err(of_zone(&zone)),
            Err(Unknown::Failed(error)) => return Err(error.into()),
        };
        self.tagged(tag, |it| match name {
            None => it.text(&text),
            Some(name) => {
                it.raw("[")?;
                it.text(&text)?;
                it.raw(",")?;
                it.string(&name)?;
                it.raw("]")
            }
        })
    }

    // --- Containers -----------------------------------------------------------------

    fn items<'py>(
        &mut self,
        items: impl Iterator<Item = Bound<'py, PyAny>>,
        depth: usize,
    ) -> Result {
        self.raw("[")?;
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.raw(",")?;
            }
            let written = self.value(&item, depth);
            written.map_err(|refusal| refusal.within(|| Step::Index(index)))?;
        }
        self.raw("]")
    }

    /// Writes the items in the order of their texts, which is the same in all processes.
    fn set(&mut self, set: &Bound<'_, PyAny>, depth: usize) -> Result {
        self.raw("[")?;
        let start = self.out.len();
        let mut ends = Vec::new();
        for item in set.try_iter()? {
            let written = self.value(&item?, depth);
            written.map_err(|refusal| refusal.within(|| Step::Item))?;
            ends.push(self.out.len());
        }
        let starts = std::iter::once(start).chain(ends.iter().copied());
        let mut texts: Vec<_> = starts
            .zip(&ends)
            .map(|(from, to)| &self.out[from..*to])
            .collect();
        texts.sort_unstable();
        let text = texts.join(&b',');
        self.out.truncate(start);
        self.out.extend_from_slice(&text);
        self.raw("]")
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>, depth: usize) -> Result {
        // A copy: without a GIL another thread may change the dict, and the collector, which the
        // walk may wake, may run code.
        let items = dict.items();
        let mut is_plain = true;
        for item in items.iter() {
            let (key, _) = pair(&item)?;
            is_plain &= match key.cast_exact::<PyString>() {
                // The writer of the keys refuses one without a text.
                Ok(key) => key.to_str().is_ok_and(|key| !key.starts_with(MARK)),
                Err(_) => false,
            };
        }
        if is_plain {
            self.members(&items, depth)
        } else {
            self.tagged(Tag::Dict, |it| it.pairs(&items, depth))
        }
    }

    /// Writes the items of a dict with plain keys as the members of an object.
    fn members(&mut self, items: &Bound<'_, PyList>, depth: usize) -> Result {
        self.raw("{")?;
        for (index, item) in items.iter().enumerate() {
            let (key, value) = self.named(index, &item)?;
            let written = self.value(&value, depth);
            written.map_err(|refusal| refusal.within(|| Step::Value(shown(&key))))?;
        }
        self.raw("}")
    }

    /// Writes the items of any other dict as pairs.
    fn pairs(&mut self, items: &Bound<'_, PyList>, depth: usize) -> Result {
        self.raw("[")?;
        for (index, item) in items.iter().enumerate() {
            let (key, value) = pair(&item)?;
            self.raw(if index > 0 { ",[" } else { "[" })?;
            let written = self.value(&key, depth);
            written.map_err(|refusal| refusal.within(|| Step::Key))?;
            self.raw(",")?;
            let written = self.value(&value, depth);
            written.map_err(|refusal| refusal.within(|| Step::Value(shown(&key))))?;
            self.raw("]")?;
        }
        self.raw("]")
    }

    // --- Parts ----------------------------------------------------------------------

    fn tagged(&mut self, tag: Tag, inner: impl FnOnce(&mut Self) -> Result) -> Result {
        self.raw("{\"")?;
        self.raw(tag.key())?;
        self.raw("\":")?;
        inner(self)?;
        self.raw("}")
    }

    /// Writes a number or a string.
    fn json<T: serde_core::Serialize + ?Sized>(&mut self, value: &T) -> Result {
        serde_json::to_writer(&mut self.out, value)
            .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        self.room(0)
    }

    /// Refuses to write `more` bytes if that would be too many.
    #[inline]
    fn room(&self, more: usize) -> Result {
        if self.out.len().saturating_add(more) <= self.most {
            Ok(())
        } else {
            Err(Refusal::long())
        }
    }
}

fn within(depth: usize) -> Result {
    if depth <= DEPTH {
        Ok(())
    } else {
        Err(Refusal::deep())
    }
}

/// One of a dict's `items()`.
fn pair<'a, 'py>(
    item: &'a Bound<'py, PyAny>,
) -> Result<(Borrowed<'a, 'py, PyAny>, Borrowed<'a, 'py, PyAny>)> {
    let item = item.cast::<PyTuple>().map_err(PyErr::from)?;
    Ok((item.get_borrowed_item(0)?, item.get_borrowed_item(1)?))
}
