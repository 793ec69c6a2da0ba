//! The document as a page: rendered here, complete in itself, without scripts.

use std::fmt::{self, Write};

use hyper::HeaderMap;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use serde_json::Value;

use super::example;

const STYLE: &str = include_str!("docs.css");

/// Nothing is loaded from anywhere, nothing runs, nobody frames the page; the only style is the page's own.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The address in the examples: the default of the settings.
const EXAMPLE_ORIGIN: &str = "http://127.0.0.1:3000";

/// Sets the headers that keep the page to itself.
pub(in crate::http) fn protect(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// The page of a document.
pub(in crate::http) fn page(document: &Value) -> String {
    let mut out = String::new();
    Page { document, out: &mut out }.write().expect("memory takes what is written to it");
    out
}

struct Page<'a> {
    document: &'a Value,
    out: &'a mut String,
}

impl Page<'_> {
    fn write(&mut self) -> fmt::Result {
        let info = &self.document["info"];
        let (title, version) = (Escaped(text(&info["title"])), Escaped(text(&info["version"])));
        write!(
            self.out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<title>{title} {version}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{title} <small>{version}</small></h1>\n"
        )?;
        for paragraph in text(&info["description"]).split("\n\n") {
            writeln!(self.out, "<p>{}</p>", Marked(paragraph))?;
        }
        writeln!(self.out, "<p>As data: <a href=\"/openapi.json\">openapi.json</a></p></header>")?;
        self.contents()?;
        self.out.push_str("<main>\n");
        for tag in items(&self.document["tags"]) {
            let (name, meaning) = (text(&tag["name"]), text(&tag["description"]));
            writeln!(self.out, "<h2>{}</h2>\n<p>{}</p>", Escaped(name), Marked(meaning))?;
            self.for_each_operation(name, |page, path, method, operation| {
                page.operation(path, method, operation)
            })?;
        }
        self.schemas()?;
        self.problems()?;
        self.out.push_str("</main>\n</body>\n</html>\n");
        Ok(())
    }

    fn contents(&mut self) -> fmt::Result {
        self.out.push_str("<nav>\n");
        for tag in items(&self.document["tags"]) {
            let name = text(&tag["name"]);
            writeln!(self.out, "<h2>{}</h2>\n<ul>", Escaped(name))?;
            self.for_each_operation(name, |page, path, method, operation| {
                let (id, method) = (Escaped(text(&operation["operationId"])), method.to_ascii_uppercase());
                writeln!(page.out, "<li><a href=\"#{id}\"><b>{method}</b> {}</a></li>", Escaped(path))
            })?;
            self.out.push_str("</ul>\n");
        }
        self.out.push_str("<ul><li><a href=\"#schemas\">Schemas</a></li>");
        self.out.push_str("<li><a href=\"#problems\">Problems</a></li></ul>\n</nav>\n");
        Ok(())
    }

    fn for_each_operation(
        &mut self,
        tag: &str,
        mut write: impl FnMut(&mut Self, &str, &str, &Value) -> fmt::Result,
    ) -> fmt::Result {
        let document = self.document;
        for (path, methods) in members(&document["paths"]) {
            for (method, operation) in members(methods).filter(|(name, _)| *name != "parameters") {
                if operation["tags"][0] == tag {
                    write(self, path, method, operation)?;
                }
            }
        }
        Ok(())
    }

    fn operation(&mut self, path: &str, method: &str, operation: &Value) -> fmt::Result {
        let id = Escaped(text(&operation["operationId"]));
        let verb = method.to_ascii_uppercase();
        let summary = Escaped(text(&operation["summary"]));
        writeln!(
            self.out,
            "<section id=\"{id}\">\n<h3><b>{verb}</b> <code>{}</code></h3>\n<p>{summary}. {}</p>",
            Escaped(path),
            Marked(text(&operation["description"])),
        )?;
        let document = self.document;
        let parameters: Vec<&Value> = items(&document["paths"][path]["parameters"])
            .chain(items(&operation["parameters"]))
            .map(|parameter| resolved(document, parameter))
            .collect();
        self.out.push_str("<table>\n<tr><th>parameter<th>in<th>type<th>meaning</tr>\n");
        for parameter in &parameters {
            let name = Escaped(text(&parameter["name"]));
            let place = Escaped(text(&parameter["in"]));
            write!(self.out, "<tr><td><code>{name}</code><td>{place}<td>")?;
            self.schema_in_brief(&parameter["schema"])?;
            writeln!(self.out, "<td>{}</tr>", Marked(text(&parameter["description"])))?;
        }
        self.out.push_str("</table>\n");
        let bodies = &operation["requestBody"]["content"];
        for (media_type, content) in members(bodies) {
            write!(self.out, "<p>Body (<code>{}</code>): ", Escaped(media_type))?;
            self.schema_in_brief(&content["schema"])?;
            writeln!(self.out, ". {}</p>", Marked(text(&operation["requestBody"]["description"])))?;
        }
        // What may be left away is: then there is nothing in it to be said.
        let body = members(bodies).next().filter(|_| operation["requestBody"]["required"] == true);
        self.out.push_str("<table>\n<tr><th>status<th>body<th>meaning</tr>\n");
        for (status, response) in members(&operation["responses"]) {
            write!(self.out, "<tr><td>{}<td>", Escaped(status))?;
            let bodies = &response["content"];
            for (index, (media_type, content)) in members(bodies).enumerate() {
                if index > 0 {
                    self.out.push_str("<br>");
                }
                if members(bodies).nth(1).is_some() {
                    write!(self.out, "<code>{}</code>: ", Escaped(media_type))?;
                }
                self.schema_in_brief(&content["schema"])?;
            }
            writeln!(self.out, "<td>{}</tr>", Marked(text(&response["description"])))?;
        }
        self.out.push_str("</table>\n");
        let id = text(&operation["operationId"]);
        self.curl(id, path, &verb, &parameters, body.map(|(_, content)| &content["schema"]))?;
        self.out.push_str("</section>\n");
        Ok(())
    }

    fn curl(
        &mut self,
        id: &str,
        path: &str,
        verb: &str,
        parameters: &[&Value],
        body: Option<&Value>,
    ) -> fmt::Result {
        let mut address = path.to_owned();
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "path") {
            let example = example(self.document, &parameter["schema"]);
            address = address.replace(&format!("{{{}}}", text(&parameter["name"])), text(&example));
        }
        let mut line = match verb {
            "GET" => format!("curl {EXAMPLE_ORIGIN}{address}"),
            _ => format!("curl -X {verb} {EXAMPLE_ORIGIN}{address}"),
        };
        if parameters.iter().any(|parameter| parameter["name"] == "Idempotency-Key") {
            // Another request needs another key.
            write!(line, " -H 'Idempotency-Key: {id}'")?;
        }
        if let Some(schema) = body {
            let body = example(self.document, schema);
            write!(line, " \\\n  -H 'Content-Type: application/json' -d '{body}'")?;
        }
        writeln!(self.out, "<pre>{}</pre>", Escaped(&line))
    }

    fn schemas(&mut self) -> fmt::Result {
        self.out.push_str("<h2 id=\"schemas\">Schemas</h2>\n");
        for (name, schema) in members(&self.document["components"]["schemas"]) {
            let (name, meaning) = (Escaped(name), Marked(text(&schema["description"])));
            writeln!(self.out, "<section id=\"schema-{name}\">\n<h3>{name}</h3>\n<p>{meaning}</p>")?;
            if schema["properties"].is_object() {
                self.fields(schema)?;
            } else if items(&schema["oneOf"]).any(|choice| choice["properties"].is_object()) {
                for choice in items(&schema["oneOf"]) {
                    writeln!(self.out, "<h4>{}</h4>", Escaped(text(&choice["properties"]["type"]["const"])))?;
                    self.fields(choice)?;
                }
            } else {
                self.out.push_str("<p>");
                self.schema_in_brief(schema)?;
                self.out.push_str("</p>\n");
            }
            self.out.push_str("</section>\n");
        }
        Ok(())
    }

    /// The fields of an object.
    fn fields(&mut self, schema: &Value) -> fmt::Result {
        let required: Vec<&str> = items(&schema["required"]).map(text).collect();
        self.out.push_str("<table>\n<tr><th>field<th>type<th>meaning</tr>\n");
        for (field, schema) in members(&schema["properties"]) {
            let mark = if required.contains(&field) { "" } else { "?" };
            write!(self.out, "<tr><td><code>{}{mark}</code><td>", Escaped(field))?;
            self.schema_in_brief(schema)?;
            writeln!(self.out, "<td>{}</tr>", Marked(text(&schema["description"])))?;
        }
        self.out.push_str("</table>\n");
        Ok(())
    }

    fn problems(&mut self) -> fmt::Result {
        self.out
            .push_str("<h2 id=\"problems\">Problems</h2>\n<table>\n<tr><th>status<th>code<th>meaning</tr>\n");
        for code in crate::http::problem::Code::ALL {
            let (slug, status) = (code.slug(), code.status().as_u16());
            let (title, meaning) = (Escaped(code.title()), Marked(code.meaning()));
            writeln!(
                self.out,
                "<tr id=\"problem-{slug}\"><td>{status}<td><a href=\"/problems/{slug}\">{slug}</a><td><b>{title}.</b> \
                 {meaning}</tr>"
            )?;
        }
        self.out.push_str("</table>\n");
        Ok(())
    }

    /// A schema in one line: its name, or its type, bounds and choices.
    fn schema_in_brief(&mut self, schema: &Value) -> fmt::Result {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            let name = Escaped(name);
            return write!(self.out, "<a href=\"#schema-{name}\">{name}</a>");
        }
        // Of a problem, whose other part only says which codes there are.
        if let Some(first) = schema.pointer("/allOf/0") {
            return self.schema_in_brief(first);
        }
        let mut separator = "";
        for kind in schema["type"].as_str().into_iter().chain(items(&schema["type"]).map(text)) {
            let or = if separator.is_empty() { "" } else { " or " };
            write!(self.out, "{or}{}", Escaped(kind))?;
            separator = ", ";
        }
        if schema["items"].is_object() {
            self.out.push_str(" of ");
            self.schema_in_brief(&schema["items"])?;
        }
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let values = items(&schema["enum"]).chain(schema.get("const"));
        let values: Vec<String> = values.map(shown).collect();
        if !values.is_empty() {
            let colon = if separator.is_empty() { "" } else { ": " };
            write!(self.out, "{colon}<code>{}</code>", Escaped(&values.join(" ")))?;
            separator = ", ";
        }
        for name in BOUNDS {
            if let Some(value) = schema.get(name) {
                write!(self.out, "{separator}{name} <code>{}</code>", Escaped(&shown(value)))?;
                separator = ", ";
            }
        }
        for choice in items(&schema["anyOf"]).chain(items(&schema["oneOf"])) {
            self.out.push_str(separator);
            self.schema_in_brief(choice)?;
            separator = " or ";
        }
        Ok(())
    }
}

/// What the brief description of a schema tells besides its type and its choices.
const BOUNDS: [&str; 9] = [
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "default",
];

/// What a reference stands for; anything else stands for itself.
fn resolved<'v>(document: &'v Value, value: &'v Value) -> &'v Value {
    value["$ref"].as_str().and_then(|path| document.pointer(&path[1..])).unwrap_or(value)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// A text in which nothing is markup.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            other => f.write_char(other),
        })
    }
}

/// A text with as much of Markdown as the document has: `code`, and lists with one line an item.
struct Marked<'a>(&'a str);

impl fmt::Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.0.split("\n- ").enumerate() {
            if index > 0 {
                f.write_str("<br>")?;
            }
            for (index, part) in line.trim_start_matches("- ").split('`').enumerate() {
                match index % 2 {
                    0 => write!(f, "{}", Escaped(part))?,
                    _ => write!(f, "<code>{}</code>", Escaped(part))?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_everything_and_loads_nothing() {
        let document = super::super::document();
        let page = page(&document);
        for (path, _) in members(&document["paths"]) {
            assert!(page.contains(&format!("<code>{path}</code></h3>")), "{path}");
        }
        for (name, _) in members(&document["components"]["schemas"]) {
            assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
        }
        for loading in ["<script", "src=", "<link", "@import", "url(", "https:"] {
            assert!(!page.contains(loading), "{loading}");
        }
        assert!(page.contains("-d &#39;{&quot;amount&quot;:&quot;12.34&quot;}&#39;"), "{page}");
        // Links inside the page lead somewhere.
        for target in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(page.contains(&format!("id=\"{target}\"")), "{target}");
        }
    }

    /// Choices and constants were left out: of a transfer the page showed nothing, of an item of a batch no field, and of
    /// an amount not that it may be all.
    #[test]
    fn choices_and_constants_are_shown() {
        let document = super::super::document();
        let page = page(&document);
        let shown = |from: &str, expected: &str| {
            let section = page.split(&format!("id=\"{from}\"")).nth(1).expect(from);
            let section = section.split("</section>").next().expect(from);
            assert!(section.contains(expected), "{expected} is not in {section}");
        };
        let link = |name: &str| format!("<a href=\"#schema-{name}\">{name}</a>");
        shown("schema-Transfer", &format!("{} or {}", link("PairTransfer"), link("LegTransfer")));
        shown("schema-AmountOrAll", &format!("{} or <code>all</code>", link("Amount")));
        shown("schema-BatchItem", "<code>type</code><td><code>capture</code>");
        shown("schema-BatchItem", "<h4>deposit</h4>");
        shown("schema-BatchItem", "<code>legs</code>");
        shown("schema-Problem", "<code>available?</code><td>string or number<td>");
        shown("listEvents", "string, <code>now</code> or pattern");
        shown("schema-ItemResult", &format!("{}<td>Why it was refused: <code>", link("Problem")));
        shown("readStatement", "<br><code>text/csv; charset=utf-8; header=present</code>: string<br>");
    }

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(
            Marked("- `<a>` & \"b\"\n- c").to_string(),
            "<code>&lt;a&gt;</code> &amp; &quot;b&quot;<br>c"
        );
    }
}
