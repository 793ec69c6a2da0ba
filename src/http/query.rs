//! Query parameters: each resource declares its own, each stands there at most once, and no other is let pass.
//!
//! Some have a key in brackets, as in `metadata[invoice]=7`: those stand there at most once a key. Lists may stand there any
//! number of times.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::path::{decode_query, encode};
use super::problem::{Code, FieldError, Place, Problem};
use super::wire::schema::{Describe, Schemas, with_meaning};

/// The parameters that a resource has.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryShape {
    /// Their names.
    pub(super) names: &'static [&'static str],
    /// Whether they have a key, in the same order.
    pub(super) keyed: &'static [bool],
    /// Describes them, as OpenAPI does.
    pub(super) describe: fn(&mut Schemas) -> Vec<Value>,
}

impl QueryShape {
    /// None at all.
    pub(super) const NONE: QueryShape = QueryShape { names: &[], keyed: &[], describe: |_| Vec::new() };
}

/// A query whose parameters are all known.
#[derive(Debug)]
pub(super) struct Query<'q>(Vec<Given<'q>>);

/// Values by their keys.
pub(super) type KeyedValues = Vec<(Box<str>, Box<str>)>;

/// One parameter as it stands there.
#[derive(Debug)]
struct Given<'q> {
    name: &'static str,
    /// What stands in brackets behind the name.
    key: Option<Box<str>>,
    /// The value, still encoded.
    value: &'q str,
}

/// A type that a parameter is read into.
pub(super) trait Parameter: Describe + Sized {
    /// Whether it has a key; then it is read by [`Parameter::parse_keyed`].
    const KEYED: bool = false;
    /// Whether it has any number of values; then it is read by [`Parameter::parse_list`].
    const LISTED: bool = false;

    /// Reads the parameter's value, if it has one.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn parse(_: &str) -> Result<Self, Cow<'static, str>> {
        Err("is no single value".into())
    }

    /// Reads all values and their keys, none of which comes twice.
    ///
    /// # Errors
    /// Says what is wrong with them.
    fn parse_keyed(_: KeyedValues) -> Result<Self, Cow<'static, str>> {
        Err("has no key".into())
    }

    /// Reads all values, which are separated by commas or stand in parameters of their own. What stands between commas is
    /// decoded here and may have others in it, for most clients encode them all (`URLSearchParams`, curl
    /// `--data-urlencode`): whether those separate values, too, only the type knows.
    ///
    /// # Errors
    /// Says what is wrong with them.
    fn parse_list(_: &[Cow<'_, str>]) -> Result<Self, Cow<'static, str>> {
        Err("is no list".into())
    }

    /// What counts if it is not there; without that it has to be.
    fn absent() -> Option<Self> {
        None
    }
}

impl<'q> Query<'q> {
    /// Takes a query apart.
    ///
    /// # Errors
    /// If it has a parameter that is not known: its reply would not be what was asked for.
    pub(super) fn split(query: Option<&'q str>, shape: QueryShape) -> Result<Query<'q>, Problem> {
        let mut known = Vec::new();
        let Some(query) = query else { return Ok(Query(known)) };
        let mut unknown = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode_query(name).unwrap_or(Cow::Borrowed(name));
            let bracketed = name.strip_suffix(']').and_then(|name| name.split_once('['));
            let find = |wanted: &str| shape.names.iter().position(|known| *known == wanted);
            // Without its key it is known, and not valid.
            let found = match bracketed {
                Some((base, key)) => {
                    find(base).filter(|&place| shape.keyed[place]).map(|place| (place, Some(key.into())))
                }
                None => find(&name).map(|place| (place, None)),
            };
            match found {
                Some((place, key)) => known.push(Given { name: shape.names[place], key, value }),
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
        let mut given = self.0.iter().filter(|given| given.name == name);
        let parsed = match (given.next(), given.next()) {
            (None, _) => P::absent().ok_or(Cow::Borrowed("is missing")),
            (Some(_), _) if P::KEYED => self.read_keyed(name).and_then(P::parse_keyed),
            (Some(_), _) if P::LISTED => {
                let all = self.0.iter().filter(|given| given.name == name);
                let values = all.flat_map(|given| given.value.split(',')).map(decode_query);
                values
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(Cow::Borrowed)
                    .and_then(|all| P::parse_list(&all))
            }
            (Some(_), Some(_)) => Err("stands there more than once".into()),
            (Some(given), None) => {
                decode_query(given.value).map_err(Cow::Borrowed).and_then(|text| P::parse(&text))
            }
        };
        let place = Place::Parameter(name.into());
        parsed.map_err(|detail| errors.push(FieldError { place, detail })).ok()
    }

    /// The parameters, written anew in one way: all but those with these names, in order, names and values encoded.
    pub(super) fn canonical(&self, except: &[&str]) -> Vec<String> {
        let text = |given: &Given<'_>| {
            // A value that cannot be decoded has been refused by whoever read it.
            let value = decode_query(given.value).unwrap_or_default();
            match &given.key {
                Some(key) => format!("{}%5B{}%5D={}", given.name, encode(key), encode(&value)),
                None => format!("{}={}", given.name, encode(&value)),
            }
        };
        let mut all: Vec<_> = self.0.iter().filter(|given| !except.contains(&given.name)).map(text).collect();
        all.sort();
        all
    }

    fn read_keyed(&self, name: &str) -> Result<KeyedValues, Cow<'static, str>> {
        let mut values = KeyedValues::new();
        for given in self.0.iter().filter(|given| given.name == name) {
            let Some(key) = &given.key else {
                return Err(format!("needs a key in brackets: {name}[key]=value").into());
            };
            if values.iter().any(|(known, _)| known == key) {
                return Err(format!("has the key {key:?} more than once").into());
            }
            values.push((key.clone(), decode_query(given.value)?.into()));
        }
        Ok(values)
    }
}

/// Describes one parameter, as OpenAPI does.
pub(super) fn describe<P: Parameter>(name: &str, schemas: &mut Schemas, meaning: &str) -> Value {
    let mut parameter = json!({ "name": name, "in": "query", "schema": P::describe(schemas) });
    if P::KEYED {
        parameter["style"] = "deepObject".into();
        parameter["explode"] = true.into();
    }
    if P::absent().is_none() {
        parameter["required"] = true.into();
    }
    with_meaning(parameter, meaning)
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
                keyed: &[$(<$Field as $crate::http::query::Parameter>::KEYED),*],
                describe: |schemas| vec![$(
                    $crate::http::query::describe::<$Field>(stringify!($field), schemas, concat!($($meaning),*))
                ),*],
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
    const KEYED: bool = P::KEYED;
    const LISTED: bool = P::LISTED;

    fn parse(text: &str) -> Result<Self, Cow<'static, str>> {
        P::parse(text).map(Some)
    }

    fn parse_keyed(values: KeyedValues) -> Result<Self, Cow<'static, str>> {
        P::parse_keyed(values).map(Some)
    }

    fn parse_list(values: &[Cow<'_, str>]) -> Result<Self, Cow<'static, str>> {
        P::parse_list(values).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
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

        fn absent() -> Option<Self> {
            Some(Word("none".to_owned()))
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
        let read = parse("limit=1+%2B&order=+").unwrap();
        assert_eq!((read.limit, read.order), (Word("1 +".into()), Some(Word(" ".into()))));
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
            assert_eq!(parse(query).map(drop).expect_err(query).code, code);
        }
        for (query, code) in [("limit[a]=1", Code::UnknownParameter), ("limit[]=1", Code::UnknownParameter)] {
            assert_eq!(parse(query).map(drop).expect_err(query).code, code);
        }
        assert!(Query::split(Some("x"), QueryShape::NONE).is_err());
        assert!(Query::split(Some("&"), QueryShape::NONE).is_ok());
    }
    #[derive(Debug, PartialEq)]
    struct Words(Vec<(Box<str>, Box<str>)>);

    impl Describe for Words {
        fn describe(_: &mut Schemas) -> Value {
            json!({ "type": "object" })
        }
    }

    impl Parameter for Words {
        const KEYED: bool = true;

        fn parse(_: &str) -> Result<Self, Cow<'static, str>> {
            unreachable!("it has keys")
        }

        fn parse_keyed(values: KeyedValues) -> Result<Self, Cow<'static, str>> {
            Ok(Words(values))
        }
    }

    parameters! {
        /// Some with keys.
        struct Keyed {
            /// The words.
            words: Option<Words>,
        }
    }

    #[test]
    fn parameters_have_keys_in_brackets() {
        let parse = |query| Keyed::read(&Query::split(Some(query), Keyed::SHAPE)?).map(|keyed| keyed.words);
        let words = |words: &[(&str, &str)]| {
            Some(Words(words.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()))
        };
        assert_eq!(parse("").unwrap(), None);
        assert_eq!(parse("words[a]=1&words%5Bb%5D=%5D").unwrap(), words(&[("a", "1"), ("b", "]")]));
        assert_eq!(parse("words[a[b]]=").unwrap(), words(&[("a[b]", "")]));
        assert_eq!(parse("words[a+b]=c+d").unwrap(), words(&[("a b", "c d")]));
        for query in ["words=1", "words[a]=1&words[a]=2", "words[a]=1&words", "words[a]=%zz"] {
            assert_eq!(parse(query).map(drop).expect_err(query).code, Code::InvalidParameter);
        }
        for query in ["word[a]=1", "words[a=1", "wordsa]=1", "words[a]b=1", "[a]=1"] {
            assert_eq!(parse(query).map(drop).expect_err(query).code, Code::UnknownParameter);
        }
    }
}
