//! Appending, reading, stopping, failing.

use super::*;

#[tokio::test]
async fn saves_are_numbered_offered_and_found_after_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = settings(home.path());
    let rig = Rig::start(&settings);
    let first = rig.append(saves(0..3, 10)).await.expect("accepted");
    let next = rig.append(saves(3..5, 10)).await.expect("accepted");
    assert_eq!((first.run(), next), (1, first.plus(3)));
    let offered: Vec<_> = rig.offered.lock().expect("no panic").iter().map(|accepted| accepted.sequence).collect();
    assert_eq!(offered, (0..5).map(|n| first.plus(n)).collect::<Vec<_>>());
    rig.running.stop().await.expect("a clean end");
    assert_eq!(rig.groups.lock().expect("no panic").iter().map(|group| group.saves).sum::<u32>(), 5);

    let journal = open(&settings);
    assert_eq!((journal.run(), journal.last()), (2, next.plus(1)));
    assert_eq!(journal.recovered().carried_groups, 0, "after a clean end everything is known to be synced");
    assert_eq!(journal.recovered().saves, 5);
    let rig = Rig::run(journal, limits());
    assert_eq!(rig.append(saves(5..6, 10)).await.expect("accepted").run(), 2);
    let entries = rig.entries().await;
    assert_eq!(entries.iter().map(key_of).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    let expected = save(4, 10);
    assert_eq!(entries[4].record.change, expected.change);
    assert_eq!((entries[4].record.accepted_at, &*entries[4].record.collection), (expected.accepted_at, "players"));
    rig.running.stop().await.expect("a clean end");
}

#[tokio::test]
async fn restarts_leave_no_row_of_empty_segments_and_keep_the_position() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = settings(home.path());
    let rig = Rig::start(&settings);
    let last = rig.append(saves(0..1, 10)).await.expect("accepted");
    rig.running.monitor().settled(LANE, last, true);
    rig.running.stop().await.expect("a clean end");
    for run in 2..6 {
        let journal = open(&settings);
        assert_eq!((journal.run(), journal.last(), journal.settled_hint(LANE)), (run, last, last));
        assert_eq!(std::fs::read_dir(home.path().join("segments")).expect("readable").count(), 2);
        Rig::run(journal, limits()).running.stop().await.expect("a clean end");
    }
}

#[tokio::test]
async fn a_dropped_future_cancels_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&settings(home.path()));
    drop(rig.running.appender().append(&collections(), saves(0..1, 10)));
    rig.append(saves(1..2, 10)).await.expect("accepted");
    assert_eq!(rig.keys().await, [0, 1]);
}

#[tokio::test]
async fn stopping_finishes_what_was_taken_and_refuses_what_comes_after() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = settings(home.path());
    let rig = Rig::start(&settings);
    let appender = rig.running.appender();
    let waiting: Vec<_> = (0..100).map(|key| appender.append(&collections(), saves(key..key + 1, 500))).collect();
    rig.running.stop().await.expect("a clean end");
    for outcome in waiting {
        outcome.await.expect("taken before the stop");
    }
    assert_eq!(appender.append(&collections(), saves(0..1, 10)).await, Err(AppendError::Stopped));
    assert_eq!(Rig::start(&settings).keys().await.len(), 100);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_or_offered_again() {
    let home = tempfile::tempdir().expect("a directory");
    let mut journal = open(&settings(home.path()));
    journal.segment.break_sync();
    let rig = Rig::run(journal, limits());
    assert_eq!(rig.append(saves(0..1, 10)).await, Err(AppendError::OutcomeUnknown));
    assert!(rig.fatal.recv().expect("told").starts_with("write the journal: "));
    let (told, outcome) = mpsc::channel();
    rig.running.appender().append_with(&collections(), saves(1..2, 10), move |outcome| told.send(outcome).expect("the test waits"));
    assert_eq!(outcome.recv(), Ok(Err(AppendError::OutcomeUnknown)));
    assert!(rig.offered.lock().expect("no panic").is_empty());
    assert!(rig.running.stop().await.is_err());
}

#[tokio::test]
async fn a_ledger_that_fails_fails_the_journal() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&settings(home.path()));
    rig.append(saves(0..1, 10)).await.expect("accepted");
    let ledger = rig.running.ledger();
    ledger.break_sync();
    assert!(matches!(ledger.put("key", b"value"), Err(LedgerError::Failed(_))));
    assert!(rig.fatal.try_recv().expect("told before the ledger's user").starts_with("write the ledger: "));
    assert_eq!(rig.append(saves(1..2, 10)).await, Err(AppendError::OutcomeUnknown));
    assert!(rig.running.stop().await.is_err());
}

#[tokio::test]
async fn a_panic_on_the_journals_thread_leaves_nobody_waiting() {
    let home = tempfile::tempdir().expect("a directory");
    let (tell, fatal) = mpsc::channel();
    let events = Events {
        offer: Box::new(|_| panic!("a bug in the backlog")),
        on_group: Box::new(drop),
        on_fatal: Box::new(move |reason| drop(tell.send(reason))),
    };
    let running = open(&settings(home.path())).start(&limits(), &[Sequence::ZERO], events).expect("threads");
    assert_eq!(running.appender().append(&collections(), saves(0..1, 10)).await, Err(AppendError::OutcomeUnknown));
    assert!(fatal.recv().expect("told").contains("panicked"));
    assert_eq!(running.appender().append(&collections(), saves(0..1, 10)).await, Err(AppendError::OutcomeUnknown));
}

#[tokio::test]
async fn a_poisoned_backlog_fails_the_journal() {
    let home = tempfile::tempdir().expect("a directory");
    let (tell, fatal) = mpsc::channel();
    let backlog = Arc::new(Mutex::new(()));
    let held = Arc::clone(&backlog);
    let poisoned = std::thread::spawn(move || {
        let _held = held.lock();
        panic!("a bug in a lane")
    });
    assert!(poisoned.join().is_err());
    let events = Events {
        offer: Box::new(move |_| drop(backlog.lock().expect("nothing panics under this lock"))),
        on_group: Box::new(drop),
        on_fatal: Box::new(move |reason| drop(tell.send(reason))),
    };
    let running = open(&settings(home.path())).start(&limits(), &[Sequence::ZERO], events).expect("threads");
    assert_eq!(running.appender().append(&collections(), saves(0..1, 10)).await, Err(AppendError::OutcomeUnknown));
    assert!(fatal.recv().expect("told").contains("panicked"));
}

#[tokio::test]
async fn a_sync_that_hangs_fails_the_journal() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&JournalSettings { sync_timeout: Duration::from_millis(20), ..settings(home.path()) });
    let (told, outcome) = mpsc::channel();
    let done = appender::Done::Call(Some(Box::new(move |outcome| told.send(outcome).expect("the test waits"))));
    rig.running.shared().begin_write(vec![(done, Sequence::ZERO)]).expect("the write that hangs");
    assert!(rig.fatal.recv().expect("told").contains("journal.sync_timeout"));
    assert_eq!(outcome.recv(), Ok(Err(AppendError::OutcomeUnknown)));
    assert!(rig.running.shared().end_write().is_err(), "the owner may tell nobody of success any more");
    assert_eq!(rig.append(saves(0..1, 10)).await, Err(AppendError::OutcomeUnknown));
}

#[tokio::test]
async fn a_janitor_that_hangs_is_under_the_watchdog() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = JournalSettings { segment_bytes: 1, ..settings(home.path()) };
    let journal = open(&settings);
    let table = table::Table::new(journal.closed, journal.segment.summary().clone());
    let on_fatal = shared::OnFatal(Box::new(drop));
    let shared = Arc::new(shared::Shared::new(table, &[Sequence::ZERO], &limits(), on_fatal));
    shared.space.measure(home.path()).expect("measured");
    shared.space.decide();
    let events = Events { offer: Box::new(drop), on_group: Box::new(drop), on_fatal: Box::new(drop) };
    let (jobs, _jobs_of_nobody) = mpsc::channel();
    let (janitor_that_hangs, prepared) = mpsc::channel();
    let owner = owner::Owner::new(&settings, Arc::clone(&shared), events, jobs, prepared, journal.segment, journal.before_run);
    let owner = std::thread::spawn(move || owner.run());

    let appender = Appender::new(Arc::clone(&shared));
    appender.append(&collections(), saves(0..1, 10)).await.expect("accepted");
    let behind = appender.append(&collections(), saves(1..2, 10));
    let patience = std::time::Instant::now() + Duration::from_secs(10);
    while shared.writing_for().is_none_or(|time| time < Duration::from_millis(50)) {
        assert!(std::time::Instant::now() < patience, "the watchdog sees nothing");
        std::thread::yield_now();
    }
    let failing = Arc::clone(&shared);
    std::thread::spawn(move || failing.fail("as the watchdog does".to_owned())).join().expect("told");
    assert_eq!(behind.await, Err(AppendError::OutcomeUnknown));
    drop(janitor_that_hangs);
    owner.join().expect("it ends");
}

#[tokio::test]
async fn entries_are_read_from_closed_and_current_segments_while_appending() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&JournalSettings { segment_bytes: 300_000, group_saves_max: 16, ..settings(home.path()) });
    let (appender, reader) = (rig.running.appender(), rig.running.reader());
    let writer = tokio::spawn(async move {
        for key in 0..600 {
            appender.append(&collections(), saves(key * 4..key * 4 + 4, 400)).await.expect("accepted");
        }
    });
    let mut read: Vec<Entry> = Vec::new();
    while read.len() < 2400 {
        let after = read.last().map_or(Sequence::ZERO, |entry| entry.sequence);
        read.extend(reader.read(after, ALL, 20_000).await.expect("readable"));
        tokio::task::yield_now().await;
    }
    writer.await.expect("no panic");
    assert_eq!(read.iter().map(key_of).collect::<Vec<_>>(), (0..2400).collect::<Vec<_>>());
    assert!(rig.running.monitor().stats().segments > 3, "several segments were written: {:?}", rig.running.monitor().stats());
    rig.running.stop().await.expect("a clean end");
}

#[tokio::test]
async fn a_reader_gets_whole_batches_up_to_where_it_asked() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&settings(home.path()));
    let first = rig.append(batch(0..10, 1000)).await.expect("accepted");
    rig.append(batch(10..20, 1000)).await.expect("accepted");
    let reader = rig.running.reader();
    let read = |after, through, bytes| {
        let reader = reader.clone();
        async move { reader.read(after, through, bytes).await.expect("readable").len() }
    };
    assert_eq!(read(Sequence::ZERO, ALL, 1).await, 10, "one batch at least");
    assert_eq!(read(Sequence::ZERO, ALL, 1 << 20).await, 20);
    assert_eq!(read(Sequence::ZERO, first.plus(9), 1 << 20).await, 10);
    assert_eq!(read(Sequence::ZERO, first.plus(12), 1 << 20).await, 10, "a batch is never cut");
    assert_eq!(read(first.plus(9), ALL, 1 << 20).await, 10);
    assert_eq!(read(first.plus(19), ALL, 1 << 20).await, 0);
}

#[tokio::test]
async fn bodies_and_batches_at_their_limits_make_no_blobs() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = JournalSettings { segment_bytes: 24 << 20, ..settings(home.path()) };
    let rig = Rig::start(&settings);
    let mut expected = 0;
    for round in 0..12 {
        expected += rig.append(batch(round * 10..round * 10 + 4, (1 << 20) - 20)).await.map(|_| 4).expect("four bodies of 1 MiB");
        expected += rig.append(saves(round * 10 + 4..round * 10 + 5, 1)).await.map(|_| 1).expect("a small one");
        expected += rig.append(batch(0..10_000, 1)).await.map(|_| 10_000).expect("as many saves as a batch may hold");
    }
    assert_eq!(rig.entries().await.len(), expected);
    for segment in std::fs::read_dir(home.path().join("segments")).expect("readable") {
        let blobs = segment.expect("readable").path().join("blobs");
        assert_eq!(std::fs::read_dir(&blobs).expect("readable").count(), 0, "{} must stay empty: sled never syncs it", blobs.display());
    }
    rig.running.stop().await.expect("a clean end");
    assert_eq!(Rig::start(&settings).entries().await.len(), expected);
}

#[tokio::test]
async fn the_lock_names_its_holder() {
    let home = tempfile::tempdir().expect("a directory");
    let settings = settings(home.path());
    let journal = open(&settings);
    let refused = Journal::open(&settings).expect_err("in use").to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    drop(journal);
    open(&settings);
}

#[test]
fn directories_that_others_can_change_are_refused() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let home = tempfile::tempdir().expect("a directory");
    let refusal = |path: &Path| match Journal::open(&settings(path)) {
        Err(OpenError::Directory { reason, .. }) => reason,
        other => panic!("should be refused: {other:?}"),
    };
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o770)).expect("changed");
    assert!(refusal(home.path()).contains("chmod 700"));
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).expect("changed");
    let foreign = match rustix::process::geteuid().is_root() {
        true => chown(home.path(), Some(1), None).map(|()| home.path().to_owned()).expect("root may"),
        false => PathBuf::from("/usr"),
    };
    assert!(refusal(&foreign).contains("belongs to user"));
    assert!(refusal(Path::new("/proc/forebay")).contains("can't be created"));
}

#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&settings(home.path()));
    rig.append(saves(0..1, 10)).await.expect("accepted");
    rig.running.stop().await.expect("a clean end");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(home.path()), 0o700);
    for (path, _) in content(home.path()) {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}
