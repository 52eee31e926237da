//! Canonical key forms: one text per value, so that equal keys are equal bytes.
//!
//! Strict on purpose: a key that its column could not hold unchanged, or whose reading depends on a setting of the session,
//! is refused. What has one reading only (leading zeros, upper-case hex, other offsets) is brought into the form that
//! Postgres prints.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

mod number;
mod time;

/// How the values of a key column are written in a [`Key`](crate::save::Key).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyForm {
    /// `int2`
    Int2,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `uuid`: lower case with hyphens.
    Uuid,
    /// `bool`: `true` or `false`.
    Bool,
    /// `text`, or `varchar` of so many characters, under a deterministic collation: as it is.
    Text {
        /// The declared length in characters, if any.
        chars_max: Option<u32>,
    },
    /// `bytea`: `\x` and lower-case hex.
    Bytea,
    /// `date`: ISO, `YYYY-MM-DD`.
    Date,
    /// `timestamp` without zone: ISO, `YYYY-MM-DD hh:mm:ss[.ffffff]`.
    Timestamp,
    /// `timestamptz`: the same in UTC with `+00`.
    TimestampTz,
    /// An enum: one of its labels.
    Enum {
        /// The labels.
        labels: Vec<String>,
    },
    /// `numeric(precision, scale)`: exactly `scale` digits after the point.
    Numeric {
        /// All digits.
        precision: u32,
        /// Digits after the point.
        scale: u32,
    },
}

/// Why a text is no value of a key column. `Display` goes on a sentence that begins with the part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyPartError(pub String);

impl KeyForm {
    /// The canonical text of a key part that a client sent, or why its column could not hold it unchanged. Most are sent as they are.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub fn canonical<'a>(&self, part: &'a str) -> Result<Cow<'a, str>, KeyPartError> {
        match self {
            Self::Int2 => number::integer(part, i16::MIN.into(), i16::MAX.into()),
            Self::Int4 => number::integer(part, i32::MIN.into(), i32::MAX.into()),
            Self::Int8 => number::integer(part, i64::MIN, i64::MAX),
            Self::Uuid => uuid(part),
            Self::Bool => bool(part),
            Self::Text { chars_max } => text(part, *chars_max),
            Self::Bytea => bytea(part),
            Self::Date => time::date(part),
            Self::Timestamp => time::timestamp(part),
            Self::TimestampTz => time::timestamptz(part),
            Self::Enum { labels } => label(part, labels),
            Self::Numeric { precision, scale } => number::numeric(part, *precision, *scale),
        }
    }
}

impl KeyForm {
    /// A canonical part as Postgres prints its value in JSON.
    pub fn json(&self, canonical: &str) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            // The one number that JSON doesn't know.
            Self::Numeric { .. } if canonical == "NaN" => quoted(canonical),
            Self::Int2 | Self::Int4 | Self::Int8 | Self::Bool | Self::Numeric { .. } => canonical.to_owned(),
            Self::Uuid | Self::Text { .. } | Self::Bytea | Self::Date | Self::Enum { .. } => quoted(canonical),
            Self::Timestamp => quoted(&canonical.replace(' ', "T")),
            Self::TimestampTz => quoted(&canonical.replace(' ', "T").replace("+00", "+00:00")),
        }
    }
}

fn refuse<T>(expected: impl Into<String>) -> Result<T, KeyPartError> {
    Err(KeyPartError(expected.into()))
}

/// Every spelling that Postgres reads: any case, braces around all, a hyphen after any group of four digits.
fn uuid(part: &str) -> Result<Cow<'_, str>, KeyPartError> {
    match uuid_digits(part) {
        Some(digits) => {
            let mut printed = uuid::Uuid::encode_buffer();
            let printed = &*uuid::Uuid::from_bytes(digits).hyphenated().encode_lower(&mut printed);
            Ok(if printed == part { Cow::Borrowed(part) } else { Cow::Owned(printed.to_owned()) })
        }
        None => refuse("must be a UUID like 0189d0a2-7c1e-7cc3-98c4-dc0c0c07398f"),
    }
}

fn uuid_digits(part: &str) -> Option<[u8; 16]> {
    let inner = match part.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => part,
    };
    let mut rest = inner.as_bytes();
    let mut digits = [0; 16];
    for (n, byte) in digits.iter_mut().enumerate() {
        let (pair, tail) = rest.split_first_chunk::<2>()?;
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        rest = match tail.split_first() {
            Some((b'-', after)) if n % 2 == 1 && n < 15 => after,
            _ => tail,
        };
    }
    rest.is_empty().then_some(digits)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn bool(part: &str) -> Result<Cow<'_, str>, KeyPartError> {
    match part {
        "true" | "t" | "1" => Ok(Cow::Borrowed("true")),
        "false" | "f" | "0" => Ok(Cow::Borrowed("false")),
        _ => refuse("must be true or false"),
    }
}

fn text(part: &str, chars_max: Option<u32>) -> Result<Cow<'_, str>, KeyPartError> {
    if part.contains('\0') {
        return refuse("holds a NUL character, which Postgres can't store in text");
    }
    match chars_max {
        // Postgres would cut spaces beyond the limit and refuse anything else: neither is the key that was meant.
        Some(max) if part.chars().count() > max as usize => refuse(format!("must have at most {max} characters")),
        _ => Ok(Cow::Borrowed(part)),
    }
}

fn bytea(part: &str) -> Result<Cow<'_, str>, KeyPartError> {
    let hex = part.strip_prefix("\\x").filter(|hex| hex.len() % 2 == 0 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    match hex {
        Some(_) => Ok(Cow::Owned(part.to_ascii_lowercase())),
        None => refuse("must be bytes as \\x and an even number of hex digits"),
    }
}

fn label<'a>(part: &'a str, labels: &[String]) -> Result<Cow<'a, str>, KeyPartError> {
    const SHOWN: usize = 10;
    if labels.iter().any(|label| label == part) {
        return Ok(Cow::Borrowed(part));
    }
    let shown: Vec<_> = labels.iter().take(SHOWN).map(|label| format!("{label:?}")).collect();
    let more = if labels.len() > SHOWN { format!(" or {} more", labels.len() - SHOWN) } else { String::new() };
    refuse(format!("must be one of {}{more}", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

    fn canonical<'a>(form: &KeyForm, part: &'a str) -> Cow<'a, str> {
        form.canonical(part).unwrap_or_else(|error| panic!("{form:?} takes {part:?}: {error}"))
    }

    fn refuses(form: &KeyForm, parts: &[&str]) {
        for part in parts {
            assert!(form.canonical(part).is_err(), "{form:?} must refuse {part:?}");
        }
    }

    fn moods() -> KeyForm {
        KeyForm::Enum { labels: vec!["sad".to_owned(), "so so".to_owned()] }
    }

    #[test]
    fn every_spelling_of_a_uuid_is_one_key() {
        for part in [
            UUID,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
        ] {
            assert_eq!(canonical(&KeyForm::Uuid, part), UUID);
        }
        let wrong = [
            "",
            "a0eebc99",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "a-0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
        ];
        refuses(&KeyForm::Uuid, &wrong);
        refuses(&KeyForm::Uuid, &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 ", "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "\u{e9}"]);
    }

    #[test]
    fn booleans_are_true_or_false() {
        for part in ["true", "t", "1"] {
            assert_eq!(canonical(&KeyForm::Bool, part), "true");
        }
        for part in ["false", "f", "0"] {
            assert_eq!(canonical(&KeyForm::Bool, part), "false");
        }
        refuses(&KeyForm::Bool, &["", "TRUE", "yes", "2", " true"]);
    }

    #[test]
    fn text_is_counted_in_characters_and_holds_no_nul() {
        let varchar = KeyForm::Text { chars_max: Some(3) };
        assert_eq!(canonical(&varchar, "\u{1F600}\u{1F600}\u{1F600}"), "\u{1F600}\u{1F600}\u{1F600}");
        assert_eq!(canonical(&varchar, ""), "");
        refuses(&varchar, &["abcd", "abc ", "a\0"]);
        assert_eq!(canonical(&KeyForm::Text { chars_max: None }, " A b "), " A b ");
        refuses(&KeyForm::Text { chars_max: None }, &["\0"]);
    }

    #[test]
    fn bytes_are_lower_case_hex() {
        assert_eq!(canonical(&KeyForm::Bytea, "\\x"), "\\x");
        assert_eq!(canonical(&KeyForm::Bytea, "\\xDEADbeef"), "\\xdeadbeef");
        refuses(&KeyForm::Bytea, &["", "deadbeef", "\\xabc", "\\Xab", "\\xag", "\\x ab", "\\000"]);
    }

    #[test]
    fn an_enum_takes_its_labels_only() {
        assert_eq!(canonical(&moods(), "so so"), "so so");
        refuses(&moods(), &["", "Sad", "happy"]);
        let why = moods().canonical("happy").expect_err("no label").to_string();
        assert_eq!(why, r#"must be one of "sad", "so so""#);
    }

    fn any_form() -> impl Strategy<Value = KeyForm> {
        prop_oneof![
            Just(KeyForm::Int2),
            Just(KeyForm::Int4),
            Just(KeyForm::Int8),
            Just(KeyForm::Uuid),
            Just(KeyForm::Bool),
            Just(KeyForm::Text { chars_max: Some(12) }),
            Just(KeyForm::Bytea),
            Just(KeyForm::Date),
            Just(KeyForm::Timestamp),
            Just(KeyForm::TimestampTz),
            Just(moods()),
            (1u32..20, 0u32..12).prop_map(|(precision, scale)| KeyForm::Numeric { precision, scale }),
        ]
    }

    /// Texts that are nearly values of one form or another.
    fn any_part() -> impl Strategy<Value = String> {
        prop_oneof![
            "[+-]?0{0,2}[0-9]{1,20}",
            "[+-]?[0-9]{0,8}\\.?[0-9]{0,8}",
            "\\{?([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}\\}?",
            "\\\\x([0-9a-fA-F]{2}){0,4}",
            "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]",
            "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9][ T][0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,7})?(Z|[+-][01][0-9](:?[0-5][0-9])?)?",
            "-?infinity|NaN|true|f|1|sad|so so",
            ".{0,14}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn a_canonical_part_is_its_own_canonical_form(form in any_form(), part in any_part()) {
            if let Ok(once) = form.canonical(&part) {
                let again = form.canonical(&once);
                prop_assert_eq!(again.as_deref(), Ok(&*once));
            }
        }
    }
}
