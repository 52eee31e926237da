//! Direct execution, which P2 measures by: a set updates the row by key and inserts it if there is none; a save is a transaction,
//! and so is an atomic batch, whose constraints are checked at its end.

use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::operations::{Operation, Step};

/// Why Postgres would not take a save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) sqlstate: String,
    pub(super) constraint: Option<String>,
}

impl Refusal {
    /// Panics on an error that is not Postgres's word on a statement.
    pub(super) fn of(error: &Error) -> Self {
        let told = error.as_db_error().unwrap_or_else(|| panic!("the reference database goes on: {error}"));
        Self { sqlstate: told.code().code().to_owned(), constraint: told.constraint().map(str::to_owned) }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.sqlstate, self.constraint.as_deref().unwrap_or("no constraint"))
    }
}

/// Executes each step: of each, why Postgres would not take it.
pub(super) async fn outcomes(client: &Client, steps: &[Step]) -> Vec<Option<Refusal>> {
    let mut outcomes = Vec::with_capacity(steps.len());
    for step in steps {
        outcomes.push(if step.operations().is_empty() { None } else { execute(client, step).await.err() });
    }
    outcomes
}

/// Executes a save or batch as a transaction of its own.
async fn execute(client: &Client, step: &Step) -> Result<(), Refusal> {
    let begin = if step.is_batch() { "begin; set constraints all deferred" } else { "begin" };
    run(client, begin).await;
    let done = async {
        apply(client, step.operations()).await?;
        client.simple_query("commit").await.map_err(|error| Refusal::of(&error)).map(drop)
    };
    let done = done.await;
    if done.is_err() {
        run(client, "rollback").await;
    }
    done
}

/// Executes operations in the transaction that is open.
pub(super) async fn apply(client: &Client, operations: &[Operation]) -> Result<(), Refusal> {
    for operation in operations {
        let found = match operation.update() {
            Some(update) => rows(client, &update).await?,
            None => 0,
        };
        if let (0, Some(insert)) = (found, operation.insert()) {
            rows(client, &insert).await?;
        }
    }
    Ok(())
}

/// How many rows a statement changed.
async fn rows(client: &Client, statement: &str) -> Result<u64, Refusal> {
    let messages = client.simple_query(statement).await.map_err(|error| Refusal::of(&error))?;
    let counts = messages.iter().map(|message| if let SimpleQueryMessage::CommandComplete(count) = message { *count } else { 0 });
    Ok(counts.sum())
}

/// Runs what can't fail.
pub(super) async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_execution_updates_inserts_and_adds() {
    use super::operations::{Assignment, Change, save};
    let database = crate::support::Database::with(&super::schema::tables(true)).await;
    let client = database.client().await;
    let adds = |value| {
        let Step::Save(mut operation) = save("guilds", "1", &[]) else { unreachable!("it is a save") };
        operation.change = Change::Set(vec![Assignment { column: "points", value: Some(value), adds: true }]);
        Step::Save(operation)
    };
    let steps = [
        save("guilds", "1", &[("tag", "red")]),
        adds("5"),
        adds("-6"),
        save("guilds", "1", &[("motto", "home")]),
        save("guilds", "2", &[("tag", "red")]),
        adds("3"),
    ];
    let refused: Vec<_> = outcomes(&client, &steps).await.into_iter().map(|outcome| outcome.map(|why| why.to_string())).collect();
    let (sum, tag) = ("23514 (guilds_points_check)", "23505 (guilds_tag_key)");
    assert_eq!(refused, [None, None, Some(sum), None, Some(tag), None].map(|why| why.map(str::to_owned)));
    let rows = database.rows("select id, tag, motto, points from guilds").await;
    assert_eq!(rows, crate::support::database_rows([[Some("1"), Some("red"), Some("home"), Some("8")]]));
}
