//! What the audit lets pass and what it refuses.

use super::*;

/// A killed journal of six saves, a group each, and what is in it.
struct Killed {
    home: TempDir,
    segment: u64,
    last_chunk: u64,
}

impl Killed {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let rig = Rig::start(&settings(home.path()));
        for key in 0..6 {
            rig.append(saves(key..key + 1, 100)).await.expect("accepted");
        }
        let home = rig.crash(home.path());
        let (segment, witness) = newest_segment(home.path());
        let last_chunk = *witness.chunks.keys().next_back().expect("chunks");
        Self { home, segment, last_chunk }
    }

    fn settings(&self) -> JournalSettings {
        settings(self.home.path())
    }

    async fn keys(&self) -> Vec<u64> {
        Rig::start(&self.settings()).keys().await
    }

    /// The directory stays byte for byte as it was.
    fn is_refused_untouched(&self) -> String {
        let before = content(self.home.path());
        let report = open_damaged(&self.settings());
        assert!(content(self.home.path()) == before, "a damaged journal must not be modified");
        assert_eq!(std::fs::read_dir(self.home.path()).expect("readable").count(), 4);
        report.to_string()
    }
}

#[tokio::test]
async fn the_last_group_is_carried_when_nothing_calls_it_synced() {
    let killed = Killed::new().await;
    set_watermark(killed.home.path(), killed.last_chunk - 1);
    let journal = open(&killed.settings());
    assert_eq!(journal.recovered().carried_groups, 1);
    assert_eq!(Rig::run(journal, limits()).keys().await, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_torn_last_group_is_dropped_only_if_nothing_calls_it_synced() {
    let killed = Killed::new().await;
    destroy(killed.home.path(), killed.segment, killed.last_chunk);
    set_watermark(killed.home.path(), killed.last_chunk);
    let report = killed.is_refused_untouched();
    assert!(report.contains(&format!("chunks {0} to {0} were synced", killed.last_chunk)), "{report}");
    assert!(report.contains(&format!("segment {}", killed.segment)), "{report}");

    set_watermark(killed.home.path(), killed.last_chunk - 1);
    assert_eq!(killed.keys().await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_group_torn_in_its_middle_is_dropped_and_counted() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&settings(home.path()));
    rig.append(saves(0..1, 10)).await.expect("accepted");
    rig.append(batch(1..5, 100_000)).await.expect("accepted");
    let home = rig.crash(home.path());
    let (segment, witness) = newest_segment(home.path());
    let last = *witness.chunks.keys().next_back().expect("chunks");
    drop(witness);
    destroy(home.path(), segment, last - 3);
    set_watermark(home.path(), last - 8);
    let journal = open(&settings(home.path()));
    assert!(journal.recovered().torn_chunks >= 6, "{:?}", journal.recovered());
    assert_eq!(Rig::run(journal, limits()).keys().await, [0]);
}

#[tokio::test]
async fn damage_in_the_middle_refuses_with_a_report() {
    let killed = Killed::new().await;
    set_watermark(killed.home.path(), 0);
    destroy(killed.home.path(), killed.segment, killed.last_chunk - 2);
    let report = killed.is_refused_untouched();
    assert!(report.contains("were synced but are damaged or gone"), "{report}");
    assert!(report.contains(&format!("chunks {} to {}", killed.last_chunk - 2, killed.last_chunk - 1)), "{report}");
}

#[tokio::test]
async fn a_store_that_lost_what_is_on_disk_refuses() {
    let killed = Killed::new().await;
    let path = segment_path(killed.home.path(), killed.segment);
    let store = store::Store::open(&path, 1 << 20).expect("a store");
    store.lose_chunk(killed.last_chunk - 2);
    store.close().expect("closed");
    let report = killed.is_refused_untouched();
    assert!(report.contains("the store doesn't find it"), "{report}");
}

#[tokio::test]
async fn a_missing_segment_refuses_wherever_it_was() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = JournalSettings { segment_bytes: 100_000, ..settings(home.path()) };
    let rig = Rig::start(&settings);
    for key in 0..100 {
        rig.append(saves(key..key + 1, 4000)).await.expect("accepted");
    }
    rig.running.stop().await.expect("a clean end");
    for (at, finding) in [(1, "what is between is damaged or gone"), (0, "are gone, with saves up to"), (3, "")] {
        let copy = copy_of(home.path());
        let mut segments: Vec<_> =
            std::fs::read_dir(copy.path().join("segments")).expect("readable").map(|e| e.expect("readable").path()).collect();
        segments.sort();
        assert!(segments.len() > 4);
        std::fs::remove_dir_all(&segments[at]).expect("removed");
        let report = open_damaged(&JournalSettings { directory: copy.path().to_owned(), ..settings.clone() });
        assert!(report.to_string().contains(finding), "{report}");
    }
    let copy = copy_of(home.path());
    std::fs::remove_dir_all(copy.path().join("segments")).expect("removed");
    open_damaged(&JournalSettings { directory: copy.path().to_owned(), ..settings.clone() });
    let copy = copy_of(home.path());
    std::fs::remove_dir_all(copy.path().join("ledger")).expect("removed");
    open_damaged(&JournalSettings { directory: copy.path().to_owned(), ..settings });
}

#[tokio::test]
async fn a_segment_whose_removal_failed_goes_at_the_next_start() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = JournalSettings { segment_bytes: 100_000, retention: Duration::ZERO, ..settings(home.path()) };
    let rig = Rig::start(&settings);
    let mut last = Sequence::ZERO;
    for key in 0..100 {
        last = rig.append(saves(key..key + 1, 4000)).await.expect("accepted");
    }
    std::fs::create_dir_all(home.path().join(".trash-0000000001/in the way")).expect("created");
    rig.running.monitor().settled(LANE, last, true);
    rig.running.tend();
    let [first, second] = [1, 2].map(|segment| segment_path(home.path(), segment));
    assert!(first.exists() && !second.exists());
    rig.running.stop().await.expect("a clean end");
    let journal = open(&settings);
    assert_eq!((journal.last(), first.exists()), (last, false));
}

#[tokio::test]
async fn damage_in_a_closed_segment_is_found_when_it_is_read() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = settings(home.path());
    let rig = Rig::start(&settings);
    for key in 0..6 {
        rig.append(saves(key..key + 1, 100)).await.expect("accepted");
    }
    rig.running.stop().await.expect("a clean end");
    let (segment, witness) = newest_segment(home.path());
    let chunk = *witness.chunks.keys().next_back().expect("chunks") - 2;
    destroy(home.path(), segment, chunk);
    let before = content(&segment_path(home.path(), segment));
    let rig = Rig::start(&settings);
    let read = rig.running.reader().read(Sequence::ZERO, ALL, 1 << 20).await;
    assert!(matches!(&read, Err(ReadError::Damaged(what)) if what.contains(&format!("segment {segment}"))), "{read:?}");
    rig.running.stop().await.expect("a clean end");
    assert!(content(&segment_path(home.path(), segment)) == before, "what is left is for salvage");
}

#[tokio::test]
async fn segments_of_another_journal_refuse() {
    let (one, other) = (Killed::new().await, Killed::new().await);
    let strange = segment_path(one.home.path(), one.segment + 7);
    store::copy(&segment_path(other.home.path(), other.segment), &strange).expect("copied");
    let report = one.is_refused_untouched();
    assert!(report.contains("holds chunks of another segment"), "{report}");
    std::fs::remove_dir_all(strange).expect("removed");
    std::fs::remove_dir_all(segment_path(one.home.path(), one.segment)).expect("removed");
    store::copy(&segment_path(other.home.path(), other.segment), &segment_path(one.home.path(), one.segment)).expect("copied");
    assert!(one.is_refused_untouched().contains("belongs to another journal"));
}

#[tokio::test]
async fn a_damaged_ledger_refuses_untouched() {
    let killed = Killed::new().await;
    for (file, at, finding) in [("conf", 34, "the store can't open the ledger"), ("conf", 0, "the store can't open the ledger")] {
        let path = killed.home.path().join("ledger").join(file);
        let sound = std::fs::read(&path).expect("readable");
        let mut damaged = sound.clone();
        damaged[at] ^= 0x80;
        std::fs::write(&path, damaged).expect("written");
        let report = killed.is_refused_untouched();
        assert!(report.contains(finding), "{report}");
        assert!(!verify(killed.home.path()).expect("readable").is_sound());
        std::fs::write(&path, sound).expect("written");
    }
    assert_eq!(killed.keys().await, [0, 1, 2, 3, 4, 5]);
}

/// To the store damage at a ledger's end is a write that a crash cut short: what is left of it is sound, and older.
#[tokio::test]
async fn a_ledger_that_lost_its_newest_values_refuses_untouched() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&settings(home.path()));
    rig.append(saves(0..3, 100)).await.expect("accepted");
    rig.running.ledger().put("key", b"old").expect("put");
    rig.running.stop().await.expect("stopped");
    let older = copy_of(home.path());
    let rig = Rig::start(&settings(home.path()));
    rig.running.ledger().put("key", b"new").expect("put");
    rig.running.stop().await.expect("stopped");
    let damaged = copy_of(home.path());
    std::fs::remove_dir_all(damaged.path().join("ledger")).expect("removed");
    store::copy(&older.path().join("ledger"), &damaged.path().join("ledger")).expect("copied");
    let before = content(damaged.path());
    let report = open_damaged(&settings(damaged.path())).to_string();
    assert!(report.contains("its newest values are gone"), "{report}");
    assert!(content(damaged.path()) == before, "a damaged journal must not be modified");
    assert!(!verify(damaged.path()).expect("readable").is_sound());
    let rig = Rig::start(&settings(home.path()));
    assert_eq!(rig.running.ledger().get("key").expect("readable").as_deref(), Some(&b"new"[..]));
    assert_eq!(rig.keys().await, [0, 1, 2]);
}

/// The state of a crash while recovery wrote the tail again: the old segment as it was, and the new one beside it.
struct Interrupted {
    killed: Killed,
    next: u64,
}

impl Interrupted {
    async fn new() -> Self {
        let killed = Killed::new().await;
        set_watermark(killed.home.path(), killed.last_chunk - 1);
        let recovered = copy_of(killed.home.path());
        drop(open(&settings(recovered.path())));
        let (next, _) = newest_segment(recovered.path());
        assert!(next > killed.segment);
        store::copy(&segment_path(recovered.path(), next), &segment_path(killed.home.path(), next)).expect("copied");
        Self { killed, next }
    }

    fn chunks(&self) -> Vec<u64> {
        let (segment, witness) = newest_segment(self.killed.home.path());
        assert_eq!(segment, self.next);
        witness.chunks.keys().copied().collect()
    }
}

#[tokio::test]
async fn a_carried_tail_survives_a_second_crash() {
    let whole = Interrupted::new().await;
    assert_eq!(whole.chunks().len(), 2, "an opening and the carried group");
    let journal = open(&whole.killed.settings());
    assert_eq!(journal.recovered().carried_groups, 1, "nothing called it synced in its new place either");
    assert_eq!(Rig::run(journal, limits()).keys().await, [0, 1, 2, 3, 4, 5]);

    for lost in [0, 1] {
        let torn = Interrupted::new().await;
        destroy(torn.killed.home.path(), torn.next, torn.chunks()[lost]);
        assert_eq!(torn.killed.keys().await, [0, 1, 2, 3, 4, 5], "the segment before still has it");
    }

    let gone = Interrupted::new().await;
    destroy(gone.killed.home.path(), gone.next, gone.chunks()[1]);
    set_watermark(gone.killed.home.path(), gone.chunks()[0] + 1);
    gone.killed.is_refused_untouched();
}

#[tokio::test]
async fn a_crash_before_the_earlier_segments_are_closed_changes_nothing() {
    let killed = Killed::new().await;
    set_watermark(killed.home.path(), killed.last_chunk - 1);
    let rig = Rig::start(&killed.settings());
    rig.append(saves(6..7, 10)).await.expect("accepted");
    let crashed = rig.crash(killed.home.path());
    std::fs::remove_file(segment_path(crashed.path(), killed.segment).join("closed")).expect("the mark");
    let rig = Rig::start(&settings(crashed.path()));
    assert_eq!(rig.keys().await, [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_later_format_refuses_and_says_so() {
    let killed = Killed::new().await;
    let path = segment_path(killed.home.path(), killed.segment);
    let mut store = store::Store::open(&path, 1 << 20).expect("a store");
    let mut value = store.chunk(killed.last_chunk).expect("readable").expect("there").to_vec();
    value.truncate(value.len() - 4);
    value[4] = 2;
    framing::seal(&mut value);
    store.put_chunk(killed.last_chunk + 1, &value).expect("put");
    store.close().expect("closed");
    assert!(killed.is_refused_untouched().contains("start the later Forebay"));
}

/// Bytes of the newest segment's file rot. Refused, or nothing is missing: but for the last group, if it was not yet
/// called synced.
#[test]
fn random_rot_is_never_passed_over() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let killed = runtime.block_on(Killed::new());
    let length = std::fs::metadata(segment_path(killed.home.path(), killed.segment).join("db")).expect("there").len();
    let (seed, cases) = (fastrand::u64(..), 60);
    let mut random = fastrand::Rng::with_seed(seed);
    for case in 0..cases {
        let copy = copy_of(killed.home.path());
        set_watermark(copy.path(), killed.last_chunk - 1);
        let file = File::options().write(true).open(segment_path(copy.path(), killed.segment).join("db")).expect("a file");
        for _ in 0..random.u32(1..4) {
            file.write_all_at(&[random.u8(..)], random.u64(0..length)).expect("written");
        }
        let outcome = Journal::open(&settings(copy.path()));
        match outcome {
            Err(OpenError::Damaged(_)) => {}
            Ok(journal) => {
                let keys = runtime.block_on(Rig::run(journal, limits()).keys());
                assert!(keys == [0, 1, 2, 3, 4, 5] || keys == [0, 1, 2, 3, 4], "seed {seed}, case {case}: {keys:?}");
            }
            Err(other) => panic!("seed {seed}, case {case}: {other}"),
        }
    }
}

#[test]
fn a_panic_of_the_store_is_a_finding_in_releases_too() {
    let audited = recovery::caught(Path::new("segment"), || panic!("an assertion of sled"));
    assert!(matches!(audited, Err(OpenError::Damaged(report)) if report.to_string().contains("the store panics")));
    let manifest: toml::Table = include_str!("../../../Cargo.toml").parse().expect("a manifest");
    assert_eq!(manifest["profile"]["release"]["panic"].as_str(), Some("unwind"));
}
