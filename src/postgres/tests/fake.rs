//! A scripted Postgres: it speaks protocol 3 as far as a lane's connection asks, keeps one position row, and does at one chosen
//! message what the script says instead of what a server would.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::super::position;

/// A server of one position row; gone when its runtime is.
pub(super) struct Fake {
    url: String,
    shared: Arc<Shared>,
}

/// Which message the script is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// The simple query that begins the transaction.
    Begin,
    /// Execute of the statement that compares the position row.
    Fence,
    /// Parse of a statement that writes rows.
    Parse,
    /// Execute of a statement that writes rows.
    Execute,
    /// The simple query `commit`.
    Commit,
    /// Execute of the statement that reads the position row after COMMIT.
    ReadBack,
}

/// What the server does there.
#[derive(Clone, Debug)]
pub(super) enum Does {
    /// An ERROR: the transaction has failed, the session lives.
    Error(Report),
    /// A FATAL: the session ends.
    Fatal(Report),
    /// Nothing more, for ever, over an open connection.
    Silence,
    /// Closes the connection.
    Cut,
    /// These bytes in place of the answer, then goes on.
    Say(Vec<u8>),
    /// Forgets the transaction, and says so by the tag alone.
    RollBack,
}

/// What an error says of itself.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) code: String,
    pub(super) routine: &'static str,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Option<(At, Does)>>,
    /// Commits of a transaction that advanced the row.
    row: Mutex<i64>,
    silence: Arc<Notify>,
}

impl Shared {
    /// What the script says about this message; it says it once.
    fn takes(&self, at: At) -> Option<Does> {
        locked(&self.script).take_if(|(scripted, _)| *scripted == at).map(|(_, does)| does)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("postgres://fake@{}/fake", listener.local_addr().expect("an address"));
        let shared = Arc::<Shared>::default();
        let served = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a socket");
                tokio::spawn(Connection::new(stream, Arc::clone(&served)).serve());
            }
        });
        Self { url, shared }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// From now on, once.
    pub(super) fn script(&self, at: At, does: Does) {
        *locked(&self.shared.script) = Some((at, does));
    }

    /// Whether the script is over.
    pub(super) fn is_done(&self) -> bool {
        locked(&self.shared.script).is_none()
    }

    /// Tells when it goes silent.
    pub(super) fn silence(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.silence)
    }

    /// Where the position row stands.
    pub(super) fn row(&self) -> i64 {
        *locked(&self.shared.row)
    }
}

/// The state of a session, as ReadyForQuery tells it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None = b'I' as isize,
    Open = b'T' as isize,
    Failed = b'E' as isize,
}

/// What a statement is to the script.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Server,
    Fence,
    Rows,
    Advance,
    ReadBack,
}

impl Asked {
    fn of(statement: &str) -> Self {
        match statement {
            position::FENCE => Self::Fence,
            position::ADVANCE => Self::Advance,
            position::READ_BACK => Self::ReadBack,
            _ if statement.starts_with("select current_setting('server_version')") => Self::Server,
            _ => Self::Rows,
        }
    }

    fn executed(self) -> Option<At> {
        match self {
            Self::Fence => Some(At::Fence),
            Self::Rows => Some(At::Execute),
            Self::ReadBack => Some(At::ReadBack),
            Self::Server | Self::Advance => None,
        }
    }
}

/// The session is over.
struct Over;

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    transaction: Transaction,
    /// The row was advanced and waits for COMMIT.
    advanced: bool,
    asked: Asked,
    /// After an error everything up to Sync is skipped.
    skips: bool,
}

impl Connection {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        Self { stream, shared, transaction: Transaction::None, advanced: false, asked: Asked::Rows, skips: false }
    }

    /// Until the client leaves or the script ends the session.
    async fn serve(mut self) {
        let Ok(length) = self.stream.read_u32().await else { return };
        self.body(length).await;
        let hello = [message(b'R', &0_i32.to_be_bytes()), message(b'S', b"client_encoding\0UTF8\0"), self.ready()].concat();
        self.say(&hello).await;
        while let Ok(tag) = self.stream.read_u8().await {
            let Ok(length) = self.stream.read_u32().await else { return };
            let body = self.body(length).await;
            if self.answer(tag, &body).await.is_err() {
                return;
            }
        }
    }

    async fn body(&mut self, length: u32) -> Vec<u8> {
        let mut body = vec![0; length as usize - 4];
        // A client that leaves in the middle of a message is seen by the next read.
        let _ = self.stream.read_exact(&mut body).await;
        body
    }

    /// A client that has left needs no answer.
    async fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    async fn answer(&mut self, tag: u8, body: &[u8]) -> Result<(), Over> {
        match tag {
            b'S' => {
                self.skips = false;
                let ready = self.ready();
                self.say(&ready).await;
            }
            b'Q' => self.simple(text(body)).await?,
            b'X' => return Err(Over),
            _ if self.skips => {}
            b'P' => {
                // The statement comes after its name, which is empty.
                self.asked = Asked::of(text(&body[1..]));
                let at = (self.asked == Asked::Rows).then_some(At::Parse);
                self.unless_scripted(at, &message(b'1', b"")).await?;
            }
            b'B' => self.say(&message(b'2', b"")).await,
            b'D' => self.say(&[message(b't', &0_i16.to_be_bytes()), row_description(self.asked)].concat()).await,
            b'E' => self.execute().await?,
            other => unreachable!("a lane's connection sends no {:?}", char::from(other)),
        }
        Ok(())
    }

    async fn simple(&mut self, sql: &str) -> Result<(), Over> {
        let (at, tag) = match sql.split([' ', ';']).next() {
            Some("begin") => (Some(At::Begin), "BEGIN"),
            Some("commit") if self.transaction == Transaction::Failed => (Some(At::Commit), "ROLLBACK"),
            Some("commit") => (Some(At::Commit), "COMMIT"),
            Some("rollback") => (None, "ROLLBACK"),
            Some("set") => (None, "SET"),
            _ => unreachable!("a lane's connection does not ask: {sql}"),
        };
        let scripted = at.and_then(|at| self.shared.takes(at));
        let takes_effect = scripted.is_none();
        match (tag, &scripted) {
            ("BEGIN", None) => self.transaction = Transaction::Open,
            ("COMMIT" | "ROLLBACK", _) => self.end(tag == "COMMIT" && takes_effect),
            _ => {}
        }
        match scripted {
            Some(does) => self.depart(does).await?,
            None => self.say(&complete(tag)).await,
        }
        self.skips = false;
        let ready = self.ready();
        self.say(&ready).await;
        Ok(())
    }

    /// The end of a transaction: what it wrote counts, or doesn't.
    fn end(&mut self, commits: bool) {
        if commits && self.advanced {
            *locked(&self.shared.row) += 1;
        }
        self.transaction = Transaction::None;
        self.advanced = false;
    }

    async fn execute(&mut self) -> Result<(), Over> {
        self.advanced |= self.asked == Asked::Advance;
        let row = *locked(&self.shared.row);
        let values: Vec<Vec<u8>> = match self.asked {
            Asked::Server => [&b"17.0"[..], &170_000_i64.to_be_bytes(), &[1], &[0], b"fake", b"fake"].map(<[u8]>::to_vec).to_vec(),
            Asked::ReadBack => [row, 1].map(|count| count.to_be_bytes().to_vec()).to_vec(),
            Asked::Fence | Asked::Rows | Asked::Advance => [0_i64, 1].map(|count| count.to_be_bytes().to_vec()).to_vec(),
        };
        let answer = [data_row(&values), complete("SELECT 1")].concat();
        self.unless_scripted(self.asked.executed(), &answer).await
    }

    async fn unless_scripted(&mut self, at: Option<At>, answer: &[u8]) -> Result<(), Over> {
        if self.transaction == Transaction::Failed {
            return self.error("ERROR", &Report { code: "25P02".to_owned(), routine: "exec_parse_message" }).await;
        }
        match at.and_then(|at| self.shared.takes(at)) {
            Some(does) => self.depart(does).await,
            None => {
                self.say(answer).await;
                Ok(())
            }
        }
    }

    /// Does what the script says.
    async fn depart(&mut self, does: Does) -> Result<(), Over> {
        match does {
            Does::Error(report) => return self.error("ERROR", &report).await,
            Does::Fatal(report) => {
                self.error("FATAL", &report).await?;
                // Closed with unread messages before it, a socket takes back what it sent last.
                let _ = self.stream.shutdown().await;
                let _ = self.stream.read_to_end(&mut Vec::new()).await;
                return Err(Over);
            }
            Does::Silence => {
                self.shared.silence.notify_one();
                std::future::pending().await
            }
            Does::Cut => return Err(Over),
            Does::Say(bytes) => self.say(&bytes).await,
            Does::RollBack => self.say(&complete("ROLLBACK")).await,
        }
        Ok(())
    }

    async fn error(&mut self, severity: &str, report: &Report) -> Result<(), Over> {
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::Failed;
        }
        self.skips = true;
        let Report { code, routine } = report;
        let fields = format!("S{severity}\0V{severity}\0C{code}\0Mas the script says\0R{routine}\0\0");
        self.say(&message(b'E', fields.as_bytes())).await;
        Ok(())
    }

    fn ready(&self) -> Vec<u8> {
        message(b'Z', &[self.transaction as u8])
    }
}

/// One message of the protocol: a tag, the length that counts itself, the body.
pub(super) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn row_description(asked: Asked) -> Vec<u8> {
    use tokio_postgres::types::Type;
    let types = match asked {
        Asked::Server => vec![Type::TEXT, Type::INT8, Type::BOOL, Type::BOOL, Type::TEXT, Type::TEXT],
        _ => vec![Type::INT8, Type::INT8],
    };
    let mut body = counted(types.len());
    for column in types {
        // Name, table, number in it, type, size, modifier, format.
        body.extend(b"c\0\0\0\0\0\0\0");
        body.extend(column.oid().to_be_bytes());
        body.extend([0; 8]);
    }
    message(b'T', &body)
}

pub(super) fn data_row(values: &[Vec<u8>]) -> Vec<u8> {
    let mut body = counted(values.len());
    for value in values {
        body.extend(u32::try_from(value.len()).expect("a short value").to_be_bytes());
        body.extend(value);
    }
    message(b'D', &body)
}

fn counted(count: usize) -> Vec<u8> {
    i16::try_from(count).expect("a short list").to_be_bytes().to_vec()
}

/// Up to the zero that ends it.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&byte| byte == 0).expect("text ends with a zero");
    std::str::from_utf8(&bytes[..end]).expect("statements are UTF-8")
}
