//! The loads that speed is measured with.

use super::Load;
use crate::proto;

/// The table of the loads.
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
        }
    }

    /// The `n`th save: uniform over the objects (7919 is coprime to their number), each time with another score.
    pub(super) fn save(self, n: u64) -> proto::Save {
        save(n * 7_919 % self.objects(), n)
    }
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

/// A save of one object.
pub(super) fn save(key: u64, score: u64) -> proto::Save {
    proto::Save {
        collection: COLLECTION.to_owned(),
        key: vec![key.to_string()],
        change: Some(proto::save::Change::Json(body(score).into())),
        add: Vec::new(),
    }
}

/// Bytes of the key and the body of such a save.
pub(super) fn bytes(key: u64) -> u64 {
    u64::from(key.checked_ilog10().map_or(1, |digits| digits + 1)) + BODY_BYTES as u64
}

fn body(score: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(BODY_BYTES);
    body.extend_from_slice(HEAD.as_bytes());
    body.resize(BODY_BYTES - TAIL.len() - SCORE_DIGITS - 1, b'x');
    body.extend_from_slice(TAIL.as_bytes());
    let mut digits = [b'0'; SCORE_DIGITS];
    let mut rest = SCORE_MIN + score % SCORE_MIN;
    for digit in digits.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    body.extend_from_slice(&digits);
    body.push(b'}');
    body
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
        assert_eq!(value["score"], SCORE_MIN + 77);
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
        let keys: std::collections::BTreeSet<_> = (0..1_000).map(|n| Load::Hot.save(n).key).collect();
        assert_eq!(keys.len(), 1_000);
    }
}
