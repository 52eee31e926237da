//! A disk that lies: its syncs return at once and do nothing, and then the power goes. Whatever was written after the lie began may
//! be gone. What is left is witness: a start that finds less than the watermark has seen, or than Postgres holds, refuses or halts
//! with a report; `forebay journal salvage` makes a journal of what is left, and the daemon goes on with that (P6).
//!
//! A loss that no surviving witness knows of can't be noticed by anybody; how often that was is counted.

use std::path::Path;

use fastrand::Rng;
use forebay::exit::Exit;

use crate::support::{Daemon, Database, Setup, forebay as program, lanes};

use super::{
    Home, SCHEMA,
    campaign::{self, Counts},
    checker::{self, Verdict},
    power::{
        contents::{self, Contents, Refusal},
        disk::{Disk, Fate, Loss},
        recording::Recording,
        scratch::Scratch,
        told,
        trace::Time,
    },
};

/// Power cuts of a run.
const CUTS: u64 = 40;
/// One of so many is met by the program.
const BY_PROGRAM: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn watermark_and_chunks_witness_what_a_lying_disk_has_lost() {
    campaign::run("lying::watermark", 1, u64::MAX, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_notices_a_journal_that_has_lost_all_since_the_lie_began() {
    campaign::run("lying::postgres", 1, u64::MAX, roll_back).await;
}

/// All of the second life is gone, its watermark too: only the position row tells.
async fn roll_back(seed: u64) -> Counts {
    let (home, mut random) = (Home::new("lying-postgres", seed), Rng::with_seed(seed));
    let recording = Recording::with_a_lying_disk(&home, true, &mut random).await;
    let scratch = Scratch::new(home.0.join("left"));
    let loss = Loss { data: Fate::Lost, lengths: Fate::Lost, names: Fate::Lost, sector: 512 };
    disk_at(&recording, Time::MAX - 1).cut(loss, &mut random, &scratch.path());
    contents::read(&scratch.path()).await.expect("a sound journal, as it was before");
    let database = &recording.database;
    let changes = database.number("select count(*) from changes").await;
    let setup = setup(&scratch.path(), database);
    let ended = setup.spawn().ended().await;
    assert_eq!(ended.code, Some(Exit::TryAgain as i32), "{:#?}", ended.log);
    assert!(ended.last().to_string().contains("another daemon"), "{:#?}", ended.log);
    let daemon = Setup { flags: vec!["--take-over".to_owned()], ..setup }.start().await;
    let lane = lanes::halted(&daemon, "default").await;
    assert!(lane.reason.contains("an older state of the journal"), "{lane:?}");
    assert_eq!(daemon.stop().await.code, Some(0));
    assert_eq!(database.number("select count(*) from changes").await, changes, "nothing is written");
    Counts::from([("journals of before the lie, noticed", 1)])
}

async fn run(seed: u64) -> Counts {
    let (home, mut random) = (Home::new("lying", seed), Rng::with_seed(seed));
    let recording = Recording::with_a_lying_disk(&home, false, &mut random).await;
    let mut counts = Counts::new();
    for cut in 0..CUTS {
        let acknowledgements = told::acknowledgements(&recording.clients);
        let lying: Vec<_> = acknowledgements.into_iter().filter(|at| *at > recording.lives[1].calls[0].begins).collect();
        let at = lying[random.usize(..lying.len())];
        let scratch = Scratch::new(home.0.join("left"));
        let journal = scratch.path();
        let disk = disk_at(&recording, at);
        let loss = Loss { data: Fate::Drawn, lengths: Fate::Drawn, ..Loss::draw(&mut random) };
        let loss = if random.bool() { Loss { data: Fate::Lost, lengths: Fate::Lost, ..loss } } else { loss };
        println!("lying: cut {cut} at {at}: {loss:?}");
        disk.cut(loss, &mut random, &journal);
        // What happened to reach the disk by itself, most of the time.
        if random.u8(..4) > 0 {
            std::fs::write(journal.join("watermark"), disk.now()[Path::new("watermark")]).expect("written");
        }
        let witnessed = contents::watermark(&journal);
        let outcome = if cut.is_multiple_of(BY_PROGRAM) {
            by_program(&journal, &scratch).await
        } else {
            judge(contents::read(&journal).await, &recording, at, witnessed, &scratch).await
        };
        *counts.entry("power cuts").or_default() += 1;
        *counts.entry(outcome).or_default() += 1;
    }
    counts
}

/// The disk at a moment of the second life.
fn disk_at(recording: &Recording, at: Time) -> Disk {
    let mut disk = Disk::empty();
    disk.play(&recording.lives[0].calls, 0, Time::MAX);
    disk.play(&recording.lives[1].calls, 0, at);
    disk
}

async fn judge(read: Result<Contents, Refusal>, recording: &Recording, at: Time, witnessed: u64, scratch: &Scratch) -> &'static str {
    let history = told::history(&recording.clients, at);
    match read {
        Ok(contents) => {
            let last = contents.entries.last().map_or(0, |entry| entry.sequence.get());
            assert!(last >= witnessed, "the watermark has seen save {witnessed}, the journal ends with {last} and says nothing");
            let violations = checker::judge(&history, &contents.over(recording.stored(at)));
            let excused = |verdict| matches!(verdict, Verdict::Lost | Verdict::Stale | Verdict::Resurrected);
            assert!(violations.iter().all(|violation| excused(violation.verdict)), "{violations:?}");
            if violations.is_empty() { "lost nothing" } else { "lost what nothing that was left knew of" }
        }
        Err(Refusal::Damaged(_)) => {
            let salvaged = scratch.path().with_file_name("salvaged");
            forebay::journal::salvage(&scratch.path(), &salvaged, forebay::journal::Scope::All).expect("salvaged");
            contents::read(&salvaged).await.expect("a journal that is taken");
            "refused with a report, and salvaged"
        }
        Err(other) => panic!("refused, but not as damaged: {other:?}"),
    }
}

/// The program refuses it, makes a new journal of what is left, and goes on with that.
async fn by_program(journal: &Path, scratch: &Scratch) -> &'static str {
    let database = Database::with(SCHEMA).await;
    let daemon = setup(journal, &database).spawn();
    if daemon.serves().await {
        assert_eq!(daemon.stop().await.code, Some(0));
        return "taken by the program";
    }
    let ended = daemon.ended().await;
    assert_eq!(ended.code, Some(Exit::DamagedJournal as i32), "{:#?}", ended.log);
    assert!(ended.log.iter().any(|line| line.to_string().contains("the journal is damaged")), "{:#?}", ended.log);
    let salvaged = scratch.path().with_file_name("salvaged");
    let output = program().args(["journal", "salvage"]).args([journal, &salvaged]).output().await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    goes_on(setup(&salvaged, &database).start().await).await;
    "refused by the program, and salvaged"
}

fn setup(journal: &Path, database: &Database) -> Setup {
    // What a loss makes it say is not known beforehand.
    Setup::new(journal, &database.url()).set("collections.notes.mode", "append").expect_in_log("")
}

async fn goes_on(daemon: Daemon) {
    lanes::flush(&daemon, &[]).await.expect("what was salvaged is written");
    assert_eq!(daemon.stop().await.code, Some(0));
}
