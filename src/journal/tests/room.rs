//! Limits, rotation, retention, removal.

use super::*;

fn segments(home: &TempDir) -> usize {
    std::fs::read_dir(home.path().join("segments")).expect("readable").count()
}

#[tokio::test]
async fn limits_refuse_and_room_comes_back() {
    let home = tempfile::tempdir().expect("a directory");
    let limits = limits();
    limits.journal_bytes.set_max(5000);
    let rig = Rig::run(open(&settings(home.path())), limits);
    let mut last = Sequence::ZERO;
    let refused = loop {
        match rig.append(saves(0..1, 500)).await {
            Ok(sequence) => last = sequence,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, AppendError::Full(reached) if reached.name == "journal.bytes_max"), "{refused}");
    assert_eq!(rig.limits.journal_inbox_bytes.used(), 0);
    rig.running.monitor().settled(LANE, last, false);
    assert_eq!(rig.limits.journal_bytes.used(), 0, "everything is drained");
    rig.append(saves(0..1, 500)).await.expect("there is room again");

    rig.limits.journal_inbox_bytes.set_max(100);
    let refused = rig.append(saves(0..1, 500)).await.expect_err("the inbox is small");
    assert!(matches!(refused, AppendError::Full(reached) if reached.name == "journal.inbox_bytes_max"), "{refused}");
    let charged = rig.limits.journal_bytes.used();
    rig.limits.journal_inbox_bytes.set_max(1000);
    rig.append(saves(0..1, 500)).await.expect("there is room again");
    assert!(charged < 1000, "what was refused is not charged: {charged}");
}

#[tokio::test]
async fn what_was_recovered_counts_until_it_is_drained() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = settings(home.path());
    let rig = Rig::start(&settings);
    let last = rig.append(saves(0..1, 500)).await.expect("accepted");
    rig.running.stop().await.expect("a clean end");
    let rig = Rig::start(&settings);
    assert!(rig.limits.journal_bytes.used() > 500);
    rig.running.monitor().settled(LANE, last, false);
    assert_eq!(rig.limits.journal_bytes.used(), 0);
}

#[tokio::test]
async fn short_space_refuses_saves_with_the_figures() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&JournalSettings { free_bytes_min: u64::MAX, ..settings(home.path()) });
    let refused = rig.append(saves(0..1, 10)).await.expect_err("no disk is as large");
    assert!(matches!(refused, AppendError::FreeSpace { free, min: u64::MAX } if free > 0), "{refused}");
}

#[tokio::test]
async fn drained_segments_go_when_their_retention_is_over_and_not_before_the_position_was_read_back() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = JournalSettings { segment_bytes: 200_000, retention: Duration::ZERO, ..settings(home.path()) };
    let rig = Rig::start(&settings);
    let mut last = Sequence::ZERO;
    for key in 0..200 {
        last = rig.append(saves(key..key + 1, 4000)).await.expect("accepted");
    }
    rig.running.tend();
    let before = segments(&home);
    assert!(before > 4, "{before}");
    rig.running.monitor().settled(LANE, last, false);
    rig.running.tend();
    assert_eq!(segments(&home), before, "the position was not read back");
    rig.running.monitor().hold(Some(Sequence::ZERO));
    rig.running.monitor().settled(LANE, last.plus(0), true);
    rig.running.tend();
    assert_eq!(segments(&home), before, "somebody holds them");
    rig.running.monitor().hold(None);
    rig.running.tend();
    // The current segment ends too: the owner was asked to, and answers behind it in the inbox.
    let read = rig.running.reader().read(last, ALL, 1).await.expect("readable");
    assert!(read.is_empty());
    let appended = rig.append(saves(200..201, 10)).await.expect("accepted");
    rig.running.tend();
    assert_eq!(rig.keys_from(last).await, [200]);
    assert!(segments(&home) <= 3, "{}", segments(&home));
    let gone = rig.running.reader().read(Sequence::ZERO, ALL, 1).await;
    assert_eq!(gone, Err(ReadError::Gone { oldest: appended }));
    rig.running.stop().await.expect("a clean end");
    let journal = open(&settings);
    assert_eq!((journal.last(), journal.recovered().saves), (appended, 1));
}

#[tokio::test]
async fn an_idle_journal_shrinks_to_less_than_two_segments_and_keeps_its_place() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = JournalSettings { retention: Duration::ZERO, segment_bytes: 1 << 20, ..settings(home.path()) };
    let rig = Rig::start(&settings);
    let last = rig.append(batch(0..1000, 400)).await.expect("accepted");
    let last = last.plus(999);
    rig.running.monitor().settled(LANE, last, true);
    rig.running.tend();
    while rig.running.monitor().stats().segments > 1
        || rig.running.monitor().stats().last < last
        || rig.running.shared().table().current().saves > 0
    {
        rig.running.tend();
    }
    let bytes: usize = content(&home.path().join("segments")).iter().map(|(_, content)| content.len()).sum();
    assert!(bytes < 2 << 20, "{bytes}");
    let crashed = rig.crash(home.path());
    let journal = open(&JournalSettings { directory: crashed.path().to_owned(), ..settings });
    assert_eq!((journal.last(), journal.settled_hint(LANE)), (last, last), "the opening keeps what was removed in mind");
}

#[tokio::test]
async fn retention_keeps_what_is_drained_up_to_its_bytes() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = JournalSettings { segment_bytes: 200_000, retention_bytes_max: 1_000_000, ..settings(home.path()) };
    let rig = Rig::start(&settings);
    for key in 0..600 {
        let last = rig.append(saves(key..key + 1, 4000)).await.expect("accepted");
        rig.running.monitor().settled(LANE, last, true);
    }
    rig.running.tend();
    let kept = rig.running.monitor().stats();
    assert!((700_000..1_800_000).contains(&kept.bytes), "{kept:?}");
}

#[tokio::test]
async fn short_space_gives_retention_up_before_it_refuses() {
    let home = tempfile::tempdir().expect("a directory");
    let free = {
        let rig = Rig::start(&settings(home.path()));
        rig.running.monitor().stats().free_bytes
    };
    let home = tempfile::tempdir().expect("a directory");
    // The floor itself is far below, but the margin above it is not.
    let settings = JournalSettings { segment_bytes: 200_000, free_bytes_min: free / 2, ..settings(home.path()) };
    let rig = Rig::start(&settings);
    for key in 0..100 {
        let last = rig.append(saves(key..key + 1, 4000)).await.expect("accepted");
        rig.running.monitor().settled(LANE, last, true);
    }
    rig.running.tend();
    let unpressed = segments(&home);
    rig.running.stop().await.expect("a clean end");
    let rig = Rig::start(&JournalSettings { segment_bytes: free, ..settings });
    let last = rig.append(saves(0..1, 10)).await.expect("not refused");
    rig.running.monitor().settled(LANE, last, true);
    rig.running.tend();
    assert!(segments(&home) < unpressed, "{} of {unpressed} segments are left", segments(&home));
    rig.append(saves(0..1, 10)).await.expect("still not refused");
}

#[tokio::test]
async fn a_position_that_falls_pins_what_was_drained() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = JournalSettings { segment_bytes: 200_000, retention: Duration::from_secs(3600), ..settings(home.path()) };
    let rig = Rig::start(&settings);
    let (mut first, mut last) = (None, Sequence::ZERO);
    for key in 0..200 {
        last = rig.append(saves(key..key + 1, 4000)).await.expect("accepted");
        first.get_or_insert(last);
    }
    let first = first.expect("appended");
    let monitor = rig.running.monitor();
    monitor.settled(LANE, last, true);
    rig.running.tend();
    let (held, now) = (segments(&home), std::time::Instant::now());
    let pressed = table::Retention { time: Duration::ZERO, bytes: 0, pressed: true };
    assert!(held > 4 && rig.running.shared().table().removable(now, pressed).is_some(), "all is drained");

    monitor.settled(LANE, first, true);
    rig.running.tend();
    assert_eq!(rig.running.shared().table().removable(now, pressed), None, "postgres is written again from here");
    assert_eq!(rig.keys().await.len(), 200);
    assert_eq!(rig.limits.journal_bytes.used(), 0, "what was given back is not charged again");

    monitor.settled(LANE, last, true);
    rig.running.tend();
    assert!(monitor.stats().retained < now.elapsed(), "the retention began anew");
    rig.running.stop().await.expect("a clean end");
    assert_eq!(open(&settings).settled_hint(LANE), last);
}

impl Rig {
    async fn keys_from(&self, after: Sequence) -> Vec<u64> {
        self.running.reader().read(after, ALL, 1 << 20).await.expect("readable").iter().map(key_of).collect()
    }
}

#[tokio::test]
async fn the_floor_is_the_smallest_position_over_all_lanes() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = JournalSettings { retention: Duration::ZERO, segment_bytes: 1 << 20, ..settings(home.path()) };
    let rig = Rig::run_with(open(&settings), limits(), &[Sequence::ZERO; 2]);
    let last = rig.append(batch(0..1000, 400)).await.expect("accepted").plus(999);
    let charged = rig.limits.journal_bytes.used();
    rig.running.monitor().settled(LANE, last, true);
    rig.running.tend();
    assert_eq!(rig.limits.journal_bytes.used(), charged, "the second lane may need all of it");
    assert_eq!(rig.running.monitor().oldest(), Sequence::ZERO);
    rig.running.monitor().settled(LaneId(1), last, true);
    assert_eq!(rig.limits.journal_bytes.used(), 0);
    while rig.running.monitor().stats().segments > 1 || rig.running.monitor().oldest() < last {
        rig.running.tend();
    }
}
