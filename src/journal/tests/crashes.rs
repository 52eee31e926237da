//! Random appends, crashes and restarts against a list of what was answered.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Appends of so many saves of so many bytes, in flight together.
    Append(Vec<(usize, usize)>),
    /// Everything is drained.
    Settle,
    /// Killed while it wrote so many chunks of one more group.
    Kill(usize),
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = prop_oneof![8 => 0..300usize, 1 => 30_000..120_000usize];
    prop_oneof![
        6 => prop::collection::vec((1..6usize, sizes), 1..12).prop_map(Step::Append),
        1 => Just(Step::Settle),
        3 => (0..4usize).prop_map(Step::Kill),
        1 => Just(Step::Stop),
    ]
}

/// What must be found, and what may be.
#[derive(Default)]
struct Model {
    next_key: u64,
    answered: Vec<u64>,
}

async fn run(steps: Vec<Step>) {
    let mut home = tempfile::tempdir().expect("a directory");
    let small =
        |home: &TempDir| JournalSettings { segment_bytes: 150_000, group_bytes_max: 60_000, group_saves_max: 9, ..settings(home.path()) };
    let mut rig = Rig::start(&small(&home));
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Append(appends) => {
                let appender = rig.running.appender();
                let mut answers = Vec::new();
                for (count, bytes) in appends {
                    let keys = model.next_key..model.next_key + count as u64;
                    model.next_key = keys.end;
                    answers.push((keys.clone(), appender.append(&collections(), batch(keys, bytes))));
                }
                for (keys, answer) in answers {
                    answer.await.expect("accepted");
                    model.answered.extend(keys);
                }
            }
            Step::Settle => rig.running.monitor().settled(LANE, rig.running.monitor().stats().last, false),
            Step::Kill(torn) => {
                home = rig.crash(home.path());
                tear(home.path(), torn);
                rig = Rig::start(&small(&home));
            }
            Step::Stop => {
                rig.running.stop().await.expect("a clean end");
                rig = Rig::start(&small(&home));
            }
        }
        // Every key once, in order: nothing lost, nothing doubled.
        assert_eq!(rig.keys().await, model.answered);
    }
    rig.running.stop().await.expect("a clean end");
}

/// Some chunks of one more group, as a power cut may leave them. Put there behind the journal's back.
fn tear(directory: &Path, chunks: usize) {
    if chunks == 0 {
        return;
    }
    let (segment, witness) = newest_segment(directory);
    let (&last, seen) = witness.chunks.last_key_value().expect("chunks");
    let path = segment_path(directory, segment);
    let mut store = store::Store::open(&path, 1 << 20).expect("a store");
    let (mut previous, mut buffer) = (seen.checksum, Vec::new());
    for n in 0..chunks as u32 {
        let first = Sequence::from_u64(u64::MAX >> 2);
        let number = last + 1 + u64::from(n);
        let header = framing::Header {
            kind: framing::Kind::Group,
            number,
            part: n,
            parts: chunks as u32 + 1,
            first,
            saves: 1,
            synced_through: last,
            previous,
            ..seen.header.clone()
        };
        framing::begin(&header, &[], &mut buffer);
        buffer.extend_from_slice(&[7; 500]);
        previous = framing::seal(&mut buffer);
        store.put_chunk(number, &buffer).expect("put");
    }
    store.close().expect("closed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn no_answered_append_is_ever_lost_or_doubled(steps in prop::collection::vec(step(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(run(steps));
    }
}

#[tokio::test]
async fn a_kill_in_full_flight_loses_no_answered_append() {
    let home = tempfile::tempdir().expect("a directory");
    let small = |home: &Path| JournalSettings { segment_bytes: 150_000, group_saves_max: 64, ..settings(home) };
    let rig = Rig::start(&small(home.path()));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (appender, answered) = (rig.running.appender(), Arc::clone(&answered));
        tasks.spawn(async move {
            for n in 0..150 {
                let key = task * 1000 + n;
                appender.append(&collections(), saves(key..key + 1, 300)).await.expect("accepted");
                answered.lock().expect("no panic").push(key);
            }
        });
    }
    let mut crashes = Vec::new();
    while !tasks.is_empty() {
        let before: Vec<u64> = answered.lock().expect("no panic").clone();
        // A copy while files change is no exact moment, and a file that vanishes under it is no crash: such a copy is left out.
        let copy = tempfile::tempdir().expect("a directory");
        if before.len() > crashes.len() * 150 && crashes.len() < 6 && snapshot(home.path(), copy.path()).is_ok() {
            crashes.push((copy, before));
        }
        tasks.join_next().await;
    }
    for (copy, before) in crashes {
        let found = Rig::start(&small(copy.path())).keys().await;
        let missing: Vec<_> = before.iter().filter(|key| !found.contains(key)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

/// Copies what a kill leaves. The watermark and the ledger first: they must never claim more than the segments copied after them
/// hold.
fn snapshot(from: &Path, to: &Path) -> std::io::Result<()> {
    for name in ["watermark", "LOCK"] {
        std::fs::copy(from.join(name), to.join(name))?;
    }
    store::copy(&from.join("ledger"), &to.join("ledger"))?;
    store::copy(&from.join("segments"), &to.join("segments"))
}

/// The power goes while a group is written: of what its sync had not yet reached, every sector and the file's new length are
/// there or not, as it happens.
#[tokio::test]
async fn a_power_cut_in_the_middle_of_a_group_loses_no_group_before_it() {
    let home = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(&settings(home.path()));
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut keys = 0;
    let mut before = rig.crash(home.path());
    for group in 0..20 {
        let bytes = if random.u8(..4) == 0 { random.usize(20_000..150_000) } else { random.usize(0..3000) };
        rig.append(batch(keys..keys + 3, bytes)).await.expect("accepted");
        let after = rig.crash(home.path());
        for _ in 0..2 {
            let cut = copy_of(before.path());
            mix(cut.path(), after.path(), &mut random);
            let found = Rig::start(&settings(cut.path())).keys().await;
            let (answered, unanswered) = ((0..keys).collect::<Vec<_>>(), (0..keys + 3).collect::<Vec<_>>());
            assert!(found == answered || found == unanswered, "seed {seed}, group {group}: {found:?}");
        }
        keys += 3;
        before = after;
    }
}

/// The same with two groups under way: the second is written while the first is not yet synced.
#[tokio::test]
async fn a_power_cut_with_two_groups_under_way_keeps_them_whole_and_in_order() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..12 {
        let home = tempfile::tempdir().expect("a directory");
        let rig = Rig::start(&settings(home.path()));
        rig.append(batch(0..3, 500)).await.expect("accepted");
        rig.running.stop().await.expect("a clean end");
        let mut journal = open(&settings(home.path()));
        let before = copy_of(home.path());
        let mut first = journal.before_run.plus(1);
        for keys in [3..6, 6..9] {
            let bytes = if random.u8(..4) == 0 { random.usize(20_000..150_000) } else { random.usize(0..3000) };
            let mut records = Vec::new();
            batch(keys, bytes).iter().for_each(|save| record::encode(save, &collections().get(save.collection).name, &mut records));
            journal.segment.put(first, 3, [&records[..]].into_iter(), &Vec::new()).expect("put");
            journal.segment.write_out().expect("written out");
            first = first.plus(3);
        }
        let after = copy_of(home.path());
        for _ in 0..3 {
            let cut = copy_of(before.path());
            mix(cut.path(), after.path(), &mut random);
            let found = Rig::start(&settings(cut.path())).keys().await;
            let whole = [3, 6, 9].into_iter().any(|keys| found == (0..keys).collect::<Vec<_>>());
            assert!(whole, "seed {seed}, round {round}: {found:?}");
        }
    }
}

/// Takes sectors of the newest segment at random from a later state.
fn mix(into: &Path, later: &Path, random: &mut fastrand::Rng) {
    const SECTOR: usize = 512;
    let (segment, _) = newest_segment(into);
    let path = segment_path(into, segment).join("db");
    let (mut mixed, later) =
        (std::fs::read(&path).expect("readable"), std::fs::read(segment_path(later, segment).join("db")).expect("readable"));
    if random.bool() || mixed.len() > later.len() {
        mixed.resize(later.len(), 0);
    }
    let kept = random.u32(1..10);
    for (sector, newer) in mixed.chunks_mut(SECTOR).zip(later.chunks(SECTOR)).filter(|(old, new)| old != new) {
        if random.u32(..10) < kept {
            let length = sector.len().min(newer.len());
            sector[..length].copy_from_slice(&newer[..length]);
        }
    }
    std::fs::write(path, mixed).expect("written");
}
