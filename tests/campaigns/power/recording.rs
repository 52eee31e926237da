//! What there is to cut: some lives of a daemon on one journal under strace, what its clients were told and when, and when
//! Postgres had what.

use std::{collections::BTreeSet, path::Path};

use fastrand::Rng;
use forebay::proto::FlushRequest;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    campaigns::{Home, NOTES, SCHEMA, check, checker::Stored},
    support::{Daemon, Database, Setup, strace},
};

use super::{
    contents::row,
    disk::{Disk, Loss},
    told::{self, Caller, Told},
    trace::{self, Call, OPTIONS, Time},
};

const LIVES: usize = 4;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
    PowerCut,
}
const CLIENTS: usize = 4;

/// Notes each change of a row, with its time.
const NOTE_CHANGES: &str = "
    create table changes (number bigserial primary key, at timestamptz not null, object text not null, row jsonb);
    create function change() returns trigger language plpgsql as $$ begin
        insert into changes (at, object, row) values
            (clock_timestamp(), tg_table_name || coalesce('/' || (to_jsonb(coalesce(new, old))->>'id'), ''), to_jsonb(new));
        return null;
    end $$;
    create trigger change after insert or update or delete on things for each row execute function change();
    create trigger change after insert or update or delete on stuff for each row execute function change();
    create trigger change after insert or update or delete on goods for each row execute function change();
    create trigger change after insert or update or delete on notes for each row execute function change();
";

/// Some lives on one journal.
pub(crate) struct Recording {
    pub(crate) lives: Vec<Life>,
    pub(crate) clients: Vec<Told>,
    changes: Vec<Changed>,
    /// Everything is in it, now.
    pub(crate) database: Database,
}

/// One life of a daemon.
pub(crate) struct Life {
    /// What it found, if the power was cut before it.
    pub(crate) found: Option<Disk>,
    pub(crate) calls: Vec<Call>,
}

/// A change of a row in Postgres; none is left after a delete.
struct Changed {
    at: Time,
    object: String,
    row: Option<Value>,
}

impl Recording {
    /// `drained`: Postgres takes everything and the journal removes what it can; else Postgres is away, and the journal has it all.
    pub(crate) async fn make(home: &Home, drained: bool, random: &mut Rng) -> Self {
        let mut recorder = Recorder::new(home, drained, random).await;
        for number in 0..LIVES {
            let stops = number + 1 < LIVES && recorder.random.bool();
            recorder.live(if stops { End::Stop } else { End::PowerCut }, &[]).await;
        }
        recorder.finish().await
    }

    /// Two lives: in the second the disk lies, so that nothing of it is certain.
    pub(crate) async fn with_a_lying_disk(home: &Home, drained: bool, random: &mut Rng) -> Self {
        let mut recorder = Recorder::new(home, drained, random).await;
        recorder.live(End::Stop, &[]).await;
        recorder.live(End::Kill, &["-e", "inject=fsync,fdatasync:retval=0"]).await;
        recorder.finish().await
    }

    /// What Postgres had by a moment.
    pub(crate) fn stored(&self, at: Time) -> Stored {
        let mut stored = Stored::default();
        for Changed { object, row: found, .. } in self.changes.iter().take_while(|changed| changed.at <= at) {
            match found {
                Some(found) if object == NOTES => stored.lines.push(found["line"].as_str().expect("a text").to_owned()),
                Some(found) => drop(stored.rows.insert(object.clone(), row(found))),
                None => drop(stored.rows.remove(object)),
            }
        }
        stored
    }
}

struct Recorder<'a> {
    lives: Vec<Life>,
    /// What the next life finds, if it is not what the last one left.
    found: Option<Disk>,
    home: &'a Home,
    random: &'a mut Rng,
    database: Database,
    drained: bool,
    setup: Setup,
    clients: Vec<Caller>,
    disk: Disk,
}

impl<'a> Recorder<'a> {
    async fn new(home: &'a Home, drained: bool, random: &'a mut Rng) -> Self {
        let database = Database::alone(&format!("{SCHEMA}{NOTE_CHANGES}")).await;
        let setup = Setup::new(&home.journal(), &database.url())
            .set("collections.notes.mode", "append")
            .set("journal.segment_bytes", "1 MiB")
            .set("journal.retention", if drained { "0 ms" } else { "1 h" })
            .expect_in_log("postgres")
            .expect_in_log("torn")
            .expect_in_log("watermark is gone");
        let clients = (0..CLIENTS).map(|number| Caller::new(number, home, random.fork())).collect();
        std::fs::create_dir(home.journal()).expect("made");
        Self { lives: Vec::new(), found: None, home, random, database, drained, setup, clients, disk: Disk::empty() }
    }

    /// Starts the daemon, lets it work, and ends it.
    async fn live(&mut self, end: End, options: &[&str]) {
        let trace = self.home.0.join(format!("trace-{}", self.lives.len()));
        let daemon = strace::spawn(&self.setup, &trace, &[&OPTIONS[..], options].concat());
        daemon.serving().await;
        if self.lives.is_empty() && !self.drained {
            self.database.stop_postgres();
        }
        let mut working = self.load(&daemon).await;
        self.clients.push(working.join_next().await.expect("clients").expect("no panic"));
        // Under load: the others go on until their calls fail.
        let ended = if end == End::Stop { daemon.stop().await } else { daemon.kill().await };
        self.home.keep_log(&ended);
        self.clients.extend(working.join_all().await);
        assert_eq!(ended.code, (end == End::Stop).then_some(0));
        let text = std::fs::read_to_string(&trace).expect("strace writes the trace");
        let calls = trace::read(&text, &self.setup.journal);
        self.disk.play(&calls, 0, Time::MAX);
        self.lives.push(Life { found: self.found.take(), calls });
        match end {
            End::Stop => is_whole(&self.disk, &self.setup.journal),
            End::Kill => {}
            End::PowerCut => self.cut_power(),
        }
    }

    async fn load(&mut self, daemon: &Daemon) -> JoinSet<Caller> {
        let mut working = JoinSet::new();
        for caller in self.clients.drain(..) {
            let (channel, calls) = (daemon.client().await, self.random.usize(10..40));
            working.spawn(caller.save(channel, calls));
        }
        working
    }

    fn cut_power(&mut self) {
        let journal = &self.setup.journal;
        std::fs::remove_dir_all(journal).expect("removed");
        self.disk.cut(Loss::draw(self.random), self.random, journal);
        self.disk = Disk::of(journal);
        self.found = Some(self.disk.clone());
    }

    /// A last start drains it all; the judge of all campaigns has the last word about the whole journal.
    async fn finish(mut self) -> Recording {
        if !self.drained {
            self.database.start_postgres();
        }
        let daemon = self.setup.start().await;
        daemon.client().await.flush(FlushRequest::default()).await.expect("everything recovered is written");
        self.home.keep_log(&daemon.stop().await);
        let mut clients = Vec::new();
        for caller in self.clients {
            clients.push(caller.told().await);
        }
        let changes = read_changes(&self.database).await;
        let recording = Recording { lives: self.lives, clients, changes, database: self.database };
        check(&told::history(&recording.clients, Time::MAX), &recording.database).await;
        recording
    }
}

/// Nothing has escaped the trace: what it says is there is what is there.
fn is_whole(disk: &Disk, journal: &Path) {
    let found = Disk::of(journal);
    let (traced, found) = (disk.now(), found.now());
    let paths: BTreeSet<_> = traced.keys().chain(found.keys()).collect();
    let differing: Vec<_> = paths.into_iter().filter(|path| traced.get(*path) != found.get(*path)).collect();
    assert!(differing.is_empty(), "the trace is not whole: {differing:?} are otherwise on disk");
}

async fn read_changes(database: &Database) -> Vec<Changed> {
    let sql = "select (extract(epoch from at) * 1000000)::bigint, object, row from changes order by number";
    let changed = |row: Vec<Option<String>>| {
        let [at, object, row] = row.try_into().expect("three columns");
        let micros: Time = at.expect("not null").parse().expect("a number");
        let row = row.map(|row| serde_json::from_str(&row).expect("JSON"));
        Changed { at: micros * 1_000, object: object.expect("not null"), row }
    };
    database.rows(sql).await.into_iter().map(changed).collect()
}
