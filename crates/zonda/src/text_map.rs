//! Converts options to names and text, and back, through serde.

use serde::de::value::{Error, MapDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use std::collections::BTreeMap;

/// Every serialised field of a flat struct, as text.
pub(crate) fn to_map(options: &impl Serialize) -> BTreeMap<String, String> {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(options) else {
        unreachable!("options are a struct of plain fields");
    };
    let text = |value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    fields.into_iter().map(|(name, value)| (name, text(value))).collect()
}

/// The inverse of [`to_map`].
pub(crate) fn from_map<T: DeserializeOwned>(map: &BTreeMap<String, String>) -> Result<T, Error> {
    let fields = map.iter().map(|(name, value)| (name.as_str(), Value { name, value }));
    T::deserialize(MapDeserializer::new(fields))
}

/// The text of one option.
struct Value<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> IntoDeserializer<'a> for Value<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Value<'_> {
    fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self) -> Result<T, Error> {
        self.value.parse().map_err(|why| Error::custom(format!("{} is {:?}: {why}", self.name, self.value)))
    }
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.value)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.parse()?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(self.parse()?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text: serde::de::value::StrDeserializer<'_, Error> = self.value.into_deserializer();
        text.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}
