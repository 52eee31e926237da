//! Everything that happens to a Postgres in service, under load: servers that stop, crash, fill up or change, sessions that end,
//! locks, a bad network, failovers (P1, P3, P5, P6, P10).
//!
//! There are [`KINDS`] of faults. A run deals a hand of them: consecutive seeds, from a multiple of [`HANDS`] on, deal each kind
//! once in [`HANDS`] runs. One daemon and one database go through them in turn. Each fault strikes while clients save. What caused
//! it ends, by itself or because an operator does what Forebay's documents say; then Forebay has to go on by itself, and whatever
//! was acknowledged is judged before the next fault.
//!
//! [`run`] is what all kinds share: the daemon, its [`load`] and the [`road`]s from it to its Postgres; [`server`], [`disks`],
//! [`locks`], [`tables`] and [`network`] do the harm.

use fastrand::Rng;

use self::run::Run;
use super::campaign;

mod disks;
mod load;
mod locks;
mod network;
pub(super) mod road;
pub(super) mod run;
mod server;
mod tables;

/// What happens to Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ImmediateStop,
    Restart,
    Crash,
    BackendKilled,
    BackendsTerminated,
    ConnectionsTaken,
    ReadOnly,
    TablesFull,
    LogFull,
    RowsLocked,
    TableLocked,
    Deadlock,
    StatementTimeout,
    ColumnAdded,
    ColumnDropped,
    ColumnRenamed,
    TypeChanged,
    CheckAdded,
    ForeignKeyAdded,
    SlowNetwork,
    BlockedNetwork,
    CutNetwork,
    FailoverToCurrent,
    FailoverToStale,
    PoolerRestart,
}

/// All of them, with what the record calls them.
pub(super) const KINDS: [(Kind, &str); 25] = [
    (Kind::ImmediateStop, "immediate stops"),
    (Kind::Restart, "restarts"),
    (Kind::Crash, "crashes"),
    (Kind::BackendKilled, "killed backends"),
    (Kind::BackendsTerminated, "terminated backends"),
    (Kind::ConnectionsTaken, "max_connections reached"),
    (Kind::ReadOnly, "read-only"),
    (Kind::TablesFull, "disks of tables full"),
    (Kind::LogFull, "disks of WAL full"),
    (Kind::RowsLocked, "rows locked"),
    (Kind::TableLocked, "tables locked"),
    (Kind::Deadlock, "deadlocks"),
    (Kind::StatementTimeout, "statement timeouts"),
    (Kind::ColumnAdded, "columns added"),
    (Kind::ColumnDropped, "columns dropped"),
    (Kind::ColumnRenamed, "columns renamed"),
    (Kind::TypeChanged, "types changed"),
    (Kind::CheckAdded, "checks added"),
    (Kind::ForeignKeyAdded, "foreign keys added"),
    (Kind::SlowNetwork, "slow networks"),
    (Kind::BlockedNetwork, "blocked networks"),
    (Kind::CutNetwork, "cut networks"),
    (Kind::FailoverToCurrent, "failovers to a current standby"),
    (Kind::FailoverToStale, "failovers to a stale standby"),
    (Kind::PoolerRestart, "PgBouncer restarts"),
];

/// So many runs deal each kind once.
const HANDS: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_postgres_it_ends_with_what_was_acknowledged() {
    campaign::run("postgres", 2, u64::MAX, |seed| async move {
        let mut run = Run::new(seed).await;
        for (kind, name) in hand(seed) {
            println!("postgres: {kind:?}");
            run.begin().await;
            strike(kind, &mut run).await;
            run.end(name).await;
        }
        run.complete().await
    })
    .await;
}

/// The kinds of a run, in its order.
fn hand(seed: u64) -> Vec<(Kind, &'static str)> {
    let (deal, hand) = (seed / HANDS, usize::try_from(seed % HANDS).expect("a few"));
    let mut kinds = KINDS;
    Rng::with_seed(deal).shuffle(&mut kinds);
    let size = KINDS.len().div_ceil(usize::try_from(HANDS).expect("a few"));
    kinds.chunks(size).nth(hand).map(<[_]>::to_vec).unwrap_or_default()
}

/// Returns once the cause is gone.
pub(super) async fn strike(kind: Kind, run: &mut Run) {
    match kind {
        Kind::ImmediateStop => server::stop_at_once(run).await,
        Kind::Restart => server::restart(run).await,
        Kind::Crash => server::crash(run).await,
        Kind::BackendKilled => server::kill_a_backend(run).await,
        Kind::BackendsTerminated => server::terminate_backends(run).await,
        Kind::ConnectionsTaken => server::take_all_connections(run).await,
        Kind::ReadOnly => server::make_read_only(run).await,
        Kind::TablesFull => disks::fill_the_tables(run).await,
        Kind::LogFull => disks::fill_the_log(run).await,
        Kind::RowsLocked => locks::lock_rows(run).await,
        Kind::TableLocked => locks::lock_a_table(run).await,
        Kind::Deadlock => locks::deadlock(run).await,
        Kind::StatementTimeout => locks::slow_down(run).await,
        Kind::ColumnAdded => tables::add_a_column(run).await,
        Kind::ColumnDropped => tables::drop_a_column(run).await,
        Kind::ColumnRenamed => tables::rename_a_column(run).await,
        Kind::TypeChanged => tables::change_a_type(run).await,
        Kind::CheckAdded => tables::add_a_check(run).await,
        Kind::ForeignKeyAdded => tables::add_a_foreign_key(run).await,
        Kind::SlowNetwork => network::slow_down(run).await,
        Kind::BlockedNetwork => network::block(run).await,
        Kind::CutNetwork => network::cut(run).await,
        Kind::FailoverToCurrent => network::fail_over_to_current(run).await,
        Kind::FailoverToStale => network::fail_over_to_stale(run).await,
        Kind::PoolerRestart => network::restart_the_pooler(run).await,
    }
}

#[test]
fn consecutive_seeds_deal_every_kind_once() {
    for deal in 0..20 {
        let mut dealt: Vec<_> = (deal * HANDS..(deal + 1) * HANDS).flat_map(hand).map(|(kind, _)| format!("{kind:?}")).collect();
        dealt.sort_unstable();
        let mut all = KINDS.map(|(kind, _)| format!("{kind:?}"));
        all.sort_unstable();
        assert_eq!(dealt, all, "deal {deal}");
    }
}
