//! Reads a value from tagged JSON, which may be any text.
//!
//! The parser is serde_json's; here each value becomes a Python object as it is met. Objects are
//! made of the known types alone, whatever the text says.

use std::cell::Cell;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pyo3::exceptions::{PyException, PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDelta, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple,
};
use serde_core::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use smallvec::SmallVec;
use uuid::Uuid;

use super::dates;
use super::form::{DEPTH, MARK, Tag, classes};
use crate::bindings::ffi::call::{call_named, call_with};
use crate::bindings::names;

type Parser<'de> = serde_json::Deserializer<serde_json::de::StrRead<'de>>;
type Object<'py> = Bound<'py, PyAny>;
/// Positional ones, and those with a keyword, if there are any.
pub(super) type Arguments<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);
type Items<'py> = SmallVec<[Object<'py>; 8]>;

/// Reads a value.
///
/// # Errors
///
/// `ValueError` for a text that the writer would not write.
pub(super) fn value<'py>(
    py: Python<'py>,
    text: &str,
    exceptions: Option<&Object<'py>>,
) -> PyResult<Object<'py>> {
    read(py, text, "a value", exceptions, |place, parser| {
        place.deserialize(parser)
    })
}

/// Reads the arguments of a call.
///
/// # Errors
///
/// As [`value`].
pub(super) fn call<'py>(
    py: Python<'py>,
    text: &str,
    exceptions: Option<&Object<'py>>,
) -> PyResult<Arguments<'py>> {
    read(py, text, "a call", exceptions, |place, parser| {
        Call(place).deserialize(parser)
    })
}

/// Reads the whole text, which should be `what`.
fn read<'py, T>(
    py: Python<'py>,
    text: &str,
    what: &str,
    exceptions: Option<&Object<'py>>,
    parse: impl FnOnce(Place<'_, 'py>, &mut Parser<'_>) -> serde_json::Result<T>,
) -> PyResult<T> {
    let failure = Cell::new(None);
    let mut parser = Parser::from_str(text);
    // Each container is entered through a `Place`, which counts the depth.
    parser.disable_recursion_limit();
    let place = Place {
        py,
        failure: &failure,
        exceptions,
        depth: 0,
    };
    let read = parse(place, &mut parser);
    let read = read.and_then(|value| parser.end().map(|()| value));
    read.map_err(|error| {
        let cause = failure.take();
        match cause {
            // Not about the text.
            Some(cause)
                if cause.is_instance_of::<PyMemoryError>(py)
                    || !cause.is_instance_of::<PyException>(py) =>
            {
                cause
            }
            cause => {
                let error = PyValueError::new_err(format!(
                    "this text is not {what} of the journal: {error}"
                ));
                error.set_cause(py, cause);
                error
            }
        }
    })
}

/// Where in the text a value is read: with `depth` containers around it.
#[derive(Clone, Copy)]
struct Place<'a, 'py> {
    py: Python<'py>,
    /// The exception of Python that ended the walk.
    failure: &'a Cell<Option<PyErr>>,
    /// Makes exceptions of their texts; without it, they are refused.
    exceptions: Option<&'a Object<'py>>,
    depth: usize,
}

impl Place<'_, '_> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH {
            return Err(E::custom(format_args!("more than {DEPTH} levels deep")));
        }
        let depth = self.depth + 1;
        Ok(Self { depth, ..self })
    }

    /// The result of a call into Python, as one of the parser.
    fn python<T, E: Error>(self, result: PyResult<T>) -> Result<T, E> {
        result.map_err(|error| {
            let text = error.to_string();
            self.failure.set(Some(error));
            E::custom(text)
        })
    }
}

macro_rules! seeds {
    ($($seed:ident: $value:ty, $method:ident;)*) => {
        $(
            impl<'de, 'py> DeserializeSeed<'de> for $seed<'_, 'py> {
                type Value = $value;

                fn deserialize<D: Deserializer<'de>>(
                    self,
                    parser: D,
                ) -> Result<Self::Value, D::Error> {
                    parser.$method(self)
                }
            }
        )*
    };
}

// What each place in the text becomes, and what the parser has to find there.
seeds! {
    Place: Object<'py>, deserialize_any;
    Key: Member<'py>, deserialize_str;
    Text: Object<'py>, deserialize_any;
    Sequence: Object<'py>, deserialize_seq;
    Pairs: Object<'py>, deserialize_seq;
    Pair: (Object<'py>, Object<'py>), deserialize_seq;
    Call: Arguments<'py>, deserialize_map;
    Named: Bound<'py, PyDict>, deserialize_map;
}

// --- A value --------------------------------------------------------------------------

impl<'de, 'py> Visitor<'de> for Place<'_, 'py> {
    type Value = Object<'py>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.py.None().into_bound(self.py))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(PyBool::new(self.py, value).to_owned().into_any())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(PyInt::new(self.py, value).into_any())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(PyInt::new(self.py, value).into_any())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(PyFloat::new(self.py, value).into_any())
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(PyString::new(self.py, value).into_any())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        let items = self.inner()?.items(seq)?;
        Ok(self.python(PyList::new(self.py, items))?.into_any())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        self.inner()?.members(map, true)
    }
}

/// Refuses what is there twice, since the writer writes each key and item once.
fn distinct<E: Error>(left: usize, count: usize) -> Result<(), E> {
    if left == count {
        return Ok(());
    }
    Err(E::custom("a key or an item is there twice"))
}

/// A key of an object, which may have tags or not.
struct Key<'a, 'py> {
    place: Place<'a, 'py>,
    tags: bool,
}

impl<'a, 'py> Key<'a, 'py> {
    fn of(place: Place<'a, 'py>) -> Self {
        Self { place, tags: true }
    }
}

enum Member<'py> {
    Tag(Tag),
    Name(Bound<'py, PyString>),
}

impl<'py> Visitor<'_> for Key<'_, 'py> {
    type Value = Member<'py>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        if !self.tags || !key.starts_with(MARK) {
            return Ok(Member::Name(PyString::new(self.place.py, key)));
        }
        let tag = Tag::of(key).ok_or_else(|| E::custom(format_args!("unknown tag {key:?}")))?;
        Ok(Member::Tag(tag))
    }
}

// --- The value of a tag -----------------------------------------------------------------

impl<'py> Place<'_, 'py> {
    /// Reads the value of a tag, and the end of its object.
    fn tagged<'de, A: MapAccess<'de>>(self, tag: Tag, mut map: A) -> Result<Object<'py>, A::Error> {
        let value = match tag {
            Tag::Timedelta => {
                let (days, seconds, microseconds) = map.next_value()?;
                let delta = PyDelta::new(self.py, days, seconds, microseconds, true);
                self.python(delta)?.into_any()
            }
            Tag::Dict => map.next_value_seed(Pairs(self))?,
            Tag::Tuple | Tag::Set | Tag::Frozenset => map.next_value_seed(Sequence(self, tag))?,
            _ => map.next_value_seed(Text(self, tag))?,
        };
        match map.next_key_seed(Key::of(self))? {
            None => Ok(value),
            Some(_) => Err(A::Error::custom("a key after a tag")),
        }
    }

    /// An object as a dict, whose values are read here; or the value of its tag, if there may be
    /// `tags`.
    fn members<'de, A: MapAccess<'de>>(
        self,
        mut map: A,
        tags: bool,
    ) -> Result<Object<'py>, A::Error> {
        let dict = PyDict::new(self.py);
        let mut count = 0;
        while let Some(key) = map.next_key_seed(Key { place: self, tags })? {
            let name = match key {
                Member::Name(name) => name,
                Member::Tag(tag) if count == 0 => return self.tagged(tag, map),
                Member::Tag(_) => return Err(A::Error::custom("a tag among other keys")),
            };
            let value = map.next_value_seed(self)?;
            self.python(dict.set_item(name, value))?;
            count += 1;
        }
        distinct(dict.len(), count)?;
        Ok(dict.into_any())
    }

    /// All items of an array.
    fn items<'de, A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'py>, A::Error> {
        let mut items = Items::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(items)
    }

    /// An object from the text of a tag, and the name of its time zone.
    fn object(self, tag: Tag, text: &str, name: Option<&str>) -> PyResult<Object<'py>> {
        let py = self.py;
        match tag {
            Tag::Datetime => Ok(dates::read_datetime(py, text, name)?.into_any()),
            Tag::Time => Ok(dates::read_time(py, text, name)?.into_any()),
            _ if name.is_some() => Err(malformed(tag)),
            Tag::Date => Ok(dates::read_date(py, text)?.into_any()),
            Tag::Bytes => match STANDARD.decode(text) {
                Ok(bytes) => Ok(PyBytes::new(py, &bytes).into_any()),
                Err(error) => Err(PyValueError::new_err(error.to_string())),
            },
            Tag::Int => int(py, text),
            Tag::Decimal => decimal(py, text),
            Tag::Uuid => uuid(py, text),
            Tag::Exception => match self.exceptions {
                Some(make) => call_with(make, [PyString::new(py, text).as_any()]),
                None => Err(malformed(tag)),
            },
            _ => Err(malformed(tag)),
        }
    }
}

#[cold]
fn malformed(tag: Tag) -> PyErr {
    PyValueError::new_err(format!("malformed value of {:?}", tag.key()))
}

fn int<'py>(py: Python<'py>, text: &str) -> PyResult<Object<'py>> {
    let digits = text.strip_prefix('-').unwrap_or(text).strip_prefix("0x");
    // Python would take spaces and underscores too.
    if !digits.is_some_and(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_hexdigit())) {
        return Err(malformed(Tag::Int));
    }
    let text = PyString::new(py, text);
    let base = PyInt::new(py, 16);
    call_with(&py.get_type::<PyInt>(), [text.as_any(), base.as_any()])
}

fn decimal<'py>(py: Python<'py>, text: &str) -> PyResult<Object<'py>> {
    // Digits, a point, an exponent: Python would take the word NaN too, and other alphabets.
    let is_part = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    if !text.bytes().all(is_part) {
        return Err(malformed(Tag::Decimal));
    }
    let class = classes(py)?.decimal.bind(py);
    let number = call_with(class, [PyString::new(py, text).as_any()])?;
    // With the trap for it turned off, a malformed text makes a NaN.
    if number
        .str()?
        .to_str()?
        .ends_with(|last: char| last.is_ascii_digit())
    {
        return Ok(number);
    }
    Err(malformed(Tag::Decimal))
}

fn uuid<'py>(py: Python<'py>, text: &str) -> PyResult<Object<'py>> {
    let number = Uuid::try_parse(text).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let number = number.as_u128().into_pyobject(py)?;
    call_named(classes(py)?.uuid.bind(py), &[], names::int(py), &number)
}

/// The value of a tag whose object is made of a text.
struct Text<'a, 'py>(Place<'a, 'py>, Tag);

impl<'de, 'py> Visitor<'de> for Text<'_, 'py> {
    type Value = Object<'py>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the text of {:?}", self.1.key())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        self.0.python(self.0.object(self.1, text, None))
    }

    /// A date or time whose `timezone` was given a name.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let text: String = next(&mut seq)?;
        let name: String = next(&mut seq)?;
        self.0.python(self.0.object(self.1, &text, Some(&name)))
    }
}

/// The value of a tag that holds items.
struct Sequence<'a, 'py>(Place<'a, 'py>, Tag);

impl<'de, 'py> Visitor<'de> for Sequence<'_, 'py> {
    type Value = Object<'py>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the items of {:?}", self.1.key())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        let Self(place, tag) = self;
        let py = place.py;
        let items = place.items(seq)?;
        let count = items.len();
        match tag {
            Tag::Set => {
                let set = place.python(PySet::new(py, items))?;
                distinct(set.len(), count)?;
                Ok(set.into_any())
            }
            Tag::Frozenset => {
                let set = place.python(PyFrozenSet::new(py, items))?;
                distinct(set.len(), count)?;
                Ok(set.into_any())
            }
            _ => Ok(place.python(PyTuple::new(py, items))?.into_any()),
        }
    }
}

/// The pairs of a dict with any keys.
struct Pairs<'a, 'py>(Place<'a, 'py>);

impl<'de, 'py> Visitor<'de> for Pairs<'_, 'py> {
    type Value = Object<'py>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pairs of keys and values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let dict = PyDict::new(self.0.py);
        let mut count = 0;
        while let Some((key, value)) = seq.next_element_seed(Pair(self.0))? {
            self.0.python(dict.set_item(key, value))?;
            count += 1;
        }
        distinct(dict.len(), count)?;
        Ok(dict.into_any())
    }
}

struct Pair<'a, 'py>(Place<'a, 'py>);

impl<'de, 'py> Visitor<'de> for Pair<'_, 'py> {
    type Value = (Object<'py>, Object<'py>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key and a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let key = seq.next_element_seed(self.0)?.ok_or_else(short)?;
        let value = seq.next_element_seed(self.0)?.ok_or_else(short)?;
        // The parser refuses further items.
        Ok((key, value))
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(short)
}

#[cold]
fn short<E: Error>() -> E {
    E::custom("too few items")
}

// --- A call -----------------------------------------------------------------------------

/// The arguments of a call: a JSON object of its own.
struct Call<'a, 'py>(Place<'a, 'py>);

impl<'de, 'py> Visitor<'de> for Call<'_, 'py> {
    type Value = Arguments<'py>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of args and kwargs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let place = self.0;
        let (mut positional, mut named) = (None, None);
        while let Some(key) = map.next_key_seed(Key::of(place))? {
            match key {
                Member::Name(key) if positional.is_none() && key == "args" => {
                    let tuple = map.next_value_seed(Sequence(place, Tag::Tuple))?;
                    let tuple = tuple.cast_into::<PyTuple>();
                    positional = Some(place.python(tuple.map_err(PyErr::from))?);
                }
                Member::Name(key) if named.is_none() && key == "kwargs" => {
                    named = Some(map.next_value_seed(Named(place))?);
                }
                _ => return Err(A::Error::custom("a key that a call does not have")),
            }
        }
        match (positional, named) {
            (Some(positional), Some(named)) => {
                Ok((positional, (!named.is_empty()).then_some(named)))
            }
            _ => Err(A::Error::custom("args or kwargs is missing")),
        }
    }
}

/// The keyword arguments of a call. Their names may begin with the mark of tags.
struct Named<'a, 'py>(Place<'a, 'py>);

impl<'de, 'py> Visitor<'de> for Named<'_, 'py> {
    type Value = Bound<'py, PyDict>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keyword arguments")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let dict = self.0.members(map, false)?.cast_into::<PyDict>();
        self.0.python(dict.map_err(PyErr::from))
    }
}
