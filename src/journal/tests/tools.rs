//! verify, export, salvage.

use super::*;

async fn journal_of_three_runs() -> TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let settings = settings(home.path());
    for run in 0..2 {
        let rig = Rig::start(&settings);
        rig.append(saves(run * 10..run * 10 + 3, 100)).await.expect("accepted");
        rig.append(batch(run * 10 + 3..run * 10 + 6, 100)).await.expect("accepted");
        rig.running.stop().await.expect("a clean end");
    }
    let rig = Rig::start(&settings);
    for key in 20..26 {
        rig.append(saves(key..key + 1, 100)).await.expect("accepted");
    }
    rig.crash(home.path())
}

#[tokio::test]
async fn a_sound_journal_is_verified_without_a_change() {
    let home = journal_of_three_runs().await;
    let before = content(home.path());
    let report = verify(home.path()).expect("readable");
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.saves, 18, "{report}");
    assert!(content(home.path()) == before);
}

#[tokio::test]
async fn verify_finds_damage_in_closed_segments() {
    let home = journal_of_three_runs().await;
    let found = recovery::look(&directory::Directory::existing(home.path()).expect("a journal")).expect("readable");
    let closed = found.iter().find_map(|segment| match segment {
        audit::Found::Closed(summary, _) => Some((summary.segment, summary.last_chunk)),
        audit::Found::Open(..) => None,
    });
    let (segment, chunk) = closed.expect("a closed segment");
    destroy(home.path(), segment, chunk);
    let report = verify(home.path()).expect("readable");
    assert!(!report.is_sound() && report.to_string().contains(&format!("segment {segment} is sound up to")), "{report}");
}

#[tokio::test]
async fn verify_says_who_uses_the_journal() {
    let home = tempfile::tempdir().expect("a directory");
    assert!(matches!(verify(home.path()), Err(OpenError::Directory { .. })));
    let journal = open(&settings(home.path()));
    assert!(matches!(verify(home.path()), Err(OpenError::Locked { .. })));
    drop(journal);
}

#[tokio::test]
async fn an_export_has_a_line_for_every_save() {
    let home = journal_of_three_runs().await;
    let mut out = Vec::new();
    assert_eq!(export(home.path(), &mut out).expect("readable"), 18);
    let text = String::from_utf8(out).expect("text");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 18);
    let first = &lines[0];
    assert_eq!((&first["collection"], &first["key"], &first["kind"]), (&"players".into(), &serde_json::json!(["0"]), &"set".into()));
    assert_eq!((&first["lane"], &first["batch_left"], &first["accepted_at"]), (&0.into(), &0.into(), &"2023-11-14T22:13:20.000Z".into()));
    assert_eq!(first["body"]["gold"].as_str().map(str::len), Some(100));
    assert_eq!(lines[3]["batch_left"], 2);
    let sequences: Vec<_> = lines.iter().map(|line| line["sequence"].as_u64().expect("a number")).collect();
    assert!(sequences.is_sorted_by(|a, b| a < b));
}

#[tokio::test]
async fn salvage_saves_what_verifies_and_names_what_is_lost() {
    let home = journal_of_three_runs().await;
    let (segment, witness) = newest_segment(home.path());
    let last = *witness.chunks.keys().next_back().expect("chunks");
    let id = witness.chunks[&last].header.journal;
    let lost = witness.chunks[&(last - 2)].header.first;
    drop(witness);
    destroy(home.path(), segment, last - 2);
    open_damaged(&settings(home.path()));
    let before = content(home.path());

    let target = tempfile::tempdir().expect("a directory");
    let to = target.path().join("salvaged");
    let salvaged = salvage(home.path(), &to, Scope::Unsettled).expect("salvaged");
    assert_eq!((salvaged.saves, salvaged.settled, &*salvaged.lost), (17, 0, &[(lost, lost)][..]));
    assert!(content(home.path()) == before, "the damaged journal stays as it was");
    assert!(verify(&to).expect("readable").is_sound());
    let journal = open(&settings(&to));
    assert_ne!(journal.id(), id, "a new journal");
    assert_eq!((journal.run(), journal.id().to_string()), (2, salvaged.journal));
    let keys = Rig::run(journal, limits()).keys().await;
    assert_eq!(keys, (0..6).chain(10..16).chain(20..23).chain(24..26).collect::<Vec<_>>());
    assert!(salvage(home.path(), &to, Scope::All).is_err(), "never into a journal that is there");
}

#[tokio::test]
async fn salvage_leaves_out_what_postgres_is_known_to_hold() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&settings(home.path()));
    let first = rig.append(saves(0..5, 100)).await.expect("accepted");
    rig.running.monitor().settled(LANE, first.plus(2), true);
    rig.append(saves(5..6, 100)).await.expect("accepted");
    let home = rig.crash(home.path());
    let target = tempfile::tempdir().expect("a directory");
    let (unsettled, all) = (target.path().join("unsettled"), target.path().join("all"));
    let salvaged = salvage(home.path(), &unsettled, Scope::Unsettled).expect("salvaged");
    assert_eq!((salvaged.saves, salvaged.settled, salvaged.lost.len()), (3, 3, 0));
    assert_eq!(Rig::start(&settings(&unsettled)).keys().await, [3, 4, 5]);
    assert_eq!(salvage(home.path(), &all, Scope::All).expect("salvaged").saves, 6);
}

#[tokio::test]
async fn salvage_knows_a_lane_that_is_no_more_by_the_floor() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::run_with(open(&settings(home.path())), limits(), &[Sequence::ZERO; 2]);
    let second = |keys| saves(keys, 100).into_iter().map(|save| Save { lane: LaneId(1), ..save }).collect::<Vec<_>>();
    let last = rig.append(second(0..3)).await.expect("accepted").plus(2);
    rig.running.monitor().settled(LaneId(1), last, true);
    rig.append(saves(3..4, 100)).await.expect("accepted");
    let crashed = rig.crash(home.path());
    let salvaged = salvage(crashed.path(), &crashed.path().with_extension("two"), Scope::Unsettled).expect("salvaged");
    assert_eq!((salvaged.saves, salvaged.settled), (1, 3), "the first lane has settled nothing: that is no floor");
    rig.append(second(4..5)).await.expect("accepted");
    rig.running.stop().await.expect("a clean end");

    // Everything is settled, and the next layout has one lane, which begins above all of it.
    let journal = open(&settings(home.path()));
    let begins = Sequence::before_run(journal.run()).expect("a run");
    let rig = Rig::run_with(journal, limits(), &[begins]);
    rig.append(saves(5..6, 100)).await.expect("accepted");
    let crashed = rig.crash(home.path());
    let salvaged = salvage(crashed.path(), &crashed.path().with_extension("one"), Scope::Unsettled).expect("salvaged");
    assert_eq!((salvaged.saves, salvaged.settled), (1, 5), "nothing of the old lanes comes after the new one's saves");
}
