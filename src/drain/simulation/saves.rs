//! What is saved.

use super::world::World;
use crate::{
    backlog::model::{COLUMNS, LOG, ROWS, adding, save},
    save::{Accepted, Body, Change, LaneId, Save},
};

impl World {
    /// A group of some batches, of any lanes.
    pub(super) fn group(&self) -> Vec<Accepted> {
        let mut chance = self.chance();
        let lanes = self.lock().ledger.len() as u16;
        let mut saves = Vec::new();
        for _ in 0..chance.u8(1..4) {
            let lane = LaneId(chance.u16(..lanes));
            let batch = in_a_batch(random_batch(&mut chance));
            saves.extend(batch.into_iter().map(|save| Save { lane, ..save }));
        }
        self.numbered(saves)
    }

    pub(super) fn batch_without_poison(&self, length: usize) -> Vec<Accepted> {
        let mut chance = self.chance();
        self.numbered(in_a_batch((0..length).map(|_| append(&format!("\"{}\"", chance.u32(..)))).collect()))
    }

    pub(super) fn batch_with_poison(&self, length: usize) -> Vec<Accepted> {
        self.numbered(in_a_batch((0..length).map(|n| append(if n == 0 { "\"poison\"" } else { "1" })).collect()))
    }

    fn numbered(&self, saves: Vec<Save>) -> Vec<Accepted> {
        let first = self.lock().next();
        saves.into_iter().zip(1..).map(|(save, n)| Accepted { sequence: first.plus(n), save }).collect()
    }

    /// A save that is refused with this code if the server is told to.
    pub(super) fn named(&self, code: &str) -> Vec<Accepted> {
        self.numbered(vec![append(&format!("\"{code}\""))])
    }
}

fn in_a_batch(mut saves: Vec<Save>) -> Vec<Save> {
    for (left, save) in saves.iter_mut().rev().enumerate() {
        save.batch_left = left as u32;
    }
    saves
}

fn random_batch(chance: &mut fastrand::Rng) -> Vec<Save> {
    let length = if chance.u8(..4) == 0 { chance.usize(2..4) } else { 1 };
    let poisoned = chance.u8(..12) == 0;
    (0..length).map(|n| random_save(chance, poisoned && n == 0)).collect()
}

fn random_save(chance: &mut fastrand::Rng, poisoned: bool) -> Save {
    let key = chance.u8(..8);
    if poisoned {
        return if chance.bool() { append("\"poison\"") } else { set(key, r#"{"c2":"poison"}"#) };
    }
    match chance.u8(..10) {
        0 => save(key, ROWS, Change::Delete),
        1..3 => append(&chance.u32(..).to_string()),
        // The model's unique column: values collide now and then, and are swapped.
        3 if chance.bool() => adding(key, Body::parse(br#"{"c3":1.5}"#).expect("a body"), 1),
        3..5 => set(key, &format!(r#"{{"c1":{}}}"#, chance.u8(..24))),
        _ => set(key, &format!(r#"{{"c{}":{},"c0":0}}"#, chance.u16(2..COLUMNS), chance.u8(..))),
    }
}

fn set(key: u8, json: &str) -> Save {
    save(key, ROWS, Change::Set(Body::parse(json.as_bytes()).expect("a body")))
}

fn append(value: &str) -> Save {
    save(0, LOG, Change::Append(Body::parse(format!("{{\"c0\":{value}}}").as_bytes()).expect("a body")))
}
