//! A plain connection for setting up and looking into a database: schemas, checks of what arrived; and for writing as an application
//! would, which is what the bench compares with.

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, Statement, types::ToSql};

use super::SandboxError;

/// One connection. Statements as text and values as text, unless they are prepared.
#[derive(Debug)]
pub struct Database {
    client: Client,
    connection: JoinHandle<()>,
}

impl Database {
    /// Connects to a URL.
    ///
    /// # Errors
    /// What the system or Postgres says.
    pub async fn connect(url: &str) -> Result<Self, SandboxError> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(|error| why(&error))?;
        // Its end is seen by the next statement.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client, connection })
    }

    /// Runs statements, separated by semicolons; more than one are one transaction.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn run(&self, statements: &str) -> Result<(), SandboxError> {
        self.client.batch_execute(statements).await.map_err(|error| why(&error))
    }

    /// Runs one query and gives its rows as Postgres prints them, `None` for NULL.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn rows(&self, query: &str) -> Result<Vec<Vec<Option<String>>>, SandboxError> {
        let messages = self.client.simple_query(query).await.map_err(|error| why(&error))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first column of the first row of a query.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn value(&self, query: &str) -> Result<Option<String>, SandboxError> {
        Ok(self.rows(query).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Prepares a statement.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn prepare(&self, statement: &str) -> Result<Statement, SandboxError> {
        self.client.prepare(statement).await.map_err(|error| why(&error))
    }

    /// Executes a prepared statement with values of its parameters' types. Statements that are awaited at once travel one behind the
    /// other, in the order in which they were first polled.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn execute(&self, statement: &Statement, values: &[&(dyn ToSql + Sync)]) -> Result<(), SandboxError> {
        self.client.execute(statement, values).await.map(drop).map_err(|error| why(&error))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// tokio-postgres itself says "db error" only.
fn why(error: &tokio_postgres::Error) -> SandboxError {
    let text = match error.as_db_error() {
        Some(told) => format!("{} ({})", told.message(), told.code().code()),
        None => error.to_string(),
    };
    SandboxError::Sql(text)
}
