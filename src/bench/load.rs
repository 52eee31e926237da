//! The loads that speed is measured with.

use std::time::SystemTime;

use super::Load;
use crate::proto;

/// The table of the loads. The columns are those of a body, after the key.
pub(super) const SCHEMA: &str = "
    create table players (
        id bigint primary key,
        name text not null,
        level integer not null,
        score bigint not null,
        seen_at timestamptz not null,
        inventory jsonb not null
    )";

pub(super) const COLLECTION: &str = "players";

/// What every body says.
pub(super) const NAME: &str = "player of the reference load";
pub(super) const LEVEL: i32 = 42;
pub(super) const SEEN_AT: &str = "2026-01-02T03:04:05.678Z";

const BODY_BYTES: usize = 300;
/// Before the digits of the score, ten of them, that differ from save to save.
const HEAD: &str = r#"{"name":"player of the reference load","level":42,"seen_at":"2026-01-02T03:04:05.678Z","inventory":""#;
const TAIL: &str = r#"","score":"#;
const SCORE_DIGITS: usize = 10;
const SCORE_MIN: u64 = 1_000_000_000;

impl Load {
    pub(super) fn objects(self) -> u64 {
        match self {
            Self::Reference => 50_000,
            Self::Hot => 1_000,
            Self::Objects(objects) => objects,
        }
    }

    /// The `n`th save: uniform over the objects, each time with another score.
    pub(super) fn save(self, n: u64) -> proto::Save {
        save(self.key(n), n)
    }

    /// The object of the `n`th save: every one of them in `objects` saves in a row.
    pub(super) fn key(self, n: u64) -> u64 {
        let objects = self.objects();
        n * stride(objects) % objects
    }

    /// The save that one of many callers begins with: they start evenly spread over the objects, as if each had players of its own.
    pub(super) fn first(self, caller: usize, callers: usize) -> u64 {
        self.objects() * caller as u64 / callers as u64
    }

    /// Bytes of key and body of a save, on average.
    pub(super) fn save_bytes(self) -> f64 {
        save_bytes(self.objects())
    }
}

/// A prime that doesn't divide the number of objects: no number below 62 million is a multiple of both.
fn stride(objects: u64) -> u64 {
    if objects.is_multiple_of(7_919) { 7_927 } else { 7_919 }
}

/// Bytes of key and body of a save, on average over as many objects, numbered from 0.
pub(super) fn save_bytes(objects: u64) -> f64 {
    (0..objects).map(bytes).sum::<u64>() as f64 / objects as f64
}

/// What a poisoned save names and Postgres won't take, and what it takes of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Poison {
    /// A number that its column can't hold.
    Row,
    /// A reference to a row that isn't there.
    Between,
}

impl Poison {
    /// One save in so many.
    pub(super) const EVERY: u64 = 1_000;

    pub(super) fn changes(self) -> &'static str {
        match self {
            Self::Row => "",
            Self::Between => "create table guilds (id bigint primary key); alter table players add guild bigint references guilds",
        }
    }

    /// A save of this object that is refused.
    pub(super) fn save(self, key: u64) -> proto::Save {
        let json = match self {
            Self::Row => r#"{"name":"x","level":9999999999,"score":1,"seen_at":"2026-01-02T03:04:05Z","inventory":""}"#,
            Self::Between => r#"{"name":"x","level":1,"score":1,"seen_at":"2026-01-02T03:04:05Z","inventory":"","guild":1}"#,
        };
        proto::Save { change: Some(proto::save::Change::Json(json.into())), ..save(key, 0) }
    }
}

/// The `n`th save, of this object.
pub(super) fn save(key: u64, n: u64) -> proto::Save {
    proto::Save {
        collection: COLLECTION.to_owned(),
        key: vec![key.to_string()],
        change: Some(proto::save::Change::Json(body(n).into())),
        add: Vec::new(),
    }
}

/// The score that the body of a save says.
pub(super) fn score(n: u64) -> u64 {
    SCORE_MIN + n % SCORE_MIN
}

/// As applications hold it.
pub(super) fn seen_at() -> SystemTime {
    SEEN_AT.parse::<jiff::Timestamp>().expect("a timestamp").into()
}

/// The JSON text of the inventory that every body says.
pub(super) fn inventory() -> String {
    format!("\"{}\"", "x".repeat(BODY_BYTES - HEAD.len() - TAIL.len() - SCORE_DIGITS - 1))
}

/// Bytes of the key and the body of such a save.
pub(super) fn bytes(key: u64) -> u64 {
    u64::from(key.checked_ilog10().map_or(1, |digits| digits + 1)) + BODY_BYTES as u64
}

/// What is saved of an object: 300 bytes of JSON.
pub(super) fn body(n: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(BODY_BYTES);
    body.extend_from_slice(HEAD.as_bytes());
    body.resize(BODY_BYTES - TAIL.len() - SCORE_DIGITS - 1, b'x');
    body.extend_from_slice(TAIL.as_bytes());
    let mut digits = [b'0'; SCORE_DIGITS];
    let mut rest = score(n);
    for digit in digits.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    body.extend_from_slice(&digits);
    body.push(b'}');
    body
}

/// A query for how many rows are as the `n`th save, of this object, says: 1 or 0.
#[cfg(test)]
pub(super) fn matches(key: u64, n: u64) -> String {
    let body = String::from_utf8(body(n)).expect("JSON is text");
    format!(
        "select count(*) from players p, jsonb_populate_record(null::players, '{body}') r where p.id = {key} \
         and (p.name, p.level, p.score, p.seen_at, p.inventory) = (r.name, r.level, r.score, r.seen_at, r.inventory)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_300_bytes_of_json_with_five_columns() {
        let body = body(77);
        assert_eq!(body.len(), BODY_BYTES);
        let value: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(value.as_object().expect("an object").len(), 5);
        assert_eq!((&value["name"], &value["level"], &value["score"]), (&NAME.into(), &LEVEL.into(), &score(77).into()));
        assert_eq!((&value["seen_at"], value["inventory"].to_string()), (&SEEN_AT.into(), inventory()));
    }

    #[test]
    fn a_save_has_as_many_bytes_as_it_says() {
        for key in [0, 9, 10, 12_345] {
            let save = save(key, 1);
            let Some(proto::save::Change::Json(json)) = save.change else { panic!("a set") };
            assert_eq!(bytes(key), (save.key.concat().len() + json.len()) as u64, "{key}");
        }
    }

    #[test]
    fn the_loads_reach_every_object() {
        for load in [Load::Hot, Load::Objects(7_919), Load::Objects(10_000)] {
            let keys: std::collections::BTreeSet<_> = (0..load.objects()).map(|n| load.save(n).key).collect();
            assert_eq!(keys.len() as u64, load.objects());
        }
    }

    #[test]
    fn callers_begin_apart() {
        let first: Vec<_> = (0..4).map(|caller| Load::Hot.first(caller, 4)).collect();
        assert_eq!(first, [0, 250, 500, 750]);
    }
}
