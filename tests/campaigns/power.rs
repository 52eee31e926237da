//! Power cuts. A daemon is traced while clients save; from what it had written and synced by some moment, directories are rebuilt
//! that a power cut at that moment may have left. Each is recovered: the journal opens, and what was acknowledged by then is in it
//! or in Postgres (P1, P3).
//!
//! A run is one [`recording`], some lives of a daemon that end in order or with a power cut of their own, and many moments of them
//! all: while it starts, recovers, takes saves, goes over to the next segment, removes drained ones and stops. [`trace`] reads what
//! strace wrote, [`disk`] knows what a disk may forget, [`contents`] recovers, in [`scratch`]; [`told`] is what the clients knew by
//! then. [`ext4`] does the same with a real file system between the daemon and the disk, which is an [`image`].

use std::path::Path;

use fastrand::Rng;
use forebay::proto::FlushRequest;

use crate::support::{Database, Setup};

use super::{
    Home, SCHEMA,
    campaign::{self, Counts},
    check,
    client_log::History,
    hold_against,
};

pub(super) mod contents;
pub(super) mod disk;
mod ext4;
mod image;
pub(super) mod recording;
pub(super) mod scratch;
pub(super) mod told;
pub(super) mod trace;

use disk::{Disk, Loss};
use recording::{Life, Recording};
use scratch::Scratch;
use trace::{Act, Time};

/// Moments of a run at which the power is cut.
const CUTS: u64 = 40;
/// One of so many is recovered by the program itself, into a Postgres that has nothing yet.
const BY_PROGRAM: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn replayed_power_cuts_lose_no_acknowledged_save() {
    campaign::run("power::replayed", 2, u64::MAX, run).await;
}

async fn run(seed: u64) -> Counts {
    let (home, mut random, drained) = (Home::new("power", seed), Rng::with_seed(seed), !seed.is_multiple_of(2));
    let recording = Recording::make(&home, drained, &mut random).await;
    let moments = moments(&recording, &mut random);
    let mut counts = Counts::new();
    let mut disk = Disk::empty();
    for (number, life) in recording.lives.iter().enumerate() {
        if let Some(found) = &life.found {
            disk.clone_from(found);
        }
        let mut before = 0;
        for &(_, at) in moments.iter().filter(|(life, _)| *life == number) {
            disk.play(&life.calls, before, at);
            before = at;
            let cut = *counts.entry("power cuts").or_default();
            *counts.entry("power cuts").or_default() += 1;
            let loss = Loss::draw(&mut random);
            println!("power: cut {cut}, life {number}, at {at}: {loss:?}");
            let scratch = Scratch::new(home.0.join("left"));
            let left = scratch.path();
            disk.cut(loss, &mut random, &left);
            if !drained && cut.is_multiple_of(BY_PROGRAM) {
                is_recovered_by_the_program(&left, &told::history(&recording.clients, at)).await;
                *counts.entry("recovered by the program").or_default() += 1;
            } else {
                let contents = contents::read(&left).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
                hold_against(&told::history(&recording.clients, at), &contents.over(recording.stored(at)));
            }
        }
        disk.play(&life.calls, before, Time::MAX);
    }
    counts
}

/// When the power is cut, life by life: after an acknowledgement, between any two calls, or around one that makes a name or
/// something else certain.
fn moments(recording: &Recording, random: &mut Rng) -> Vec<(usize, Time)> {
    let acknowledgements = told::acknowledgements(&recording.clients);
    let mut moments: Vec<_> = (0..CUTS)
        .map(|_| {
            let number = random.usize(..recording.lives.len());
            (number, moment(&recording.lives[number], &acknowledgements, random))
        })
        .collect();
    moments.sort_unstable();
    moments
}

fn moment(life: &Life, acknowledgements: &[Time], random: &mut Rng) -> Time {
    let during = life.calls.first().map_or(0, |call| call.begins)..life.calls.last().map_or(0, |call| call.begins);
    let acknowledged: Vec<_> = acknowledgements.iter().filter(|at| during.contains(at)).collect();
    let call = match random.u8(..3) {
        0 if !acknowledged.is_empty() => return *acknowledged[random.usize(..acknowledged.len())],
        1 => random.choice(life.calls.iter().filter(|call| !matches!(call.act, Act::Write { .. })).collect::<Vec<_>>()),
        _ => random.choice(life.calls.iter()),
    };
    let call = call.expect("a daemon that lives calls");
    // In front of it, or behind it.
    if random.bool() { call.begins } else { call.ends.min(during.end) }
}

/// The program starts on it, writes all of it to an empty Postgres, and takes saves.
async fn is_recovered_by_the_program(journal: &Path, history: &History) {
    let database = Database::with(SCHEMA).await;
    let setup = Setup::new(journal, &database.url())
        .set("collections.notes.mode", "append")
        .expect_in_log("postgres")
        .expect_in_log("torn")
        .expect_in_log("watermark is gone");
    let daemon = setup.start().await;
    daemon.client().await.flush(FlushRequest::default()).await.expect("everything recovered is written");
    assert_eq!(daemon.stop().await.code, Some(0));
    check(history, &database).await;
}
