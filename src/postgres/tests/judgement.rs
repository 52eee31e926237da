//! Every SQLSTATE that tokio-postgres knows, said by a scripted server at parse, at execute and at COMMIT: what we do about it
//! is what the table says, and nothing is left to the default.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::error::SqlState;

use super::{
    fake::{At, Does, Fake, Report, data_row, message},
    *,
};
use crate::postgres::Action::*;

/// The table, written down a second time: classes, and codes that are exceptions to theirs.
const TABLE: &[(&str, Action)] = &[
    // The way to the server. 08004 and 08P01 are also what poolers call their own troubles.
    ("08", Reconnect),
    ("08004 08P01", ReconnectThenHalt),
    ("08007 40003", InDoubt),
    // The statement does not fit the server or the schema.
    ("0A 3D 3F 42 57P04", Halt),
    // The data: found by halving, or in the row itself.
    ("21 23 44 22P03 40002 54000", Halve),
    ("22 23502 23514", RowsOwn),
    // Functions and triggers of the user's, at work on a row: about the data too.
    ("09 20 27 2F 38 39 P0", Halve),
    ("P0004", Halt),
    // The state of the session: our bug, or a pooler's. A new one is clean.
    ("25 26 42P05", Reconnect),
    ("28", Halt),
    ("40 72", Retry),
    ("40001 40P01", RetryThenShrink),
    // Too much at once.
    ("53 54 57014", Shrink),
    ("53300", Retry),
    ("53100", Halt),
    ("55 HV", RetryThenHalt),
    ("55006 55P03 55P04", Retry),
    ("55P02", Halt),
    // The server comes, goes or is ill.
    ("57", Reconnect),
    ("58 F0 XX001 XX002", Halt),
    ("XX", RetryThenHalve),
    // What no statement of ours can raise: warnings, cursors, grants, transactions begun in functions.
    ("00 01 02 03 0B 0F 0L 0P 0Z 24 2B 2D 34 3B", Unclear),
];

/// What a session may say for as long as it lasts: tried again over another one, whatever its action.
const OF_THE_SESSION: &str = "42804";

/// By code or class.
fn table() -> BTreeMap<&'static str, Action> {
    TABLE.iter().flat_map(|&(entries, action)| entries.split(' ').map(move |entry| (entry, action))).collect()
}

fn expected(table: &BTreeMap<&str, Action>, code: &str) -> Action {
    let known = table.get(code).or_else(|| table.get(&code[..2]));
    *known.unwrap_or_else(|| panic!("{code} is not classified"))
}

/// Every code that tokio-postgres has a name for. It offers no list; but it says which ones it doesn't know, and every class
/// begins with a code 000.
fn known_codes() -> Vec<String> {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let is_known = |code: &String| !format!("{:?}", SqlState::from_code(code)).contains("Other");
    let longer = |code: String| DIGITS.iter().map(move |&digit| format!("{code}{}", char::from(digit)));
    let two = || longer(String::new()).flat_map(longer);
    let classes = two().filter(|class| is_known(&format!("{class}000")));
    classes.flat_map(longer).flat_map(longer).flat_map(longer).filter(is_known).collect()
}

/// A writer of the fake server's, and a generation of one row.
struct Scripted {
    fake: Fake,
    postgres: Postgres,
    collections: Collections,
    journal: Uuid,
    /// As long as it can be used.
    writer: Option<Writer>,
}

impl Scripted {
    async fn new() -> Self {
        let fixture = Fixture::new("create table t (id int4 primary key)").await;
        let (collections, fake) = (fixture.collections(&rules(&[])).await, Fake::start().await);
        let settings = PostgresSettings { url: Some(fake.url().to_owned().into()), ..Settings::default().postgres };
        let postgres = Postgres::new(&settings, 1).expect("a URL");
        Self { fake, postgres, collections, journal: Uuid::new_v4(), writer: None }
    }

    /// Writes one row. A writer that can't be used again is dropped.
    async fn apply(&mut self) -> Result<(), ApplyError> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.postgres.writer(self.journal, "default", self.journal).await.expect("a writer"),
        };
        let through = Sequence::from_u64(self.fake.row().cast_unsigned());
        let mut generation = Generation {
            after: through,
            through: through.plus(1),
            parts: vec![Default::default()],
            reaches: Default::default(),
            inside_batch: false,
            retries: Vec::new(),
            saves: 1,
            footprint: Default::default(),
            oldest_accepted_at: None,
        };
        let row = Object { fold: Fold::Delete, last: through.plus(1), saves: 1, batched: false };
        let id = self.collections.named("t").expect("a collection").id;
        generation.parts[0].collections.entry(id).or_default().objects.insert(Key::from_parts(["1"]), row);
        let work = Work {
            collections: &self.collections,
            after: generation.after,
            through: generation.through,
            generation: Some(&generation),
            failed: &[],
            closes: &[],
            statement_rows: steady(1),
            aside: None,
        };
        let applied = writer.apply(&work).await;
        self.writer = Some(writer).filter(Writer::is_usable);
        applied.map(drop)
    }

    /// What a transaction ends with that meets this, and whether its connection may be used again.
    async fn meets(&mut self, at: At, does: Does) -> (ApplyError, bool) {
        self.fake.script(at, does);
        let row = self.fake.row();
        let error = self.apply().await.expect_err("it doesn't go well");
        assert!(self.fake.is_done(), "{at:?} was reached");
        assert_eq!(self.fake.row(), row, "nothing was committed");
        (error, self.writer.is_some())
    }

    /// The same for an error in the server's words.
    async fn told(&mut self, at: At, does: fn(Report) -> Does, code: &str, routine: &'static str) -> (Failure, bool) {
        let (error, usable) = self.meets(at, does(Report { code: code.to_owned(), routine })).await;
        let failure = match error {
            ApplyError::Failed(failure) if failure.action != InDoubt => failure,
            ApplyError::InDoubt(failure) if failure.action == InDoubt => failure,
            other => panic!("{code} at {at:?}: {other:?}"),
        };
        assert_eq!(failure.sqlstate.as_deref(), Some(code));
        (failure, usable)
    }

    /// The action for a failure without a code.
    async fn untold(&mut self, at: At, does: Does) -> Action {
        let (error, usable) = self.meets(at, does.clone()).await;
        let (ApplyError::Failed(failure) | ApplyError::InDoubt(failure)) = error else { panic!("{does:?} at {at:?}: {error}") };
        assert_eq!((failure.sqlstate, usable), (None, false), "{does:?} at {at:?}");
        failure.action
    }
}

/// Actions that throw the connection away.
fn leaves(action: Action) -> bool {
    matches!(action, Reconnect | ReconnectThenHalt | InDoubt)
}

/// After COMMIT was sent, whoever leaves the connection behind doesn't know what became of it.
fn at_commit(action: Action) -> Action {
    if leaves(action) { InDoubt } else { action }
}

#[tokio::test]
async fn every_sqlstate_has_its_action_at_parse_at_execute_and_at_commit() {
    let (mut scripted, table, codes) = (Scripted::new().await, table(), known_codes());
    for code in &codes {
        let action = expected(&table, code);
        for (at, expected) in [(At::Parse, action), (At::Execute, action), (At::Commit, at_commit(action))] {
            let (failure, usable) = scripted.told(at, Does::Error, code, "errfinish").await;
            let keeps = !leaves(expected) && code != OF_THE_SESSION;
            assert_eq!((failure.action, usable), (expected, keeps), "{code} at {at:?}");
            assert!(failure.action != Halt || !failure.remedy.is_empty(), "{code} halts without a remedy");
            scripted.apply().await.expect("after it, all is well");
        }
    }
    assert!(codes.len() >= 260, "tokio-postgres 0.7.18 knows 260 codes; {} were found", codes.len());
    let used: BTreeSet<_> = codes.iter().flat_map(|code| [&code[..], &code[..2]]).collect();
    for entry in table.keys() {
        assert!(used.contains(entry), "{entry} is in the table, but is no code");
    }
}

#[tokio::test]
async fn an_error_that_ends_the_session_is_judged_alike_before_commit_and_in_doubt_after() {
    let (mut scripted, table) = (Scripted::new().await, table());
    for code in known_codes() {
        let action = expected(&table, &code);
        for (at, expected) in [(At::Execute, action), (At::Commit, InDoubt)] {
            let (failure, usable) = scripted.told(at, Does::Fatal, &code, "errfinish").await;
            assert_eq!((failure.action, usable), (expected, false), "{code} at {at:?}");
        }
    }
}

#[tokio::test]
async fn the_routine_tells_stale_plans_and_security_policies_apart() {
    let mut scripted = Scripted::new().await;
    let cases = [
        ("0A000", "RevalidateCachedQuery", Reconnect),
        ("0A000", "transformStmt", Halt),
        ("42501", "ExecWithCheckOptions", Halve),
        ("42501", "aclcheck_error", Halt),
    ];
    for (code, routine, action) in cases {
        for (at, expected) in [(At::Parse, action), (At::Execute, action), (At::Commit, at_commit(action))] {
            let (failure, _) = scripted.told(at, Does::Error, code, routine).await;
            assert_eq!(failure.action, expected, "{code} in {routine} at {at:?}");
        }
    }
}

#[tokio::test]
async fn a_code_that_nobody_knows_is_never_poison() {
    let mut scripted = Scripted::new().await;
    for code in ["99999", "ZZZZZ", "00042"] {
        for at in [At::Begin, At::Parse, At::Execute, At::Commit] {
            let (failure, usable) = scripted.told(at, Does::Error, code, "errfinish").await;
            assert_eq!((failure.action, usable), (Unclear, true), "{code} at {at:?}");
        }
    }
}

#[tokio::test]
async fn division_by_zero_is_the_fence_in_the_first_statement_and_a_rows_own_fault_elsewhere() {
    let mut scripted = Scripted::new().await;
    let divides = || Does::Error(Report { code: "22012".to_owned(), routine: "int8div" });
    assert_eq!(scripted.meets(At::Fence, divides()).await, (ApplyError::Fence, true));
    assert_eq!(scripted.told(At::Execute, Does::Error, "22012", "int8div").await.0.action, RowsOwn);
    assert_eq!(scripted.told(At::Begin, Does::Error, "57014", "ProcessInterrupts").await.0.action, Shrink, "nothing commits alone");
}

#[tokio::test]
async fn a_connection_that_breaks_is_in_doubt_only_after_commit_was_sent() {
    let mut scripted = Scripted::new().await;
    for at in [At::Begin, At::Fence, At::Parse, At::Execute] {
        assert_eq!(scripted.untold(at, Does::Cut).await, Reconnect, "{at:?}");
    }
    assert_eq!(scripted.untold(At::Commit, Does::Cut).await, InDoubt);
    scripted.apply().await.expect("after it, all is well");
}

/// The answer to COMMIT came, the row that was to prove it did not.
#[tokio::test]
async fn a_commit_that_nothing_proves_is_in_doubt() {
    let mut scripted = Scripted::new().await;
    let refused = Does::Error(Report { code: "42P01".to_owned(), routine: "parserOpenTable" });
    let strange = Does::Say([data_row(&[7_i64, 1].map(|n| n.to_be_bytes().to_vec())), message(b'C', b"SELECT 1\0")].concat());
    for does in [Does::Cut, refused, strange] {
        let row = scripted.fake.row();
        scripted.fake.script(At::ReadBack, does);
        let error = scripted.apply().await.expect_err("nobody knows");
        assert!(matches!(error, ApplyError::InDoubt(_)) && scripted.writer.is_none(), "{error:?}");
        assert_eq!(scripted.fake.row(), row + 1);
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_and_in_doubt_only_after_commit_was_sent() {
    let mut scripted = Scripted::new().await;
    for (at, action) in [(At::Begin, Reconnect), (At::Fence, Reconnect), (At::Execute, Reconnect), (At::Commit, InDoubt)] {
        // Before the clock stops: connecting has timeouts too.
        scripted.apply().await.expect("all is well");
        scripted.fake.script(at, Does::Silence);
        let silence = scripted.fake.silence();
        let mut applied = Box::pin(scripted.apply());
        tokio::select! {
            biased;
            applied = &mut applied => panic!("{applied:?}, but nothing was said"),
            () = silence.notified() => {}
        }
        tokio::time::pause();
        let error = applied.await.expect_err("nothing was said");
        tokio::time::resume();
        let (ApplyError::Failed(failure) | ApplyError::InDoubt(failure)) = error else { panic!("{error}") };
        assert_eq!((failure.action, failure.sqlstate.is_none(), scripted.writer.is_none()), (action, true, true), "{at:?}");
        assert!(failure.to_string().contains("no answer within"), "{failure}");
    }
}

#[tokio::test]
async fn what_does_not_speak_the_protocol_is_left_and_halts_if_it_goes_on() {
    let mut scripted = Scripted::new().await;
    let words = [
        ("with a length below its own", [&b"D"[..], &[0, 0, 0, 1]].concat(), Reconnect, InDoubt),
        ("with a tag that there isn't", message(b'?', b"what"), ReconnectThenHalt, InDoubt),
        ("out of place", message(b'G', &[0, 0, 0]), ReconnectThenHalt, InDoubt),
        ("an error without a code", message(b'E', b"SERROR\0\0"), ReconnectThenHalt, InDoubt),
        // COMMIT answers with no rows, and nobody looks at them: the position row says that nothing was committed.
        ("a row cut short", message(b'D', &[0, 2, 0, 0]), ReconnectThenHalt, Reconnect),
        ("a row of other types", data_row(&[vec![1], vec![2]]), ReconnectThenHalt, Reconnect),
        ("a row of other columns", data_row(&[vec![0; 8]]), ReconnectThenHalt, Reconnect),
    ];
    for (what, bytes, action, at_commit) in words {
        assert_eq!(scripted.untold(At::Execute, Does::Say(bytes.clone())).await, action, "{what}");
        assert_eq!(scripted.untold(At::Commit, Does::Say(bytes)).await, at_commit, "{what}");
    }
}

#[tokio::test]
async fn a_commit_that_rolled_back_without_an_error_is_noticed() {
    let mut scripted = Scripted::new().await;
    let (error, usable) = scripted.meets(At::Commit, Does::RollBack).await;
    let ApplyError::Failed(failure) = error else { panic!("{error}") };
    assert_eq!((failure.action, failure.sqlstate, usable), (Reconnect, None, false));
    scripted.apply().await.expect("after it, all is well");
}
