//! Draws a run from its seed: settings, and operations that meet each other as often as possible. Keys and values are few, and
//! much is drawn from patterns: swaps and hand-overs of unique values, re-creations, families of parents and children.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::{
    operations::{Assignment, Change, Operation, Step},
    schema::{Column, Island, TABLES, Table, named},
};

/// What a run may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Knobs {
    /// Foreign keys act on other rows: cascade, set null, set default.
    pub(super) acting: bool,
    /// Atomic batches.
    pub(super) batches: bool,
    /// Saves add to columns.
    pub(super) adds: bool,
    /// In every other run a lane for each island.
    pub(super) lanes: bool,
    /// Values that a column refuses whatever other rows hold.
    pub(super) unfit: bool,
}

type Knob = fn(&mut Knobs) -> &mut bool;

impl Knobs {
    const NAMES: [(&str, Knob); 5] = [
        ("acting", |knobs| &mut knobs.acting),
        ("batches", |knobs| &mut knobs.batches),
        ("adds", |knobs| &mut knobs.adds),
        ("lanes", |knobs| &mut knobs.lanes),
        ("unfit", |knobs| &mut knobs.unfit),
    ];

    /// Those named, separated by commas, and no others.
    pub(super) fn named(names: &str) -> Self {
        let mut knobs = Self::default();
        for name in names.split(',').filter(|name| !name.is_empty()) {
            let (_, knob) = Self::NAMES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name:?} is no knob"));
            *knob(&mut knobs) = true;
        }
        knobs
    }

    /// As [`Self::named`] takes them.
    pub(super) fn names(mut self) -> String {
        let on = Self::NAMES.iter().filter(|(_, knob)| *knob(&mut self)).map(|(name, _)| *name);
        on.collect::<Vec<_>>().join(",")
    }
}

/// A run: all of it follows from seed and knobs. (What is folded with what also depends on time, where the window is short.)
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// A lane for each island, else one for all.
    pub(super) lanes: bool,
    pub(super) window: &'static str,
    pub(super) generation_objects_max: u64,
    /// Postgres is restarted and the daemon killed: one run of ten.
    pub(super) disturbed: bool,
    pub(super) steps: Vec<Step>,
}

type Key = Vec<&'static str>;
type Row = BTreeMap<&'static str, Option<&'static str>>;

/// The plan of a seed.
pub(super) fn plan(seed: u64, knobs: Knobs) -> Plan {
    let mut random = Rng::with_seed(seed);
    // Long windows, which a flush ends: what is folded with what then follows from the seed alone.
    let window = pick(&mut random, &["0 ms", "5 ms", "50 ms", "2 s", "10 s", "10 s"]);
    let generation_objects_max = pick(&mut random, &[1, 3, 20, 1_000_000, 1_000_000, 1_000_000]);
    let count = random.usize(15..90);
    let (delete, flush) = (random.u8(5..30), pick(&mut random, &[0, 0, 3, 15]));
    let lanes = random.bool() && knobs.lanes;
    let disturbed = seed % 10 == 9;
    let mut generator = Generator { random, knobs, lanes, delete, rows: BTreeMap::new(), steps: Vec::new() };
    if generator.chance(80) {
        generator.populate();
    }
    while generator.steps.len() < count {
        generator.pattern();
        if generator.chance(flush) {
            generator.steps.push(Step::Flush);
        }
    }
    if disturbed {
        generator.disturb();
    }
    Plan { seed, lanes, window, generation_objects_max, disturbed, steps: generator.steps }
}

struct Generator {
    random: Rng,
    knobs: Knobs,
    /// A batch has one lane.
    lanes: bool,
    /// Percent of operations that delete.
    delete: u8,
    /// What the rows would be if Postgres took everything: by table and key.
    rows: BTreeMap<&'static str, BTreeMap<Key, Row>>,
    steps: Vec<Step>,
}

impl Generator {
    /// A few parents to begin with, each with unique values of its own.
    fn populate(&mut self) {
        for (name, count) in [("guilds", 3), ("players", 4), ("rooms", 3)] {
            let table = named(name);
            for n in 0..self.random.usize(1..=count) {
                let assignments =
                    table.columns.iter().filter(|column| column.unique).map(|column| assign(column, column.values.get(n).copied()));
                let assignments = assignments.collect();
                let save = self.set(table, vec![table.key[0].values[n]], assignments);
                self.steps.push(Step::Save(save));
            }
        }
    }

    fn pattern(&mut self) {
        match self.random.u8(..100) {
            0..45 => {
                let operation = self.any(None);
                self.steps.push(Step::Save(operation));
            }
            45..55 => self.swap(),
            55..67 => self.hand_over(),
            67..80 => self.recreate(),
            80..92 => self.family(),
            _ => self.batch(),
        }
    }

    /// Two rows exchange a unique value: over a third value, as Postgres wants it, or not.
    fn swap(&mut self) {
        let Some((table, column, a, b)) = self.two_rows() else { return };
        let (of_a, of_b) = (self.rows[table.name][&a][column.name], self.rows[table.name][&b][column.name]);
        let mut operations = Vec::new();
        if self.chance(70) {
            let between = if column.nullable && self.random.bool() { None } else { Some(pick(&mut self.random, column.values)) };
            operations.push(self.set(table, a.clone(), vec![assign(column, between)]));
        }
        let (first, second) = ((a, of_b), (b, of_a));
        let (first, second) = if operations.is_empty() { (first, second) } else { (second, first) };
        operations.push(self.set(table, first.0, vec![assign(column, first.1)]));
        operations.push(self.set(table, second.0, vec![assign(column, second.1)]));
        self.emit(operations, 30);
    }

    /// A row gives up a unique value, or goes, and another takes it.
    fn hand_over(&mut self) {
        let Some((table, column, a, b)) = self.two_rows() else { return };
        let value = self.rows[table.name][&a][column.name];
        let gives = match self.random.bool() {
            true => self.delete(table, a),
            false => {
                let other = pick(&mut self.random, column.values);
                self.set(table, a, vec![assign(column, Some(other))])
            }
        };
        let takes = self.set(table, b, vec![assign(column, value)]);
        let operations = if self.chance(85) { vec![gives, takes] } else { vec![takes, gives] };
        self.emit(operations, 25);
    }

    /// A row goes and comes back, with other columns at their defaults; in between something else may happen.
    fn recreate(&mut self) {
        let Some((table, key)) = self.some_parent() else { return };
        let mut operations = vec![self.delete(table, key.clone())];
        if self.chance(40) {
            operations.push(self.any(Some(table.island)));
        }
        let assignments = self.assignments(table, true);
        operations.push(self.set(table, key, assignments));
        self.emit(operations, 25);
    }

    /// A player with an item and a rune; sometimes the children come first.
    fn family(&mut self) {
        let (players, items, runes) = (named("players"), named("items"), named("runes"));
        let key = self.key(runes, false);
        let mut operations = Vec::new();
        for (table, parts) in [(players, 1), (items, 2), (runes, 3)] {
            let assignments = self.assignments(table, true);
            operations.push(self.set(table, key[..parts].to_vec(), assignments));
        }
        if self.chance(25) {
            operations.reverse();
        }
        self.emit(operations, 50);
    }

    fn batch(&mut self) {
        let island = if self.random.u8(..9) < 7 { Island::World } else { Island::Inn };
        let island = self.lanes.then_some(island);
        let operations = (0..self.random.usize(2..6)).map(|_| self.any(island)).collect();
        self.emit(operations, 100);
    }

    /// As saves, or `percent` of the time as a batch.
    fn emit(&mut self, operations: Vec<Operation>, percent: u8) {
        match self.knobs.batches && self.chance(percent) {
            true => self.steps.push(Step::Batch(operations)),
            false => self.steps.extend(operations.into_iter().map(Step::Save)),
        }
    }

    fn any(&mut self, island: Option<Island>) -> Operation {
        let tables: Vec<_> = TABLES.iter().filter(|table| island.is_none_or(|island| table.island == island)).collect();
        let table = pick(&mut self.random, &tables);
        let key = self.key(table, true);
        if !table.appends() && self.chance(self.delete) {
            return self.delete(table, key);
        }
        let is_new = !self.rows.get(table.name).is_some_and(|rows| rows.contains_key(&key));
        let assignments = self.assignments(table, is_new);
        self.set(table, key, assignments)
    }

    /// Mostly below a parent that there is.
    fn key(&mut self, table: &Table, below_parent: bool) -> Key {
        let mut key: Key = table.key.iter().map(|column| pick(&mut self.random, column.values)).collect();
        if let Some(parent) = table.parent.filter(|_| below_parent && self.chance(85)).and_then(|parent| self.row_of(parent)) {
            key[..parent.len()].copy_from_slice(&parent);
        }
        key
    }

    fn assignments(&mut self, table: &Table, is_new: bool) -> Vec<Assignment> {
        let share = self.random.u8(15..75);
        let mut assignments = Vec::new();
        for column in table.columns {
            let needed = column.needed && self.chance(if is_new { 95 } else { 30 });
            if needed || self.chance(share) {
                assignments.push(self.assignment(table, column));
            }
        }
        assignments
    }

    fn assignment(&mut self, table: &Table, column: &Column) -> Assignment {
        let unfit = self.knobs.unfit && self.chance(5);
        let null = (column.nullable && self.chance(15)) || (unfit && self.random.bool());
        let unfit = column.unfit().filter(|_| unfit);
        let referred = column.refers.filter(|_| self.chance(80)).and_then(|table| self.row_of(table));
        let value = match (unfit, referred) {
            _ if null => None,
            (Some(unfit), _) => Some(unfit),
            (_, Some(key)) => Some(key[0]),
            _ => Some(pick(&mut self.random, column.values)),
        };
        let adds = self.knobs.adds && column.summed && !table.appends() && value.is_some() && self.chance(40);
        Assignment { column: column.name, value, adds }
    }

    fn set(&mut self, table: &'static Table, key: Key, assignments: Vec<Assignment>) -> Operation {
        if !table.appends() {
            let row = self.rows.entry(table.name).or_default().entry(key.clone()).or_default();
            row.extend(assignments.iter().map(|assignment| (assignment.column, assignment.value)));
        }
        Operation { table, key, change: Change::Set(assignments) }
    }

    fn delete(&mut self, table: &'static Table, key: Key) -> Operation {
        self.forget(table.name, &key);
        Operation { table, key, change: Change::Delete }
    }

    /// A row and all below it.
    fn forget(&mut self, table: &'static str, key: &[&'static str]) {
        self.rows.entry(table).or_default().retain(|other, _| !other.starts_with(key));
        for child in TABLES.iter().filter(|child| child.parent == Some(table)) {
            self.forget(child.name, key);
        }
    }

    fn row_of(&mut self, table: &str) -> Option<Key> {
        let keys: Vec<_> = self.rows.get(table)?.keys().cloned().collect();
        self.random.choice(keys)
    }

    /// Mostly a row that others refer to.
    fn some_parent(&mut self) -> Option<(&'static Table, Key)> {
        let is_parent = |table: &&Table| TABLES.iter().any(|child| child.parent == Some(table.name));
        let parents: Vec<_> = TABLES.iter().filter(is_parent).collect();
        let table = if self.chance(75) { self.random.choice(parents)? } else { self.random.choice(TABLES)? };
        Some((table, self.row_of(table.name)?))
    }

    /// Two rows with different values in a unique column.
    fn two_rows(&mut self) -> Option<(&'static Table, &'static Column, Key, Key)> {
        let unique = TABLES.iter().flat_map(|table| table.columns.iter().filter(|column| column.unique).map(move |column| (table, column)));
        let (table, column) = self.random.choice(unique.collect::<Vec<_>>())?;
        let value = |row: &Row| row.get(column.name).copied().flatten();
        let rows: Vec<_> = self.rows.get(table.name)?.iter().filter_map(|(key, row)| Some((key.clone(), value(row)?))).collect();
        let (a, of_a) = self.random.choice(rows.clone())?;
        let (b, _) = self.random.choice(rows.into_iter().filter(|(_, of_b)| *of_b != of_a).collect::<Vec<_>>())?;
        Some((table, column, a, b))
    }

    /// Postgres stops and comes back, the daemon is killed: anywhere, in any order.
    fn disturb(&mut self) {
        let len = self.steps.len();
        let (stop, start) = (self.random.usize(..len), self.random.usize(..len));
        let (stop, start) = (stop.min(start), stop.max(start));
        let mut steps = Vec::with_capacity(len + 4);
        let kills = [self.random.usize(..len), self.random.usize(..len)];
        for (n, step) in std::mem::take(&mut self.steps).into_iter().enumerate() {
            // A flush would wait for Postgres.
            if !((stop..=start).contains(&n) && matches!(step, Step::Flush)) {
                steps.push(step);
            }
            steps.extend((n == stop).then_some(Step::StopPostgres));
            steps.extend(kills.contains(&n).then_some(Step::Kill));
            steps.extend((n == start).then_some(Step::StartPostgres));
        }
        self.steps = steps;
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.random.u8(..100) < percent
    }
}

fn assign(column: &Column, value: Option<&'static str>) -> Assignment {
    Assignment { column: column.name, value, adds: false }
}

fn pick<T: Copy>(random: &mut Rng, from: &[T]) -> T {
    from[random.usize(..from.len())]
}

#[test]
fn plans_hold_what_their_knobs_allow_and_follow_from_their_seeds() {
    let drawn = |knobs: &str| -> Vec<String> {
        let plans = (0..50).map(|seed| plan(seed, Knobs::named(knobs)));
        plans.flat_map(|plan| plan.steps).map(|step| step.to_string()).collect()
    };
    let (everything, plain) = (drawn("batches,adds,lanes,unfit"), drawn(""));
    let has = |steps: &[String], part: &str| steps.iter().any(|step| step.contains(part));
    for part in ["flush", "kill the daemon", "stop Postgres", "start Postgres"] {
        assert!(has(&everything, part) && has(&plain, part), "{part}");
    }
    for part in ["batch", "+=", "far too long"] {
        assert!(has(&everything, part) && !has(&plain, part), "{part}");
    }
    for table in TABLES {
        let acts = if table.appends() { &["append"][..] } else { &["set", "delete"] };
        assert!(acts.iter().all(|act| has(&plain, &format!("{act} {} ", table.name))), "{}", table.name);
    }
    assert_eq!(plain, drawn(""));
    let lanes = |knobs| (0..50).filter(|&seed| plan(seed, Knobs::named(knobs)).lanes).count();
    assert!(lanes("") == 0 && (10..40).contains(&lanes("lanes")), "{}", lanes("lanes"));
    assert_eq!((0..50).filter(|&seed| plan(seed, Knobs::default()).disturbed).count(), 5);
}
