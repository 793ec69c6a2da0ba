//! What a type of the wire looks like, told as JSON Schema (2020-12, the dialect of OpenAPI 3.1).
//!
//! Every type that is read or written describes itself, next to the code that reads or writes it. The
//! [document](crate::http::openapi) asks them; nothing is described anywhere else.

use std::any::type_name;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A type that says how it looks on the wire.
pub(in crate::http) trait Describe {
    /// Its schema, or a reference to it if it has a name.
    fn describe(schemas: &mut Schemas) -> Value;
}

/// How something is described, as a value of a table.
pub(in crate::http) type Describer = fn(&mut Schemas) -> Value;

/// The schemas that have names, as far as they were asked for.
#[derive(Debug, Default)]
pub(in crate::http) struct Schemas(BTreeMap<&'static str, Named>);

#[derive(Debug)]
struct Named {
    /// Whose schema it is: two types with one name would hide each other.
    owner: &'static str,
    schema: Value,
}

impl Schemas {
    /// A reference to the schema of `T`, which is described when it is first asked for.
    ///
    /// # Panics
    /// If another type has the name.
    pub(in crate::http) fn named<T>(
        &mut self,
        name: &'static str,
        describe: impl FnOnce(&mut Schemas) -> Value,
    ) -> Value {
        let owner = type_name::<T>();
        match self.0.get(name) {
            Some(named) => assert_eq!(named.owner, owner, "two types are called {name}"),
            None => {
                let schema = describe(self);
                self.0.insert(name, Named { owner, schema });
            }
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// The schema of a type with a name, for a place that says more of it than the name does. The others that it
    /// refers to keep their names.
    pub(in crate::http) fn inline(&mut self, describe: Describer) -> Value {
        let mut described = Schemas::default();
        let reference = describe(&mut described);
        let name = reference["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        let schema =
            name.and_then(|name| described.0.remove(name)).map_or(reference.clone(), |named| named.schema);
        for (name, named) in described.0 {
            self.0.entry(name).or_insert(named);
        }
        schema
    }

    /// All of them, by name.
    pub(in crate::http) fn into_value(self) -> Value {
        self.0.into_iter().map(|(name, named)| (name.to_owned(), named.schema)).collect::<Map<_, _>>().into()
    }
}

/// The schema of an object under construction.
pub(in crate::http) struct ObjectSchema {
    meaning: &'static str,
    properties: Map<String, Value>,
    required: Vec<&'static str>,
}

impl ObjectSchema {
    pub(in crate::http) fn new(meaning: &'static str) -> ObjectSchema {
        ObjectSchema { meaning, properties: Map::new(), required: Vec::new() }
    }

    /// Adds a member with its meaning.
    pub(in crate::http) fn member(
        &mut self,
        name: &'static str,
        required: bool,
        schema: Value,
        meaning: &'static str,
    ) {
        self.properties.insert(name.to_owned(), with_meaning(schema, meaning));
        if required {
            self.required.push(name);
        }
    }

    /// An object that may have other members some day: a reply.
    pub(in crate::http) fn open(self) -> Value {
        let meaning = self.meaning.trim();
        json!({
            "type": "object",
            "description": meaning,
            "properties": self.properties,
            "required": self.required,
        })
    }

    /// An object that has no other members: a request.
    pub(in crate::http) fn closed(self) -> Value {
        let mut schema = self.open();
        schema["additionalProperties"] = false.into();
        if schema["required"] == json!([]) {
            schema.as_object_mut().map(|schema| schema.remove("required"));
        }
        schema
    }
}

/// The schema with a meaning: what a doc comment says of the field, which leads with a space.
pub(in crate::http) fn with_meaning(mut schema: Value, meaning: &str) -> Value {
    schema["description"] = meaning.trim().into();
    schema
}

/// The schema with an example of its own.
pub(in crate::http) fn with_example(mut schema: Value, example: impl Into<Value>) -> Value {
    schema["examples"] = json!([example.into()]);
    schema
}

/// The schema, or null.
pub(in crate::http) fn or_null(schema: &Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

impl<T: Describe> Describe for Option<T> {
    /// What may be absent looks as it does when it is there.
    fn describe(schemas: &mut Schemas) -> Value {
        T::describe(schemas)
    }
}
