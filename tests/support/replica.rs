//! A standby by streaming replication, and a backup: what may stand in for a server that is gone.

use forebay::sandbox::Sandbox;

use super::{Database, eventually};

/// A standby of a database that stands alone. Asynchronous until [`Replica::synchronous`].
pub(crate) struct Replica {
    database: Database,
}

impl Replica {
    /// A standby that streams.
    pub(crate) async fn of(primary: &Database) -> Self {
        let started = tokio::task::block_in_place(|| {
            let mut sandbox = Sandbox::copy_of(primary.sandbox(), true)?;
            sandbox.start_on(None).map(|()| sandbox)
        });
        let database = Database::of(started.expect("a standby starts"));
        eventually("the standby streams", || async {
            let streams = primary.number("select count(*) from pg_stat_replication where state = 'streaming'").await;
            (streams > 0).then_some(())
        })
        .await;
        Self { database }
    }

    /// From now on no commit of the primary is answered before this standby has it.
    pub(crate) async fn synchronous(&self, primary: &Database) {
        primary.execute("alter system set synchronous_standby_names = '*'").await;
        primary.execute("select pg_reload_conf()").await;
        eventually("the standby is synchronous", || async {
            let synchronous = primary.number("select count(*) from pg_stat_replication where sync_state = 'sync'").await;
            (synchronous > 0).then_some(())
        })
        .await;
    }

    /// Stops following: what the primary commits from now on, this standby will never have.
    pub(crate) async fn cut_off(&self) {
        self.database.execute("alter system set primary_conninfo = ''").await;
        self.database.execute("select pg_reload_conf()").await;
        eventually("the standby stops following", || async {
            (self.database.number("select count(*) from pg_stat_wal_receiver").await == 0).then_some(())
        })
        .await;
    }

    /// Makes a primary of it. The old one has to be stopped before.
    pub(crate) async fn promote(&self) {
        assert_eq!(self.database.rows("select pg_promote()").await[0][0].as_deref(), Some("t"), "it is promoted within a minute");
    }

    /// What it holds.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// A promoted one stands alone.
    pub(crate) fn into_database(self) -> Database {
        self.database
    }
}

/// A copy of a database that stands alone, as it was then.
pub(crate) struct Backup(Sandbox);

impl Backup {
    /// Takes one.
    pub(crate) fn of(database: &Database) -> Self {
        Self(tokio::task::block_in_place(|| Sandbox::copy_of(database.sandbox(), false)).expect("a base backup"))
    }

    /// Starts it where the original, stopped before, was.
    pub(crate) fn restore_in_place_of(mut self, original: &Database) -> Database {
        tokio::task::block_in_place(|| self.0.start_on(Some(original.port()))).expect("the backup starts");
        Database::of(self.0)
    }
}

/// A URL of several servers, tried in this order until one is found that writes.
pub(crate) fn hosts(databases: &[&Database]) -> String {
    let list: Vec<_> = databases.iter().map(|database| format!("127.0.0.1:{}", database.port())).collect();
    format!("postgres://postgres@{}/postgres?target_session_attrs=read-write", list.join(","))
}
