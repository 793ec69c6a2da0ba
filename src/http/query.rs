//! Query parameters: each resource declares its own, each stands there at most once, and no other is let pass.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::path::decode;
use super::problem::{Code, FieldError, Place, Problem};
use super::wire::schema::{Describe, Schemas, with_meaning};

/// The parameters that a resource has.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryShape {
    /// Their names.
    pub(super) names: &'static [&'static str],
    /// Describes them, as OpenAPI does.
    pub(super) describe: fn(&mut Schemas) -> Vec<Value>,
}

impl QueryShape {
    /// None at all.
    pub(super) const NONE: QueryShape = QueryShape { names: &[], describe: |_| Vec::new() };
}

/// A query whose parameters are all known.
#[derive(Debug)]
pub(super) struct Query<'q>(Vec<(&'static str, &'q str)>);

/// A type that a parameter is read into.
pub(super) trait Parameter: Describe + Sized {
    /// Whether it has any number of values; then it is read by [`Parameter::parse_list`].
    const LISTED: bool = false;

    /// Reads the parameter's value.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn parse(text: &str) -> Result<Self, Cow<'static, str>>;

    /// Reads all values, which are separated by commas or stand in parameters of their own. They are still encoded, so
    /// an encoded comma belongs to its value.
    ///
    /// # Errors
    /// Says what is wrong with them.
    fn parse_list(_: &[&str]) -> Result<Self, Cow<'static, str>> {
        Err("is no list".into())
    }

    /// What counts if it is not there.
    fn absent() -> Self;
}

impl<'q> Query<'q> {
    /// Takes a query apart.
    ///
    /// # Errors
    /// If it has a parameter that is not known: its reply would not be what was asked for.
    pub(super) fn split(query: Option<&'q str>, shape: QueryShape) -> Result<Query<'q>, Problem> {
        let mut known = Vec::new();
        let mut unknown = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).unwrap_or(Cow::Borrowed(name));
            match shape.names.iter().find(|known| **known == name) {
                Some(name) => known.push((*name, value)),
                None => unknown.push(FieldError {
                    place: Place::Parameter(name.into_owned().into()),
                    detail: if shape.names.is_empty() {
                        "is unknown; there are none here".into()
                    } else {
                        format!("is unknown; known are: {}", shape.names.join(", ")).into()
                    },
                }),
            }
        }
        if unknown.is_empty() {
            return Ok(Query(known));
        }
        let count = unknown.len();
        Err(Problem::with_errors(Code::UnknownParameter, unknown, count))
    }

    /// Reads one parameter; what is wrong with it goes to `errors`.
    pub(super) fn read<P: Parameter>(&self, name: &'static str, errors: &mut Vec<FieldError>) -> Option<P> {
        let mut values = self.0.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value);
        let parsed = match (values.next(), values.next()) {
            (None, _) => Ok(P::absent()),
            (Some(_), _) if P::LISTED => {
                let all = self.0.iter().filter(|(known, _)| *known == name);
                P::parse_list(&all.flat_map(|(_, value)| value.split(',')).collect::<Vec<_>>())
            }
            (Some(_), Some(_)) => Err("stands there more than once".into()),
            (Some(value), None) => decode(value).map_err(Cow::Borrowed).and_then(|text| P::parse(&text)),
        };
        let place = Place::Parameter(name.into());
        parsed.map_err(|detail| errors.push(FieldError { place, detail })).ok()
    }
}

/// Describes one parameter, as OpenAPI does.
pub(super) fn describe(name: &str, schema: Value, meaning: &str) -> Value {
    with_meaning(json!({ "name": name, "in": "query", "schema": schema }), meaning)
}

/// Declares the parameters of a resource: a struct that is read from the query and described by its fields.
macro_rules! parameters {
    (
        $(#[doc = $about:literal])*
        $visibility:vis struct $Parameters:ident {
            $($(#[doc = $meaning:literal])* $field:ident: $Field:ty,)*
        }
    ) => {
        $(#[doc = $about])*
        $visibility struct $Parameters {
            $($(#[doc = $meaning])* $visibility $field: $Field,)*
        }

        impl $Parameters {
            /// Their names and descriptions.
            $visibility const SHAPE: $crate::http::query::QueryShape = $crate::http::query::QueryShape {
                names: &[$(stringify!($field)),*],
                describe: |schemas| vec![$({
                    let schema = <$Field as $crate::http::wire::schema::Describe>::describe(schemas);
                    $crate::http::query::describe(stringify!($field), schema, concat!($($meaning),*))
                }),*],
            };

            /// Reads them, and tells all that is wrong with them at once.
            $visibility fn read(query: &$crate::http::query::Query<'_>) -> Result<Self, Problem> {
                let mut errors = Vec::new();
                $(let $field = query.read::<$Field>(stringify!($field), &mut errors);)*
                match ($($field,)*) {
                    ($(Some($field),)*) => Ok($Parameters { $($field),* }),
                    _ => {
                        let count = errors.len();
                        Err(Problem::with_errors(Code::InvalidParameter, errors, count))
                    }
                }
            }
        }
    };
}
pub(super) use parameters;

impl<P: Parameter> Parameter for Option<P> {
    fn parse(text: &str) -> Result<Self, Cow<'static, str>> {
        P::parse(text).map(Some)
    }

    fn absent() -> Self {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Word(String);

    impl Describe for Word {
        fn describe(_: &mut Schemas) -> Value {
            json!({ "type": "string" })
        }
    }

    impl Parameter for Word {
        fn parse(text: &str) -> Result<Self, Cow<'static, str>> {
            if text.is_empty() { Err("is empty".into()) } else { Ok(Word(text.to_owned())) }
        }

        fn absent() -> Self {
            Word("none".to_owned())
        }
    }

    parameters! {
        /// Some.
        struct Some2 {
            /// The first.
            limit: Word,
            /// The second.
            order: Option<Word>,
        }
    }

    #[test]
    fn parameters_are_known_and_single() {
        let parse = |query| Some2::read(&Query::split(Some(query), Some2::SHAPE)?);
        let read = parse("limit=1&order=a%20b").unwrap();
        assert_eq!((read.limit, read.order), (Word("1".into()), Some(Word("a b".into()))));
        let read = parse("").unwrap();
        assert_eq!((read.limit, read.order), (Word("none".into()), None));
        for (query, code) in [
            ("x=1", Code::UnknownParameter),
            ("Limit=1", Code::UnknownParameter),
            ("limit=1&limit=1", Code::InvalidParameter),
            ("limit=%zz", Code::InvalidParameter),
            ("order", Code::InvalidParameter),
            ("limit=%zz&x", Code::UnknownParameter),
        ] {
            assert_eq!(parse(query).err().expect(query).code, code);
        }
        assert!(Query::split(Some("x"), QueryShape::NONE).is_err());
        assert!(Query::split(Some("&"), QueryShape::NONE).is_ok());
    }
}
