//! The body of a save: a JSON object, column → value, kept as the bytes that the client sent.
//!
//! Numbers keep every digit because nothing here turns them into numbers. Members are read when they are needed:
//! once at the front door (validation), once when rows are written; folding reads them only when the later body doesn't
//! cover the earlier one.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON object of columns and values, valid by construction: UTF-8, no duplicate members, no NUL characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(Box<[u8]>);

/// One column of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The column's name, unescaped.
    pub name: Cow<'a, str>,
    /// The value as JSON text, exactly as sent, without surrounding white space.
    pub value: &'a str,
}

/// Why bytes are no body. `Display` is a sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// No JSON, or bytes after it.
    #[error("is no valid JSON: {0}")]
    Json(String),
    /// JSON, but no object at the top.
    #[error("must be a JSON object, column to value, but is {0}")]
    NotAnObject(&'static str),
    /// A member twice.
    #[error("names {0:?} more than once")]
    Duplicate(String),
    /// More than [`Body::MEMBERS_MAX`].
    #[error("has {0} members, and no table has more than {max} columns", max = Body::MEMBERS_MAX)]
    Wide(usize),
    /// A value nested deeper than [`Body::NESTING_MAX`].
    #[error("nests deeper than {max} levels in {0:?}", max = Body::NESTING_MAX)]
    Deep(String),
    /// `\u0000` in a string: Postgres text can't hold it.
    #[error("holds a NUL character (\\u0000) in {0:?}, which Postgres can't store in text")]
    Nul(String),
    /// `\ud800` without its other half: no character, and no text that Postgres or UTF-8 could hold.
    #[error("holds half of a surrogate pair in {0:?}, which is no character")]
    HalfPair(String),
}

impl Body {
    /// How deep a value may nest. Postgres' own limit is its stack: past it a statement fails that is no row's fault.
    pub const NESTING_MAX: usize = 128;
    /// How many members a body may have: Postgres' limit of columns. Bounds the search for duplicates, too.
    pub const MEMBERS_MAX: usize = 1_600;

    /// Checks `bytes` and takes a compact copy of them.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BodyError> {
        Self::check(bytes).map(|_| Self(bytes.into()))
    }

    /// Checks `bytes` as [`Body::parse`] does and gives the members, in the order sent.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn check(bytes: &[u8]) -> Result<Vec<Member<'_>>, BodyError> {
        let parsed = match std::str::from_utf8(bytes) {
            Ok(text) => serde_json::from_str(text),
            // Says where.
            Err(_) => serde_json::from_slice(bytes),
        };
        let Members(members) = parsed.map_err(|error| Self::why(bytes, &error))?;
        if members.len() > Self::MEMBERS_MAX {
            return Err(BodyError::Wide(members.len()));
        }
        // Most bodies hold none, and then nothing that only an escape can say.
        let escapes = bytes.contains(&b'\\');
        for (n, member) in members.iter().enumerate() {
            if members[..n].iter().any(|earlier| earlier.name == member.name) {
                return Err(BodyError::Duplicate(member.name.to_string()));
            }
            if escapes {
                check_escapes(member)?;
            }
            if nests_too_deep(member.value) {
                return Err(BodyError::Deep(member.name.to_string()));
            }
        }
        Ok(members)
    }

    /// Takes bytes that [`Body::check`] has passed.
    pub fn from_checked(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The JSON text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a body is UTF-8")
    }

    /// The members, in the order sent.
    pub fn members(&self) -> Vec<Member<'_>> {
        let Members(members) = serde_json::from_str(self.as_str()).expect("a body is a JSON object");
        members
    }

    /// This body with every member of `later` put over it: set + set.
    #[must_use]
    pub fn overlaid(&self, later: &Self) -> Self {
        let over = later.members();
        let kept = self.members().into_iter().filter(|member| over.iter().all(|other| other.name != member.name));
        let members = kept.chain(over.iter().cloned()).map(|member| (member.name, member.value));
        Self::of_members(self.0.len() + later.0.len(), members)
    }

    /// The body of these names and JSON values, of about so many bytes. The names are distinct.
    pub fn of_members<N: AsRef<str>, V: AsRef<str>>(bytes: usize, members: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut text = Vec::with_capacity(bytes);
        text.push(b'{');
        for (name, value) in members {
            if text.len() > 1 {
                text.push(b',');
            }
            serde_json::to_writer(&mut text, name.as_ref()).expect("a name is text");
            text.push(b':');
            text.extend_from_slice(value.as_ref().as_bytes());
        }
        text.push(b'}');
        Self(text.into_boxed_slice())
    }

    /// This body without these members.
    #[must_use]
    pub fn without(&self, names: &[String]) -> Self {
        let kept = self.members().into_iter().filter(|member| names.iter().all(|name| *name != member.name));
        Self::of_members(self.0.len(), kept.map(|member| (member.name, member.value)))
    }

    fn why(bytes: &[u8], error: &serde_json::Error) -> BodyError {
        let kind = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            Some(b'-' | b'0'..=b'9') => "a number",
            _ => return BodyError::Json(error.to_string()),
        };
        match serde_json::from_slice::<&RawValue>(bytes) {
            Ok(_) => BodyError::NotAnObject(kind),
            Err(error) => BodyError::Json(error.to_string()),
        }
    }
}

/// Refuses characters that Postgres can't hold.
fn check_escapes(Member { name, value }: &Member<'_>) -> Result<(), BodyError> {
    if name.contains('\0') || holds_nul(value) {
        return Err(BodyError::Nul(name.replace('\0', "\\u0000")));
    }
    if holds_half_pair(value) { Err(BodyError::HalfPair(name.to_string())) } else { Ok(()) }
}

/// A `\u0000` escape that is one: the backslash isn't itself escaped. (A raw NUL byte is no valid JSON.)
fn holds_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| json[..at].bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 0)
}

/// An escape `\ud800` to `\udfff` that isn't a high half followed by a low one. serde_json lets it pass in raw values.
fn holds_half_pair(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at..];
        // The value is valid JSON: an escape is two bytes long, or six of which the last four are hex digits.
        rest = &escape[2..];
        if escape.as_bytes()[1] != b'u' {
            continue;
        }
        rest = &escape[6..];
        match surrogate(escape) {
            Some(true) if rest.starts_with("\\u") && surrogate(rest) == Some(false) => rest = &rest[6..],
            Some(_) => return true,
            None => {}
        }
    }
    false
}

/// Whether an escape `\uXXXX` is a high (true) or a low (false) half.
fn surrogate(escape: &str) -> Option<bool> {
    match u16::from_str_radix(&escape[2..6], 16).expect("an escape has four hex digits") {
        0xd800..=0xdbff => Some(true),
        0xdc00..=0xdfff => Some(false),
        _ => None,
    }
}

fn nests_too_deep(json: &str) -> bool {
    if !json.starts_with(['[', '{']) {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
        if depth > Body::NESTING_MAX {
            return true;
        }
    }
    false
}

struct Members<'a>(Vec<Member<'a>>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            if members.len() >= usize::from(u16::MAX) {
                return Err(A::Error::custom("more than 65,535 members"));
            }
            members.push(Member { name, value: value.get() });
        }
        Ok(Members(members))
    }
}

/// A member's name: borrowed unless it holds escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(json: &str) -> Vec<(String, String)> {
        let body = Body::parse(json.as_bytes()).expect("a body");
        body.members().into_iter().map(|member| (member.name.into_owned(), member.value.to_owned())).collect()
    }

    #[test]
    fn values_stay_as_they_were_sent() {
        let json = r#" { "a" : 1.0e-7 , "b\u0041":"x\ny","c":{"d": [1, 2]},"e":null,"f":12345678901234567890.000} "#;
        let expected = [("a", "1.0e-7"), ("bA", r#""x\ny""#), ("c", r#"{"d": [1, 2]}"#), ("e", "null"), ("f", "12345678901234567890.000")];
        assert_eq!(members(json), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_no_body_is_refused_with_the_reason() {
        let why = |json: &str| Body::parse(json.as_bytes()).expect_err("no body").to_string();
        assert!(why("[1]").contains("but is an array"));
        assert!(why("3").contains("but is a number"));
        assert!(why("null").contains("but is null"));
        assert!(why("nul").contains("no valid JSON"));
        assert!(why("{\"a\":1").contains("no valid JSON"));
        assert!(why("{\"a\":1} x").contains("no valid JSON"));
        assert!(why("").contains("no valid JSON"));
        assert!(why(r#"{"a":1,"\u0061":2}"#).contains("names \"a\" more than once"));
        assert!(why(r#"{"a":"x\u0000"}"#).contains("NUL"));
        assert!(why(r#"{"a":{"b":["\\\u0000"]}}"#).contains("NUL"));
        assert!(Body::parse(&[b'{', b'"', 0xff, b'"', b':', b'1', b'}']).is_err());
        assert!(Body::parse(br#"{"a":"\\u0000"}"#).is_ok(), "an escaped backslash and digits are no NUL");
    }

    #[test]
    fn a_body_has_at_most_as_many_members_as_a_table_has_columns() {
        let body = |count| format!("{{{}}}", (0..count).map(|n| format!(r#""c{n}":1"#)).collect::<Vec<_>>().join(","));
        assert!(Body::parse(body(Body::MEMBERS_MAX).as_bytes()).is_ok());
        assert_eq!(Body::parse(body(Body::MEMBERS_MAX + 1).as_bytes()), Err(BodyError::Wide(1_601)));
    }

    #[test]
    fn half_a_surrogate_pair_is_refused() {
        let half = |value: &str| Body::parse(format!(r#"{{"a":{value}}}"#).as_bytes()) == Err(BodyError::HalfPair("a".to_owned()));
        for value in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800x""#,
            r#""\ud800\n""#,
            r#""\ud83d\ud83d""#,
            r#"["x",{"b":"\uDFFF"}]"#,
            r#""\ude00\ud83d""#,
        ] {
            assert!(half(value), "{value}");
        }
        for value in [r#""\ud83d\ude00""#, r#""\\ud800""#, r#""\u00e9\n""#] {
            assert!(!half(value), "{value}");
        }
        assert!(Body::parse(br#"{"\ud800":1}"#).is_err(), "in a name too");
    }

    #[test]
    fn a_body_may_nest_up_to_the_limit() {
        let nested = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(Body::parse(nested(Body::NESTING_MAX).as_bytes()).is_ok());
        for depth in [Body::NESTING_MAX + 1, 100_000] {
            assert_eq!(Body::parse(nested(depth).as_bytes()), Err(BodyError::Deep("a".to_owned())));
        }
        assert!(Body::parse(format!(r#"{{"a":["\"{}"]}}"#, "[".repeat(200)).as_bytes()).is_ok(), "brackets in a string");
    }

    #[test]
    fn a_later_body_is_put_over_an_earlier_one() {
        let (one, two) = (Body::parse(br#"{"a":1,"b":2}"#).expect("a body"), Body::parse(br#"{"b":3,"c\"":4}"#).expect("a body"));
        assert_eq!(one.overlaid(&two).as_str(), r#"{"a":1,"b":3,"c\"":4}"#);
        let empty = Body::parse(b"{}").expect("a body");
        assert_eq!(empty.overlaid(&empty).as_str(), "{}");
    }
}
