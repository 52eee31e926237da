//! One HTTP/1.1 connection to an endpoint: to an address that was checked, with no redirects, no proxies and no more read of the
//! answer than its status, headers and a little body.

use std::{
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    time::{Duration, SystemTime},
};

use hyper::{
    Method, Request, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Delivery, retry, target::Target};

/// An answer's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// As much is read of an answer's body, to use the connection again; of more nothing is known.
const BODY_BYTES_MAX: usize = 4 << 10;
/// And as long is waited for it.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that may be used for the next delivery.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<String>,
    _driver: AbortOnDropHandle<()>,
}

/// What an endpoint answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
}

/// A connection whose last answer may have a body that is still to come.
#[derive(Debug)]
pub(super) struct Used {
    connection: Connection,
    body: Incoming,
}

/// Why there was no answer.
#[derive(Debug)]
pub(super) struct Unreachable(pub(super) String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Connection {
    /// Within `limit`, of which every address of the target gets its part.
    pub(super) async fn open(target: &Target, limit: Duration) -> Result<Self, Unreachable> {
        let stream = connect(target, limit).await?;
        match &target.tls {
            None => Self::over(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                Self::over(stream.map_err(|error| Unreachable(format!("TLS: {error}")))?).await
            }
        }
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, Unreachable> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Its errors are told to whoever has sent something.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Whether it was open when last looked at.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a delivery. It is answered with the answer's head.
    pub(super) async fn post(mut self, target: &Target, delivery: &Delivery) -> Result<(Answer, Used), Unreachable> {
        self.sender.ready().await.map_err(broken)?;
        let response = self.sender.send_request(request(target, delivery)).await.map_err(broken)?;
        let status = response.status();
        let asks = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let header = response.headers().get(header::RETRY_AFTER).filter(|_| asks);
        let retry_after = header.and_then(|value| retry::asked(value.to_str().ok()?, SystemTime::now()));
        Ok((Answer { status, retry_after }, Used { connection: self, body: response.into_body() }))
    }
}

impl Used {
    /// The connection, if it may be used again.
    pub(super) async fn reusable(self) -> Option<Connection> {
        let short = timeout(BODY_TIMEOUT, is_short(self.body)).await.unwrap_or(false);
        short.then_some(self.connection)
    }
}

/// To an address that the settings allow; what is refused and what doesn't answer is told.
async fn connect(target: &Target, limit: Duration) -> Result<TcpStream, Unreachable> {
    let url = &target.url;
    let addresses = tokio::net::lookup_host((url.host(), url.port())).await;
    let addresses: Vec<SocketAddr> = addresses.map_err(|error| Unreachable(format!("resolve {}: {error}", url.host())))?.collect();
    let part = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut why = format!("{} has no address", url.host());
    for address in addresses {
        if let Err(what) = target.allowed.check(address.ip()) {
            why = format!("{} is {what}", address.ip());
            continue;
        }
        match timeout(part, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A request is one small write.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => why = format!("connect to {address}: {error}"),
            Err(_) => why = format!("connect to {address}: no answer within {} s", part.as_secs_f64()),
        }
    }
    Err(Unreachable(why))
}

fn request(target: &Target, delivery: &Delivery) -> Request<String> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let timestamp = since.unwrap_or_default().as_secs();
    Request::builder()
        .method(Method::POST)
        .uri(target.url.path())
        .header(header::HOST, target.url.authority())
        .header(header::USER_AGENT, concat!("forebay/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json")
        .header("webhook-id", &delivery.id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", target.signer.sign(&delivery.id, timestamp, &delivery.body))
        .body(delivery.body.clone())
        .expect("the url was read as one, and an id is plain text")
}

/// Whether the rest of an answer came to its end within what is read of it.
async fn is_short(mut body: Incoming) -> bool {
    let mut bytes = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else { return false };
        bytes += frame.data_ref().map_or(0, |data| data.len());
        if bytes > BODY_BYTES_MAX {
            return false;
        }
    }
    true
}

fn broken(error: hyper::Error) -> Unreachable {
    use std::error::Error;
    let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
    Unreachable(format!("{error}{source}"))
}
