//! Power cuts below ext4: the journal lies on a file system whose [`image`](super::image) remembers writes and flushes. Images that a
//! cut may have left are mounted, so that ext4 repairs itself first, and the journal on them is recovered.

use std::path::Path;

use fastrand::Rng;
use tokio::task::JoinSet;

use crate::{
    campaigns::{
        Home, SCHEMA,
        campaign::{self, Counts},
        checker::Stored,
        hold_against,
    },
    support::{Database, Disk, Setup},
};

use super::{
    contents,
    image::{Image, Written},
    scratch::Scratch,
    told::{Caller, Told, acknowledgements, history},
    trace::{Time, now},
};

const MIB: usize = 1 << 20;
const IMAGE_BYTES: usize = 96 * MIB;
const CLIENTS: usize = 4;
const LIVES: usize = 3;
/// Power cuts of a run.
const CUTS: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_below_ext4_lose_no_acknowledged_save() {
    campaign::run("power::ext4", 1, u64::MAX, run).await;
}

async fn run(seed: u64) -> Counts {
    let (home, mut random) = (Home::new("power-ext4", seed), Rng::with_seed(seed));
    let Recording { written, began, clients } = record(&home, &mut random).await;
    let (flushes, moments, acknowledgements) = (written.flushes(began), written.moments(began), acknowledgements(&clients));
    for _ in 0..CUTS {
        let drawn = [&flushes, &moments, &acknowledgements][random.usize(..3)];
        let at = drawn[random.usize(..drawn.len())];
        let (sector, kept) = ([512, 4096][random.usize(..2)], [0, 10, 50, 90][random.usize(..4)]);
        println!("power::ext4: cut {} ms after the start, sectors of {sector}, {kept} % kept", at.saturating_sub(began) / 1_000_000);
        let scratch = Scratch::new(home.0.join("cut"));
        written.cut(at, sector, kept, &mut random, &scratch.path());
        is_recovered(&scratch.path(), &clients, at).await;
    }
    Counts::from([("images of ext4", CUTS), ("flushes recorded", flushes.len() as u64)])
}

struct Recording {
    written: Written,
    /// When there was a file system.
    began: Time,
    clients: Vec<Told>,
}

/// Some lives on one image. Postgres goes away at once, so that the journal holds everything.
async fn record(home: &Home, random: &mut Rng) -> Recording {
    let mut database = Database::alone(SCHEMA).await;
    let image = Image::serve(&home.0.join("fuse"), IMAGE_BYTES);
    let (disk, began) = (Disk::make(&image.path()), now());
    let setup = Setup::new(&disk.path().join("journal"), &database.url())
        .set("collections.notes.mode", "append")
        .set("journal.segment_bytes", "1 MiB")
        .expect_in_log("postgres")
        .expect_in_log("torn");
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| Caller::new(number, home, random.fork())).collect();
    for life in 0..LIVES {
        let daemon = setup.start().await;
        if life == 0 {
            database.stop_postgres();
        }
        let mut working = JoinSet::new();
        for client in clients.drain(..) {
            working.spawn(client.save(daemon.client().await, random.usize(20..60)));
        }
        clients.push(working.join_next().await.expect("clients").expect("no panic"));
        let ended = if random.bool() { daemon.stop().await } else { daemon.kill().await };
        home.keep_log(&ended);
        clients.extend(working.join_all().await);
    }
    drop(disk);
    let mut told = Vec::new();
    for client in clients {
        told.push(client.told().await);
    }
    Recording { written: image.end(), began, clients: told }
}

async fn is_recovered(image: &Path, clients: &[Told], at: Time) {
    let disk = Disk::of(image);
    let contents = contents::read(&disk.path().join("journal")).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
    hold_against(&history(clients, at), &contents.over(Stored::default()));
}
