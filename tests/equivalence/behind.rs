//! A run through the real daemon, and what came of it.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::{
    compare::{self, Rows},
    direct::{Refusal, run},
    generator::Plan,
    operations::Step,
    schema,
    sender::Sender,
};
use crate::support::{Daemon, Database, Setup, directory};

/// A database written by a daemon with the settings of one plan.
pub(super) struct Behind<'d> {
    database: &'d mut Database,
    setup: Setup,
    /// None only while one follows the other.
    daemon: Option<Daemon>,
    _journal: TempDir,
}

/// What came of a run.
pub(super) struct Ended {
    pub(super) rows: Rows,
    /// Of each operation, in order, why it ended FAILED; none if it ended PERSISTED.
    pub(super) failures: Vec<Option<Refusal>>,
}

impl<'d> Behind<'d> {
    pub(super) async fn start(database: &'d mut Database, plan: &Plan) -> Self {
        let journal = directory();
        let mut setup = Setup::new(journal.path(), &database.url())
            .set("lanes.default.window", plan.window)
            .set("drain.generation_objects_max", &plan.generation_objects_max.to_string())
            .set("drain.retry_wait_max", "200 ms")
            .set("collections.events.mode", "append")
            .expect_in_log("postgres would not take a save or batch: it failed");
        if plan.lanes {
            setup = setup.set("lanes.inn.collections", "rooms, bookings").set("lanes.inn.window", plan.window);
        }
        if plan.disturbed {
            setup = setup.expect_in_log("postgres").expect_in_log("torn");
        }
        let daemon = Some(setup.start().await);
        Self { database, setup, daemon, _journal: journal }
    }

    /// Begins with the first rows again, takes every step, flushes, and looks at what is there.
    pub(super) async fn execute(&mut self, steps: &[Step]) -> Ended {
        let client = self.database.client().await;
        run(&client, &schema::reset("public")).await;
        drop(client);
        let mut sender = Sender::new(self.daemon()).await;
        for step in steps {
            self.take(&mut sender, step).await;
        }
        sender.flush().await;
        let failed = self.failed().await;
        let failures = sender.sequences().iter().map(|sequence| failed.get(sequence).cloned()).collect();
        Ended { rows: compare::rows(&self.database.client().await).await, failures }
    }

    /// Stops the daemon; its log holds no warning that was not expected.
    pub(super) async fn stop(mut self) {
        self.daemon.take().expect("it runs").stop().await;
    }

    async fn take<'s>(&mut self, sender: &mut Sender<'s>, step: &'s Step) {
        match step {
            Step::Save(operation) => sender.save(operation).await,
            Step::Batch(operations) => sender.batch(operations).await,
            Step::Flush => sender.flush().await,
            Step::StopPostgres => self.database.stop_postgres(),
            Step::StartPostgres => self.database.start_postgres(),
            Step::Kill => {
                sender.ready_for_a_kill().await;
                self.daemon.take().expect("it runs").kill().await;
                self.daemon = Some(self.setup.start().await);
                sender.reopen(self.daemon()).await;
            }
        }
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    /// Why saves of this daemon's journal failed, by sequence. (Earlier journals wrote to the database too.)
    async fn failed(&self) -> BTreeMap<u64, Refusal> {
        let query = "select sequence, coalesce(sqlstate, 'none'), constraint_name from forebay.failed_save \
                     where journal_id = (select journal_id from forebay.lane_position order by updated_at desc limit 1)";
        let failed = self.database.rows(query).await.into_iter().map(|mut row| {
            let sequence = row[0].as_ref().and_then(|text| text.parse().ok()).expect("a sequence");
            (sequence, Refusal { constraint: row[2].take(), sqlstate: row[1].take().expect("a code") })
        });
        failed.collect()
    }
}
