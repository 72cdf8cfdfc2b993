//! Key-value metadata with GGUF's types; read by the spec, the tokenizer and `inspect`.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// One metadata value, of one of GGUF's thirteen types. All elements of an array have the same type; the format allows
/// nested arrays.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // GGUF's own names
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
    /// Large arrays (vocabularies) are stored without a tag per element.
    Strings(Vec<String>),
    /// Token scores.
    Floats(Vec<f32>),
    /// Token types, in GGUF's `i32`.
    Ints(Vec<i32>),
}

impl Value {
    /// The type and the value, short enough for a message: `u32 7`, `an array of 3 strings`.
    pub fn describe(&self) -> String {
        match self {
            Value::U8(v) => format!("u8 {v}"),
            Value::I8(v) => format!("i8 {v}"),
            Value::U16(v) => format!("u16 {v}"),
            Value::I16(v) => format!("i16 {v}"),
            Value::U32(v) => format!("u32 {v}"),
            Value::I32(v) => format!("i32 {v}"),
            Value::U64(v) => format!("u64 {v}"),
            Value::I64(v) => format!("i64 {v}"),
            Value::F32(v) => format!("f32 {v}"),
            Value::F64(v) => format!("f64 {v}"),
            Value::Bool(v) => format!("bool {v}"),
            Value::String(v) if v.chars().count() > 60 => {
                format!("string {:?}…", v.chars().take(60).collect::<String>())
            }
            Value::String(v) => format!("string {v:?}"),
            Value::Array(v) => format!("an array of {} values", v.len()),
            Value::Strings(v) => format!("an array of {} strings", v.len()),
            Value::Floats(v) => format!("an array of {} f32", v.len()),
            Value::Ints(v) => format!("an array of {} i32", v.len()),
        }
    }
}

impl Value {
    /// Any non-negative integer type as `u64`.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// Any integer type as `i64`; `None` for other types, and for numbers beyond it.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::I8(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::I64(v) => Some(v),
            _ => self.as_u64()?.try_into().ok(),
        }
    }

    /// The elements of an array of any integer type as `i64`; `None` for other types, and for numbers beyond it.
    pub fn as_integers(&self) -> Option<Vec<i64>> {
        match self {
            Value::Ints(v) => Some(v.iter().map(|&n| n.into()).collect()),
            Value::Array(v) => v.iter().map(Value::as_i64).collect(),
            _ => None,
        }
    }
}

/// All metadata of a model, sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub BTreeMap<String, Value>);

impl Metadata {
    /// The raw value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The value of a key if it is a string.
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// Any non-negative integer type as `u64`.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A float, either width.
    pub fn f32(&self, key: &str) -> Option<f32> {
        match *self.get(key)? {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match *self.get(key)? {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.get(key)? {
            Value::Strings(v) => Some(v),
            _ => None,
        }
    }

    /// An array of `f32`.
    pub fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.get(key)? {
            Value::Floats(v) => Some(v),
            _ => None,
        }
    }

    /// An array of any integer type as `i32`; `None` also if one of its numbers is beyond it.
    pub fn ints(&self, key: &str) -> Option<Cow<'_, [i32]>> {
        match self.get(key)? {
            Value::Ints(v) => Some(Cow::Borrowed(v)),
            other => other.as_integers()?.into_iter().map(|n| n.try_into().ok()).collect(),
        }
    }
}
