//! Relative times ("now", "today", ...), wherever a value may hold one. They would mean the time of writing, which is not the
//! time of the save, and another one whenever the save is applied again.

use std::{borrow::Cow, collections::HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ValueError, ValueForm, unescaped};

/// Postgres reads these words anywhere in a date or time ("tomorrow 10:00"), in any case. `epoch`, `infinity` and `allballs`
/// mean the same whenever they are read.
const WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];
const SHORTEST: usize = WORDS[0].len();

/// Refuses a text that a time, or a range of times, would read as a relative one.
pub(super) fn refuse_in_text(text: &str) -> Result<(), ValueError> {
    match word(text) {
        Some(word) => Err(ValueError(format!("is relative ({word:?}) and would mean the time of writing: send the time itself"))),
        None => Ok(()),
    }
}

/// Refuses an array or composite that holds a relative time. Its other members may say what they like, if they come as JSON.
/// `json` is valid, without surrounding white space. Nothing makes numbers of its numbers.
pub(super) fn refuse_in_json(form: &ValueForm, json: &str) -> Result<(), ValueError> {
    if !may_hold_time(form) {
        return Ok(());
    }
    match (form, json.as_bytes().first()) {
        (ValueForm::Time, Some(b'"')) => refuse_in_text(&unescaped(json)),
        (ValueForm::Array(element), Some(b'[')) => {
            let elements: Vec<&RawValue> = parsed(json);
            elements.into_iter().map(RawValue::get).try_for_each(|json| match json.starts_with('[') {
                // Dimensions are no part of an array's type.
                true => refuse_in_json(form, json),
                false => refuse_in_json(element, json),
            })
        }
        (ValueForm::Composite(fields), Some(b'{')) => {
            // Of members with one name Postgres takes the last, too.
            let members: HashMap<Cow<'_, str>, &RawValue> = parsed(json);
            let known = fields.iter().filter_map(|(name, form)| Some((form, members.get(name.as_str())?.get())));
            known.into_iter().try_for_each(|(form, json)| refuse_in_json(form, json))
        }
        (ValueForm::Array(_) | ValueForm::Composite(_), Some(b'"')) => match word(&unescaped(json)) {
            Some(word) => Err(ValueError(format!(
                "says {word:?}, which would mean the time of writing if it is one of its times: send the time itself, and text as JSON"
            ))),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn parsed<'a, T: Deserialize<'a>>(json: &'a str) -> T {
    serde_json::from_str(json).expect("a member's value is valid JSON, and begins like this")
}

fn may_hold_time(form: &ValueForm) -> bool {
    match form {
        ValueForm::Time => true,
        ValueForm::Array(element) => may_hold_time(element),
        ValueForm::Composite(fields) => fields.iter().any(|(_, form)| may_hold_time(form)),
        ValueForm::Scalar | ValueForm::Interval | ValueForm::Json | ValueForm::Internal => false,
    }
}

fn word(text: &str) -> Option<&'static str> {
    if !holds_words(text) {
        return None;
    }
    let mut words = text.split(|letter: char| !letter.is_ascii_alphabetic());
    words.find_map(|word| WORDS.into_iter().find(|relative| word.eq_ignore_ascii_case(relative)))
}

/// Whether so many letters stand side by side: in ISO times there are none.
fn holds_words(text: &str) -> bool {
    let mut letters = 0;
    text.bytes().any(|letter| {
        letters = if letter.is_ascii_alphabetic() { letters + 1 } else { 0 };
        letters == SHORTEST
    })
}
