use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};

use super::{
    model::{COLUMNS, LOG, Model, NUMBERS, ROWS, Row, VERSION, adding, form, save, superseded},
    *,
};
use crate::save::{Change, Save};

/// A value of a column: text, or a number that its column may have to round or that can't be summed.
fn value(column: u16) -> BoxedStrategy<String> {
    if column < NUMBERS {
        return "\"[a-z\u{e9}]{0,3}\"".boxed();
    }
    let number = (-30_000..30_000_i64, 0..4_u32).prop_map(|(units, places)| decimal(units, places));
    prop_oneof![6 => number.clone(), 2 => number.prop_map(|number| format!("\"{number}\"")), 1 => Just("null".to_owned()), 1 => Just("\"NaN\"".to_owned())].boxed()
}

fn decimal(units: i64, places: u32) -> String {
    let (sign, units, one) = (if units < 0 { "-" } else { "" }, units.unsigned_abs(), 10_u64.pow(places));
    match places {
        0 => format!("{sign}{units}"),
        _ => format!("{sign}{}.{:0width$}", units / one, units % one, width = places as usize),
    }
}

fn members() -> impl Strategy<Value = Vec<(u16, String)>> {
    prop::sample::subsequence((0..COLUMNS).collect::<Vec<_>>(), 0..4)
        .prop_flat_map(|columns| columns.into_iter().map(|column| value(column).prop_map(move |value| (column, value))).collect::<Vec<_>>())
}

/// A body with white space and escapes that folding may shorten, and the key as a member now and then.
fn body() -> impl Strategy<Value = Body> {
    (members(), any::<[bool; 3]>()).prop_map(|(members, style)| written(&members, style))
}

fn written(members: &[(u16, String)], [spaced, escaped, keyed]: [bool; 3]) -> Body {
    let c = if escaped { "\\u0063" } else { "c" };
    let gap = if spaced { " " } else { "" };
    let mut list: Vec<_> = members.iter().map(|(column, value)| format!("{gap}\"{c}{column}\":{gap}{value}")).collect();
    list.extend(keyed.then(|| "\"key\":1".to_owned()));
    Body::parse(format!("{{{}{gap}}}", list.join(",")).as_bytes()).expect("a body")
}

/// A save that adds to one or both of the numbers, as the front door makes it, and may set other columns.
fn any_add() -> impl Strategy<Value = Save> {
    let added = prop::sample::subsequence(vec![3, 4], 1..=2);
    (0..4u8, added, prop::array::uniform2((-30_000..30_000_i64, 0..4_u32)), members(), any::<bool>()).prop_map(
        |(key, added, amounts, set, spaced)| {
            let amount = |(column, (units, places)): (u16, (i64, u32))| {
                let amount =
                    form(column).expect("a number").amount(&decimal(units % 100_000, places)).or_else(|_| Ok::<_, ()>("1.00".to_owned()));
                (column, amount.expect("an amount"))
            };
            let mut members: Vec<_> = added.iter().copied().zip(amounts).map(amount).collect();
            members.extend(set.into_iter().filter(|(column, _)| !added.contains(column)));
            adding(key, written(&members, [spaced, false, false]), added.len())
        },
    )
}

/// A save with a version, which may add.
fn any_versioned() -> impl Strategy<Value = Save> {
    let plain = (0..4u8, members()).prop_map(|(key, members)| (key, members, 0));
    let adds = (0..4u8, -9..9i64).prop_map(|(key, amount)| (key, vec![(3, amount.to_string())], 1));
    (prop_oneof![4 => plain, 1 => adds], 0..9i64).prop_map(|((key, mut members, adds), version)| {
        members.retain(|(column, _)| *column != VERSION);
        members.push((VERSION, version.to_string()));
        Save { version: Some(version), ..adding(key, written(&members, [false; 3]), adds) }
    })
}

fn any_save() -> impl Strategy<Value = Save> {
    prop_oneof![
        5 => (0..4u8, body()).prop_map(|(key, body)| save(key, ROWS, Change::Set(body))),
        5 => any_add(),
        5 => any_versioned(),
        2 => (0..4u8).prop_map(|key| save(key, ROWS, Change::Delete)),
        1 => body().prop_map(|body| save(0, LOG, Change::Append(body))),
    ]
}

fn mostly_versioned() -> impl Strategy<Value = Save> {
    prop_oneof![8 => any_versioned(), 1 => any_save()]
}

/// Saves one by one and in atomic batches, numbered with jumps between.
fn history() -> impl Strategy<Value = Vec<Accepted>> {
    history_of(any_save())
}

fn history_of(save: impl Strategy<Value = Save>) -> impl Strategy<Value = Vec<Accepted>> {
    let unit = (prop::collection::vec(save, 1..4), 1..3u64);
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
    let row = (0..3u8, "[0-9]").prop_map(|(number, text)| {
        let numbers = [["1.0050", "-2.0000"], ["null", "null"], ["\"NaN\"", "0.0500"]][usize::from(number)];
        let version = (number == 2).then(|| (VERSION, text.clone()));
        let texts = (0..NUMBERS).map(|column| (column, format!("\"old{text}\""))).chain(version);
        texts.chain((NUMBERS..).zip(numbers.map(str::to_owned))).collect::<Row>()
    });
    prop::collection::btree_map((0..4u8).prop_map(|key| Key::from_parts([key.to_string().as_str()])), row, 0..4)
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
    fn superseded_is_what_is_stale_one_by_one_and_not_hidden(rows in existing(), history in history_of(mostly_versioned()), max in 1..20u64) {
        let (mut direct, mut folded) = (Model { rows, log: Vec::new() }, Model::default());
        folded.clone_from(&direct);
        let mut alone = direct.clone();
        let stale: Vec<_> = history.iter().filter(|accepted| direct.execute(&accepted.save)).map(|accepted| accepted.sequence).collect();
        let mut backlog = Backlog::new(max, Sequence::ZERO, Arc::default());
        for accepted in &history {
            backlog.offer(accepted.clone());
        }
        while let Some(generation) = backlog.seal() {
            let within = |sequence: Sequence| sequence > generation.after && sequence <= generation.through;
            let saves: Vec<_> = history.iter().filter(|accepted| within(accepted.sequence)).cloned().collect();
            prop_assert_eq!(folded.apply(&generation), superseded(&saves, &stale));
            let one_by_one = Generation::one_by_one(generation.after, Arc::default(), saves);
            let told: Vec<_> = stale.iter().copied().filter(|&sequence| within(sequence)).collect();
            prop_assert_eq!(alone.apply(&one_by_one), told);
        }
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
        sum.bytes += 8 * fold.stale.len() as u64;
        let entry_bytes = |entry: &Entry| match &entry.guard {
            Some(guard) => entry.body.as_bytes().len() + Save::VERSION_BYTES as usize + 8 * guard.folded.len(),
            None => entry.body.as_bytes().len(),
        };
        let objects = fold.objects.iter().flat_map(|(key, object)| {
            let bodies = match &object.fold {
                Fold::Set { body, .. } | Fold::Replace { body, .. } => vec![body.as_bytes().len()],
                Fold::Delete => vec![0],
                Fold::Entries(entries) => entries.iter().map(entry_bytes).collect(),
            };
            assert!(bodies.len() <= fold.later_rounds + 1);
            bodies.into_iter().map(|bytes| key.as_bytes().len() + bytes)
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
    assert_eq!((backlog.sealed().len(), backlog.seal_through()), (0, None));
    assert!(backlog.seal().is_none(), "a batch is never cut");
    backlog.offer(accepted(3, 3, "{}", 1));
    backlog.offer(accepted(4, 4, "{}", 0));
    assert_eq!((backlog.sealed().len(), backlog.seal_through()), (1, Some(Sequence::from_u64(4))));
    assert_eq!((backlog.after(), backlog.through()), (Sequence::ZERO, Sequence::from_u64(4)));
    let generation = backlog.seal().expect("the sealed one");
    assert_eq!((generation.saves, generation.footprint.objects), (4, 4));
    assert_eq!(backlog.after(), Sequence::from_u64(4));
    assert_eq!((backlog.oldest_accepted_at(), generation.oldest_accepted_at.is_some()), (None, true));
}

/// Versioned saves of one object.
fn versioned_saves(after: u64, saves: &[(i64, &str)]) -> impl Iterator<Item = Accepted> {
    (after + 1..).zip(saves).map(|(n, &(version, json))| {
        let Accepted { sequence, save } = accepted(n, 1, json, 0);
        Accepted { sequence, save: Save { version: Some(version), ..save } }
    })
}

fn versioned(after: u64, saves: &[(i64, &str)]) -> Generation {
    Generation::fold(Sequence::from_u64(after), Arc::default(), versioned_saves(after, saves))
}

/// The bodies and saves of the entries of a generation, part by part, and the saves that were stale.
fn versions(generation: &Generation) -> (Vec<(&str, Vec<u64>)>, Vec<u64>) {
    let folds = || generation.parts.iter().map(|part| &part.collections[&ROWS]);
    let numbers = |saves: &mut dyn Iterator<Item = Sequence>| saves.map(Sequence::get).collect::<Vec<_>>();
    let entries = folds().flat_map(|fold| match &fold.objects[&Key::from_parts(["1"])].fold {
        Fold::Entries(entries) => entries,
        other => panic!("a version is not plain: {other:?}"),
    });
    let guarded = |entry: &Entry| numbers(&mut entry.guard.as_ref().expect("a version").saves());
    (entries.map(|entry| (entry.body.as_str(), guarded(entry))).collect(), numbers(&mut folds().flat_map(|fold| fold.stale.clone())))
}

const ONE: (i64, &str) = (1, r#"{"c2":1,"c0":"a"}"#);
const TWO: (i64, &str) = (2, r#"{"c2":2,"c1":"b"}"#);
const THREE: (i64, &str) = (3, r#"{"c2":3,"c0":"c","c1":"c"}"#);

#[test]
fn a_versioned_save_folds_only_into_a_higher_one_that_names_all_of_its_columns() {
    assert_eq!(versions(&versioned(0, &[ONE, TWO])), (vec![(ONE.1, vec![1]), (TWO.1, vec![2])], vec![]));
    assert_eq!(versions(&versioned(0, &[ONE, TWO, THREE])), (vec![(THREE.1, vec![1, 2, 3])], vec![]));
    assert_eq!(versions(&versioned(0, &[THREE, TWO, ONE, THREE])), (vec![(THREE.1, vec![1])], vec![2, 3, 4]));
}

#[test]
fn generations_that_are_joined_keep_what_was_stale_and_what_is_hidden() {
    let mut generation = versioned(0, &[TWO, ONE]);
    let later = versioned(2, &[ONE, THREE, TWO]);
    let before = generation.footprint + later.footprint;
    let saved = generation.absorb(later);
    assert_eq!(versions(&generation), (vec![(TWO.1, vec![1]), (THREE.1, vec![3, 4])], vec![2, 5]));
    assert_eq!((generation.footprint + saved, counted(&generation)), (before, generation.footprint));
}

#[test]
fn an_entry_that_replaces_keeps_no_saves_as_it_is_always_written() {
    let delete = Accepted { sequence: Sequence::from_u64(1), save: save(1, ROWS, Change::Delete) };
    let sets = versioned_saves(1, &[ONE, TWO, THREE]);
    let generation = Generation::fold(Sequence::ZERO, Arc::default(), std::iter::once(delete).chain(sets));
    assert_eq!(versions(&generation), (vec![(THREE.1, vec![4])], vec![]));
}

/// The entries that these saves fold into: what is added, marked `+`, and what is set.
fn entries(saves: &[(&str, usize)]) -> Vec<String> {
    let saves = (1..).zip(saves).map(|(n, &(json, adds))| {
        let body = Body::parse(json.as_bytes()).expect("a body");
        Accepted { sequence: Sequence::from_u64(n), save: adding(1, body, adds) }
    });
    let generation = Generation::fold(Sequence::ZERO, Arc::default(), saves);
    match &generation.parts[0].collections[&ROWS].objects[&Key::from_parts(["1"])].fold {
        Fold::Entries(entries) => entries.iter().map(|entry| format!("+{} {}", entry.adds.len(), entry.body.as_str())).collect(),
        Fold::Set { body, .. } => vec![body.as_str().to_owned()],
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_added_is_summed() {
    assert_eq!(entries(&[(r#"{"c3":1}"#, 1), (r#"{"c3":2.5}"#, 1)]), [r#"+1 {"c3":3.5}"#]);
    assert_eq!(entries(&[(r#"{"c4":1.005}"#, 0), (r#"{"c4":1.00}"#, 1)]), [r#"{"c4":2.01}"#]);
    assert_eq!(entries(&[(r#"{"c4":null}"#, 0), (r#"{"c4":1.00}"#, 1)]), [r#"{"c4":1.00}"#]);
    assert_eq!(entries(&[(r#"{"c4":1.00}"#, 1), (r#"{"c4":7}"#, 0)]), [r#"{"c4":7}"#]);
    assert_eq!(entries(&[(r#"{"c3":1}"#, 1), (r#"{"c0":"a"}"#, 0), (r#"{"c3":1,"c0":"b"}"#, 1)]), [r#"+1 {"c3":2,"c0":"b"}"#]);
}

#[test]
fn an_add_that_comes_after_the_row_is_made_is_an_entry_of_its_own() {
    let (name, add) = ((r#"{"c0":"a"}"#, 0), (r#"{"c3":1}"#, 1));
    assert_eq!(entries(&[name, add, add]), [r#"+0 {"c0":"a"}"#, r#"+1 {"c3":2}"#]);
    assert_eq!(entries(&[name, add, (r#"{"c4":5.00}"#, 1)]), [r#"+0 {"c0":"a"}"#, r#"+2 {"c3":1,"c4":5.00}"#]);
    assert_eq!(entries(&[name, add, (r#"{"c3":9}"#, 0)]), [r#"{"c0":"a","c3":9}"#]);
    assert_eq!(entries(&[(r#"{"c3":"NaN"}"#, 0), add, add]), [r#"+0 {"c3":"NaN"}"#, r#"+1 {"c3":2}"#]);
}

#[test]
fn an_object_that_is_only_set_takes_no_more_room_than_before_there_were_adds() {
    assert!(size_of::<Object>() <= 56, "{}", size_of::<Object>());
}

#[test]
fn a_version_takes_what_is_counted_and_an_entry_without_one_a_pointer() {
    assert_eq!(size_of::<Guard>() as u64, Save::VERSION_BYTES);
    assert!(size_of::<Entry>() <= 64, "{}", size_of::<Entry>());
}
