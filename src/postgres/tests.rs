//! Against a real Postgres: one private server for all tests of this binary, a database for each.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    backlog::{AppendedRow, Fold, Generation, Object},
    collections::{CollectionRules, CollectionSettings, Mode},
    sandbox::{Database, Sandbox, SandboxOptions},
    save::{Accepted, Body, Change, ColumnSet, Key, LaneId, Save, Sequence},
    settings::{PostgresSettings, Settings},
};

mod adding;
mod careful;
mod catalog;
mod connections;
mod failed_saves;
mod failures;
mod fake;
mod judgement;
mod positions;
mod rows;
mod schema;
mod types;
mod versions;
mod writing;

/// Never dropped: its guard ends it when the test binary ends.
static SANDBOX: LazyLock<Sandbox> =
    LazyLock::new(|| Sandbox::create(SandboxOptions { fsync: false, ..SandboxOptions::default() }).expect("a private Postgres"));

/// So few rows a statement that no time makes them fewer, and none is short enough to make them more.
const fn steady(rows: u64) -> StatementRows {
    StatementRows::new(rows, Duration::ZERO)
}

/// A database of its own, with `sql` run in it.
struct Fixture {
    database: Database,
    settings: PostgresSettings,
    postgres: Postgres,
}

impl Fixture {
    async fn new(sql: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let sandbox = tokio::task::spawn_blocking(|| &*SANDBOX).await.expect("a private Postgres");
        let url = sandbox.create_database(&format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed))).await.expect("a database");
        let database = Database::connect(&url).await.expect("a connection");
        database.run(sql).await.expect("a schema");
        let settings = PostgresSettings { url: Some(url.into()), allow_fsync_off: true, ..Settings::default().postgres };
        let postgres = Postgres::new(&settings, 1).expect("a URL");
        Self { database, settings, postgres }
    }

    /// The same database as another role, password-less, with `sql` run first.
    async fn as_role(&self, role: &str, sql: &str) -> Postgres {
        self.database.run(&format!("create role {role} login; {sql}")).await.expect("a role");
        let url = self.settings.url().expect("a URL").replace("postgres@", &format!("{role}@"));
        Postgres::new(&PostgresSettings { url: Some(url.into()), ..self.settings.clone() }, 1).expect("a URL")
    }

    async fn collections(&self, rules: &CollectionRules) -> Collections {
        let catalog = self.postgres.read_catalog().await.expect("a catalog");
        Collections::build(&catalog, rules, &Collections::default())
    }

    /// A claimed lane at position 0, and the collections that are upserted, with `appended` those that are appended.
    async fn lane(&self, appended: &[&str]) -> Lane<'_> {
        self.lane_with(&rules(appended)).await
    }

    async fn lane_with(&self, rules: &CollectionRules) -> Lane<'_> {
        self.postgres.ensure_schema().await.expect("a schema");
        let (journal, owner) = (Uuid::new_v4(), Uuid::new_v4());
        let mut writer = self.postgres.writer(journal, "default", owner).await.expect("a writer");
        writer.claim(None, Sequence::ZERO).await.expect("a claim");
        let collections = self.collections(rules).await;
        Lane { fixture: self, writer, collections, journal, owner, position: Sequence::ZERO }
    }

    async fn rows(&self, query: &str) -> Vec<String> {
        let rows = self.database.rows(query).await.expect("rows");
        let row = |row: Vec<Option<String>>| row.into_iter().map(|value| value.unwrap_or_else(|| "NULL".to_owned())).collect::<Vec<_>>();
        rows.into_iter().map(|values| row(values).join("|")).collect()
    }
}

fn rules(appended: &[&str]) -> CollectionRules {
    let append = CollectionSettings { mode: Mode::Append, ..CollectionSettings::default() };
    let named = appended.iter().map(|name| ((*name).to_owned(), append.clone())).collect();
    CollectionRules { schemas: vec!["public".to_owned()], named, ..CollectionRules::default() }
}

/// A writer and what it knows.
struct Lane<'f> {
    fixture: &'f Fixture,
    writer: Writer,
    collections: Collections,
    journal: Uuid,
    owner: Uuid,
    position: Sequence,
}

/// One object or row of a generation in the making.
enum Entry<'a> {
    Set(&'a str, &'a [&'a str], &'a str),
    Replace(&'a str, &'a [&'a str], &'a str),
    Delete(&'a str, &'a [&'a str]),
    Append(&'a str, &'a str),
}

use Entry::{Append, Delete, Replace, Set};

impl Lane<'_> {
    fn generation(&self, entries: &[Entry<'_>]) -> Generation {
        let mut generation = Generation {
            after: self.position,
            through: self.position.plus(entries.len() as u64),
            parts: vec![Default::default()],
            reaches: Default::default(),
            saves: entries.len() as u64,
            inside_batch: false,
            retries: Vec::new(),
            footprint: Default::default(),
            oldest_accepted_at: None,
        };
        for (n, entry) in (1..).zip(entries) {
            self.add(&mut generation, self.position.plus(n), entry);
        }
        generation
    }

    fn add(&self, generation: &mut Generation, sequence: Sequence, entry: &Entry<'_>) {
        let (Set(name, ..) | Replace(name, ..) | Delete(name, _) | Append(name, _)) = entry;
        let collection = self.collections.named(name).expect("a collection");
        let fold = generation.parts[0].collections.entry(collection.id).or_default();
        let body = |json: &str| Body::parse(json.as_bytes()).expect("a body");
        let columns = |body: &Body| -> ColumnSet {
            let named = body.members().into_iter().map(|member| collection.column(&member.name).expect("a column").0);
            named.filter(|&column| !collection.is_key(column)).collect()
        };
        let (key, fold_of_object) = match entry {
            Set(_, key, json) => (key, Fold::Set { columns: columns(&body(json)), body: body(json) }),
            Replace(_, key, json) => (key, Fold::Replace { columns: columns(&body(json)), body: body(json) }),
            Delete(_, key) => (key, Fold::Delete),
            Append(_, json) => {
                fold.appended.push(AppendedRow { sequence, batched: false, columns: columns(&body(json)), body: body(json) });
                return;
            }
        };
        fold.objects
            .insert(Key::from_parts(key.iter().copied()), Object { fold: fold_of_object, last: sequence, saves: 1, batched: false });
    }

    async fn apply(&mut self, entries: &[Entry<'_>]) -> Result<RowsWritten, ApplyError> {
        self.apply_in_portions(entries, 2).await
    }

    async fn apply_in_portions(&mut self, entries: &[Entry<'_>], rows: u64) -> Result<RowsWritten, ApplyError> {
        let generation = self.generation(entries);
        let work = Work {
            collections: &self.collections,
            after: generation.after,
            through: generation.through,
            generation: Some(&generation),
            failed: &[],
            closes: &[],
            statement_rows: steady(rows),
            aside: None,
        };
        let written = self.writer.apply(&work).await?;
        self.position = generation.through;
        Ok(written.collections.values().fold(RowsWritten::default(), |sum, rows| RowsWritten {
            updated: sum.updated + rows.updated,
            inserted: sum.inserted + rows.inserted,
            deleted: sum.deleted + rows.deleted,
            appended: sum.appended + rows.appended,
        }))
    }

    /// The failure of a generation that Postgres must refuse, after which nothing has changed and the connection still works.
    async fn refused(&mut self, entries: &[Entry<'_>]) -> Failure {
        let error = self.apply(entries).await.expect_err("Postgres refuses it");
        let ApplyError::Failed(failure) = error else { panic!("{error}") };
        assert!(self.writer.is_usable(), "rolled back");
        assert_eq!(self.position().await.map(|row| row.through), Some(self.position), "nothing was committed");
        failure
    }

    /// The tables are others than the collections.
    async fn is_outdated(&mut self, entries: &[Entry<'_>]) {
        assert_eq!(self.apply(entries).await, Err(ApplyError::Catalog));
        assert!(self.writer.is_usable(), "rolled back");
    }

    async fn position(&mut self) -> Option<PositionRow> {
        self.writer.read_position().await.expect("a position")
    }

    /// A save of this body, of which the first members are added.
    fn save(&self, collection: &str, key: &str, json: &str, adds: usize) -> Save {
        let body = Body::parse(json.as_bytes()).expect("a body");
        let numbers = self.collections.numbers(collection, Some(&body), adds).expect("known names");
        Save {
            lane: LaneId(0),
            collection: numbers.collection,
            key: Key::from_parts([key]),
            change: Change::Set(body),
            columns: numbers.columns,
            adds: numbers.adds,
            version: numbers.version,
            batch_left: 0,
            origin: None,
            request_id: None,
            retries: None,
            callback: None,
            accepted_at: SystemTime::UNIX_EPOCH,
        }
    }

    /// Applies saves as one generation; nothing has changed if Postgres would not take it.
    async fn apply_saves(&mut self, saves: impl IntoIterator<Item = Save>) -> Result<Written, ApplyError> {
        let after = self.position;
        let accepted = (1..).zip(saves).map(|(n, save)| Accepted { sequence: after.plus(n), save });
        self.apply_generation(&Generation::fold(after, Arc::default(), accepted)).await
    }

    async fn apply_generation(&mut self, generation: &Generation) -> Result<Written, ApplyError> {
        let Generation { after, through, .. } = *generation;
        let work = Work {
            collections: &self.collections,
            after,
            through,
            generation: Some(generation),
            failed: &[],
            closes: &[],
            statement_rows: steady(3),
            aside: None,
        };
        let written = self.writer.apply(&work).await?;
        self.position = through;
        Ok(written)
    }
}
