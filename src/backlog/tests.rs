use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};

use super::{
    model::{COLUMNS, LOG, Model, ROWS, Row, save},
    *,
};
use crate::save::{Change, Save};

/// A body with white space and escapes that folding may shorten, and the key as a member now and then.
fn body() -> impl Strategy<Value = Body> {
    let member = (0..COLUMNS, "[a-z\u{e9}]{0,3}");
    (prop::collection::btree_map(0..COLUMNS, member.prop_map(|(_, text)| text), 0..4), any::<[bool; 3]>()).prop_map(
        |(members, [spaced, escaped, keyed])| {
            let c = if escaped { "\\u0063" } else { "c" };
            let gap = if spaced { " " } else { "" };
            let mut list: Vec<_> = members.iter().map(|(column, text)| format!("{gap}\"{c}{column}\":{gap}\"{text}\"")).collect();
            list.extend(keyed.then(|| "\"key\":1".to_owned()));
            Body::parse(format!("{{{}{gap}}}", list.join(",")).as_bytes()).expect("a body")
        },
    )
}

fn any_save() -> impl Strategy<Value = Save> {
    prop_oneof![
        5 => (0..4u8, body()).prop_map(|(key, body)| save(key, ROWS, Change::Set(body))),
        2 => (0..4u8).prop_map(|key| save(key, ROWS, Change::Delete)),
        1 => body().prop_map(|body| save(0, LOG, Change::Append(body))),
    ]
}

/// Saves one by one and in atomic batches, numbered with jumps between.
fn history() -> impl Strategy<Value = Vec<Accepted>> {
    let unit = (prop::collection::vec(any_save(), 1..4), 1..3u64);
    prop::collection::vec(unit, 0..24).prop_map(|units| {
        let (mut accepted, mut sequence) = (Vec::new(), Sequence::ZERO);
        for (unit, jump) in units {
            sequence = sequence.plus(jump - 1);
            let last = unit.len() as u32 - 1;
            for (n, mut save) in unit.into_iter().enumerate() {
                sequence = sequence.plus(1);
                save.batch_left = last - n as u32;
                accepted.push(Accepted { sequence, save });
            }
        }
        accepted
    })
}

fn existing() -> impl Strategy<Value = BTreeMap<Key, Row>> {
    prop::collection::btree_map(0..4u8, prop::collection::btree_map(0..COLUMNS, "\"old[0-9]\"", COLUMNS as usize), 0..4)
        .prop_map(|rows| rows.into_iter().map(|(key, row)| (Key::from_parts([key.to_string().as_str()]), row)).collect())
}

proptest! {
    #[test]
    fn folding_never_shows(rows in existing(), history in history(), max in 1..6u64, seals in prop::collection::vec(any::<Index>(), 0..5)) {
        let (mut direct, mut folded) = (Model { rows, log: Vec::new() }, Model::default());
        folded.clone_from(&direct);
        let seals: Vec<_> = seals.iter().map(|seal| seal.index(history.len() + 1)).collect();
        let mut backlog = Backlog::new(max, Sequence::ZERO, Arc::default());
        let mut generations = Vec::new();
        for (n, accepted) in history.iter().enumerate() {
            direct.execute(&accepted.save);
            backlog.offer(accepted.clone());
            if seals.contains(&n) {
                let through = backlog.seal_through();
                let sealed = backlog.seal();
                prop_assert_eq!(sealed.as_ref().map(|generation| generation.through), through);
                generations.extend(sealed);
            }
        }
        generations.extend(std::iter::from_fn(|| backlog.seal()));
        prop_assert!(backlog.is_empty() && backlog.objects() == 0 && backlog.bytes() == 0);

        let mut position = Sequence::ZERO;
        for generation in &generations {
            prop_assert_eq!(generation.after, position);
            position = generation.through;
            let cut = history.iter().find(|accepted| accepted.sequence == position);
            prop_assert_eq!(cut.map(|accepted| accepted.save.batch_left), Some(0), "a generation ends inside a batch");
            folded.apply(generation);
            let part = history.iter().filter(|accepted| accepted.sequence > generation.after && accepted.sequence <= position);
            let rebuilt = Generation::fold(generation.after, Arc::default(), part.cloned());
            prop_assert_eq!((rebuilt.saves, rebuilt.footprint), (generation.saves, generation.footprint));
        }
        prop_assert_eq!(position, backlog.through());
        prop_assert_eq!(generations.iter().map(|generation| generation.saves).sum::<u64>(), history.len() as u64);
        prop_assert_eq!(folded, direct);
    }

    #[test]
    fn footprints_are_what_was_reserved_and_not_given_back(history in history(), max in 1..6u64, seals in prop::collection::vec(any::<bool>(), 72)) {
        let mut backlog = Backlog::new(max, Sequence::ZERO, Arc::default());
        let (mut reserved, mut taken) = (Footprint::default(), Footprint::default());
        for (accepted, seal) in history.into_iter().zip(seals) {
            reserved += Footprint { bytes: accepted.save.bytes(), objects: 1 };
            let saved = backlog.offer(accepted);
            reserved = Footprint { bytes: reserved.bytes - saved.bytes, objects: reserved.objects - saved.objects };
            if let Some(generation) = seal.then(|| backlog.seal()).flatten() {
                taken += generation.footprint;
                let by_collection = generation.by_collection().fold(Footprint::default(), |sum, (_, part)| sum + part);
                prop_assert_eq!(by_collection, generation.footprint);
                prop_assert_eq!(counted(&generation), generation.footprint);
            }
            let live = Footprint { bytes: backlog.bytes(), objects: backlog.objects() };
            prop_assert_eq!(taken + live, reserved);
            prop_assert_eq!(backlog.by_collection().into_values().fold(Footprint::default(), Add::add), live);
        }
    }
}

/// The footprint, counted from what a generation holds.
fn counted(generation: &Generation) -> Footprint {
    let mut sum = Footprint::default();
    for fold in generation.parts.iter().flat_map(|part| part.collections.values()) {
        let rows = fold.appended.iter().map(|row| row.body.as_bytes().len());
        let objects = fold.objects.iter().map(|(key, object)| {
            key.as_bytes().len()
                + match &object.fold {
                    Fold::Set { body, .. } | Fold::Replace { body, .. } => body.as_bytes().len(),
                    Fold::Delete => 0,
                }
        });
        for bytes in rows.chain(objects) {
            sum += Footprint { bytes: bytes as u64 + Save::OVERHEAD_BYTES, objects: 1 };
        }
    }
    sum
}

fn accepted(sequence: u64, key: u8, json: &str, batch_left: u32) -> Accepted {
    let change = Change::Set(Body::parse(json.as_bytes()).expect("a body"));
    let save = Save { batch_left, ..save(key, ROWS, change) };
    Accepted { sequence: Sequence::from_u64(sequence), save }
}

#[test]
fn a_later_body_with_all_columns_is_taken_as_it_is() {
    let generation =
        Generation::fold(Sequence::ZERO, Arc::default(), [accepted(1, 1, r#"{"c1":1}"#, 0), accepted(2, 1, r#"{ "c1" : 2 , "c2":3}"#, 0)]);
    let object = &generation.parts[0].collections[&ROWS].objects[&Key::from_parts(["1"])];
    assert_eq!((object.last, object.saves), (Sequence::from_u64(2), 2));
    match &object.fold {
        Fold::Set { columns, body } => {
            assert_eq!(body.as_str(), r#"{ "c1" : 2 , "c2":3}"#);
            assert_eq!(columns.iter().collect::<Vec<_>>(), [1, 2]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_generation_waits_for_the_end_of_its_batch() {
    let mut backlog = Backlog::new(2, Sequence::ZERO, Arc::default());
    backlog.offer(accepted(1, 1, "{}", 0));
    backlog.offer(accepted(2, 2, "{}", 2));
    assert_eq!((backlog.sealed(), backlog.seal_through()), (0, None));
    assert!(backlog.seal().is_none(), "a batch is never cut");
    backlog.offer(accepted(3, 3, "{}", 1));
    backlog.offer(accepted(4, 4, "{}", 0));
    assert_eq!((backlog.sealed(), backlog.seal_through()), (1, Some(Sequence::from_u64(4))));
    assert_eq!((backlog.after(), backlog.through()), (Sequence::ZERO, Sequence::from_u64(4)));
    let generation = backlog.seal().expect("the sealed one");
    assert_eq!((generation.saves, generation.footprint.objects), (4, 4));
    assert_eq!(backlog.after(), Sequence::from_u64(4));
    assert_eq!((backlog.oldest_accepted_at(), generation.oldest_accepted_at.is_some()), (None, true));
}
