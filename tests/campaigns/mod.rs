//! Campaigns of faults: something breaks again and again while clients save, and a checker that shares nothing with the daemon
//! holds what is in Postgres at the end against what the clients sent and were told (P1, P3, P5, P6, P8).
//!
//! `tests/faults NAME` runs one for as long as it is told and adds a line to `tests/RELIABILITY.md`; `cargo test` runs each for a
//! short while. Runs come from consecutive seeds, the first of which is printed.
//!
//! In the order of a run: [`client`] saves, and [`client_log`] has it on disk before it is sent; [`kill`], [`syscalls`] (by way of
//! [`injector`]), [`postgres`], [`full`] or [`clock`] does the harm, and [`power`], [`lying`] and [`corruption`] make journals that
//! [`injector`]), [`postgres`], [`overload`] or [`clock`] does the harm, and [`power`], [`lying`] and [`corruption`] make journals that
//! disks may leave; [`checker`] judges; [`campaign`] counts, goes on, and tells. [`sabotage`] asks whether all this would notice.
//! [`injector`]), [`postgres`] or [`clock`] does the harm, and [`power`], [`lying`] and [`corruption`] make journals that
//! disks may leave; [`checker`] judges; [`campaign`] counts, goes on, and tells. [`soak`] does it all to one journal for long, and looks
//! for what grows; [`sabotage`] asks whether all this would notice.

use std::{fs::File, io::Write, path::PathBuf};

use serde_json::Value;

use crate::support::{Database, Ended};

use self::{checker::Stored, client_log::History};

mod campaign;
mod checker;
mod client;
mod client_log;
mod clock;
mod corruption;
mod full;
mod injector;
mod kill;
mod lying;
mod overload;
mod postgres;
mod power;
mod sabotage;
mod shim;
mod soak;
mod syscalls;

/// What the clients save to. Every version that is written is noted: a version twice, or falling, is a save applied twice or out of
/// order. A poisoned line makes Postgres refuse the whole statement, so that the generation is halved.
const SCHEMA: &str = "
    create table things (id text primary key, version bigint not null, filler text not null, checksum bigint not null);
    create table stuff (like things including all);
    create table goods (like things including all);
    create table notes (line text not null);
    create table applied (number bigserial primary key, object text not null, version bigint not null);
    create function note() returns trigger language plpgsql as
        $$ begin insert into applied (object, version) values (tg_table_name || '/' || new.id, new.version); return null; end $$;
    create trigger note after insert or update on things for each row execute function note();
    create trigger note after insert or update on stuff for each row execute function note();
    create trigger note after insert or update on goods for each row execute function note();
    create function refuse() returns trigger language plpgsql as $$ begin raise exception 'poisoned'; end $$;
    create trigger refuse before insert on notes for each row when (new.line like 'poison%') execute function refuse();
";

/// The tables whose rows have keys.
const TABLES: [&str; 3] = ["things", "stuff", "goods"];
/// The table that lines are only added to.
const NOTES: &str = "notes";

/// A directory of one run: the journal, the log of its clients, those of its daemons. Kept if the run fails.
struct Home(PathBuf);

impl Home {
    fn new(campaign: &str, seed: u64) -> Self {
        let name = format!("{campaign}-{seed}-{}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("faults").join(name);
        std::fs::create_dir_all(&path).expect("a directory below target/");
        Self(path)
    }

    fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// Adds what a daemon has logged.
    fn keep_log(&self, ended: &Ended) {
        self.keep_lines(&ended.log, &format!("ended with {:?}", ended.code));
    }

    /// The same of one that may not have ended; `last` says how it stands.
    fn keep_lines(&self, lines: &[Value], last: &str) {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let file = File::options().create(true).append(true).open(self.0.join("daemon.log"));
        file.and_then(|mut file| file.write_all(format!("{lines}{last}\n").as_bytes())).expect("a log beside the journal");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("what is left of the run: {}", self.0.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.0) {
            println!("{} can't be removed: {error}", self.0.display());
        }
    }
}

/// Panics with every violation, if there is one.
async fn check(history: &History, database: &Database) {
    hold_against(history, &Stored::read(database).await);
}

/// The same, of what was stored elsewhere.
fn hold_against(history: &History, stored: &Stored) {
    let violations = checker::judge(history, stored);
    let shown: String = violations.iter().map(|violation| format!("    {violation}\n")).collect();
    assert!(violations.is_empty(), "{} violations:\n{shown}", violations.len());
}
