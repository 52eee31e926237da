//! JSON values as the text that Postgres reads.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

mod relative;

/// How a JSON value becomes text for a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueForm {
    /// A string is Postgres input syntax (unescaped), a number or a boolean its own text. Arrays and objects are refused.
    Scalar,
    /// As [`ValueForm::Scalar`], for dates, times and ranges of them; relative words ("now", "today", ...) are refused: they
    /// would mean the time of writing.
    Time,
    /// As [`ValueForm::Scalar`], for an `interval` with fields or a precision, which also say how its text is read: "5" is five years
    /// in an `interval year`.
    Interval,
    /// `json`, `jsonb`: the JSON text itself.
    Json,
    /// Arrays: JSON, read by `json_to_record` (a JSON string is Postgres syntax). With the form of the elements; an array of
    /// arrays has the same.
    Array(Box<ValueForm>),
    /// Composites: the same. With the form of each attribute.
    Composite(Vec<(String, ValueForm)>),
    /// Types that Postgres keeps for itself and reads no value of (`pg_node_tree` and the like): only null.
    Internal,
}

/// Why a JSON value can't be text for a column. `Display` goes on a sentence that begins with the column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub String);

impl ValueForm {
    /// Whether [`Self::text`] makes text of a value: the front door asks, and lets the text be made when the row is written.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn check(&self, json: &str) -> Result<(), ValueError> {
        match self {
            Self::Json => Ok(()),
            Self::Scalar | Self::Interval => single(json),
            // Only these look into it, or take nothing but null.
            Self::Time | Self::Array(_) | Self::Composite(_) | Self::Internal => self.text(json).map(drop),
        }
    }

    /// The text that Postgres reads, `None` for SQL NULL. `json` is one valid JSON value without surrounding white space.
    ///
    /// # Errors
    /// A sentence that says what the column takes.
    pub fn text<'a>(&self, json: &'a str) -> Result<Option<Cow<'a, str>>, ValueError> {
        if json == "null" {
            return Ok(None);
        }
        let text = match self {
            Self::Json => Cow::Borrowed(json),
            Self::Scalar | Self::Interval => scalar(json)?,
            Self::Time => {
                let text = scalar(json)?;
                relative::refuse_in_text(&text)?;
                text
            }
            Self::Array(_) | Self::Composite(_) => {
                relative::refuse_in_json(self, json)?;
                Cow::Borrowed(json)
            }
            Self::Internal => return Err(ValueError("has a type that Postgres reads no value of: leave it out".to_owned())),
        };
        Ok(Some(text))
    }
}

fn scalar(json: &str) -> Result<Cow<'_, str>, ValueError> {
    single(json)?;
    if json.starts_with('"') { Ok(unescaped(json)) } else { Ok(Cow::Borrowed(json)) }
}

fn single(json: &str) -> Result<(), ValueError> {
    match json.as_bytes().first() {
        Some(b'[') => Err(ValueError("takes a single value, but is an array".to_owned())),
        Some(b'{') => Err(ValueError("takes a single value, but is an object".to_owned())),
        _ => Ok(()),
    }
}

/// A JSON string without its quotes and escapes.
fn unescaped(json: &str) -> Cow<'_, str> {
    let inner = &json[1..json.len() - 1];
    if inner.contains('\\') {
        Cow::Owned(serde_json::from_str(json).expect("a member's value is valid JSON"))
    } else {
        Cow::Borrowed(inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(form: &ValueForm, json: &str) -> Option<String> {
        form.text(json).expect("a value").map(Cow::into_owned)
    }

    fn array(element: ValueForm) -> ValueForm {
        ValueForm::Array(Box::new(element))
    }

    /// `(note text, at timestamptz, list timestamptz[])`
    fn event() -> ValueForm {
        let field = |name: &str, form| (name.to_owned(), form);
        ValueForm::Composite(vec![
            field("note", ValueForm::Scalar),
            field("at", ValueForm::Time),
            field("list", array(ValueForm::Time)),
            field("json", ValueForm::Json),
        ])
    }

    #[test]
    fn scalars_keep_every_digit_and_letter() {
        for number in ["1", "-0", "12345678901234567890.000", "1.0e-7", "true", "false"] {
            assert_eq!(text(&ValueForm::Scalar, number).as_deref(), Some(number));
        }
        assert_eq!(text(&ValueForm::Scalar, r#""a\"b\\\n\u00e9\ud83d\ude00""#).as_deref(), Some("a\"b\\\n\u{e9}\u{1F600}"));
        assert_eq!(text(&ValueForm::Scalar, r#""null""#).as_deref(), Some("null"));
        assert_eq!(text(&ValueForm::Scalar, r#""""#).as_deref(), Some(""));
    }

    #[test]
    fn null_is_sql_null_in_every_form() {
        for form in [ValueForm::Scalar, ValueForm::Time, ValueForm::Json, array(ValueForm::Time), event(), ValueForm::Internal] {
            assert_eq!(form.text("null"), Ok(None));
        }
    }

    #[test]
    fn json_and_structured_values_stay_as_they_are() {
        for json in [r#""x\u0041""#, "[1, [2.50]]", r#"{"a": null}"#, "1e400"] {
            for form in [ValueForm::Json, array(ValueForm::Scalar), array(ValueForm::Time), event()] {
                assert_eq!(text(&form, json).as_deref(), Some(json));
            }
        }
    }

    #[test]
    fn a_scalar_column_refuses_arrays_and_objects() {
        assert_eq!(ValueForm::Scalar.text("[1]").expect_err("an array").to_string(), "takes a single value, but is an array");
        assert_eq!(ValueForm::Time.text("{}").expect_err("an object").to_string(), "takes a single value, but is an object");
    }

    #[test]
    fn what_is_checked_is_what_can_be_text() {
        let forms = [ValueForm::Scalar, ValueForm::Time, ValueForm::Interval, ValueForm::Json, array(ValueForm::Time), event()];
        for form in forms.into_iter().chain([ValueForm::Internal]) {
            for json in ["null", "1", "true", r#""x""#, r#""n\u006fw""#, r#"["now"]"#, r#"{"at": "today"}"#, "[]", "{}"] {
                assert_eq!(form.check(json), form.text(json).map(drop), "{form:?} {json}");
            }
        }
    }

    #[test]
    fn relative_times_are_refused_and_fixed_ones_taken() {
        for relative in [r#""now""#, r#"" NOW ""#, r#""Today""#, r#""tomorrow 10:00""#, r#""yesterday allballs""#, r#""n\u006fw""#] {
            assert!(ValueForm::Time.text(relative).is_err(), "{relative}");
        }
        for fixed in [r#""epoch""#, r#""infinity""#, r#""-infinity""#, r#""allballs""#, r#""2024-02-29 12:00:00.5+02""#, r#""5 Nov 2020""#]
        {
            assert!(ValueForm::Time.text(fixed).is_ok(), "{fixed}");
        }
        assert!(ValueForm::Scalar.text(r#""now""#).is_ok(), "text may say now");
    }

    #[test]
    fn relative_times_are_refused_inside_arrays_and_composites() {
        let refused = [
            (array(ValueForm::Time), r#"["2024-01-01", ["Now"]]"#),
            (array(ValueForm::Time), r#""{2024-01-01,today}""#),
            (event(), r#"{"note": "x", "at": "tomorrow"}"#),
            (event(), r#"{"list": [["yesterday 10:00"]]}"#),
            (event(), r#""(x,now,,)""#),
            (array(event()), r#"[{"at": "epoch"}, {"at": "n\u006fw"}]"#),
            (array(event()), r#"["(x,today,,)"]"#),
        ];
        for (form, json) in refused {
            assert!(form.text(json).is_err(), "{json}");
        }
        let taken = [
            (event(), r#"{"note": "now", "at": "2024-01-01", "json": "today", "else": "now"}"#),
            (array(event()), r#"[{"note": "do it today"}, null]"#),
            (array(ValueForm::Scalar), r#"["now", "today"]"#),
            (array(ValueForm::Time), r#"[["epoch", null], ["infinity", "2024-01-01 10:00"]]"#),
            (event(), r#""(unknown,2024-01-01,,)""#),
        ];
        for (form, json) in taken {
            assert_eq!(text(&form, json).as_deref(), Some(json));
        }
    }
}
