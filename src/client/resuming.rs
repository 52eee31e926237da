//! A call with a stream of answers that is opened again when it breaks.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tonic::{Response, Status, Streaming, transport::Channel};

use super::{
    Client, Error,
    retry::{Repeat, Waits},
};
use crate::proto::save_service_client::SaveServiceClient;

/// One call after the other; each says itself where the last one stopped.
#[derive(Debug)]
pub(super) struct Resuming<T> {
    client: Client,
    waits: Waits,
    /// Between two answers; none for what may rightly be silent: there keepalive tells a dead connection.
    silence_max: Option<Duration>,
    open: Option<Open<T>>,
}

#[derive(Debug)]
struct Open<T> {
    answers: Streaming<T>,
    since: Instant,
}

impl<T> Resuming<T> {
    pub(super) fn new(client: Client, silence_max: Option<Duration>) -> Self {
        let waits = client.shared.retry.waits();
        Self { client, waits, silence_max, open: None }
    }

    /// The next answer, of a call made by `call` if none is open; `None`: the daemon ended the call.
    pub(super) async fn next<F>(&mut self, call: impl FnOnce(SaveServiceClient<Channel>) -> F) -> Result<Option<T>, Error>
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        let open = match &mut self.open {
            Some(open) => open,
            closed => {
                let answers = in_time(Some(self.client.shared.call_timeout), call(self.client.stub())).await?.into_inner();
                closed.insert(Open { answers, since: Instant::now() })
            }
        };
        let answer = in_time(self.silence_max, open.answers.message()).await;
        match &answer {
            Ok(Some(_)) => self.waits.reset(),
            Ok(None) => self.open = None,
            Err(_) => {
                self.waits.lasted(open.since.elapsed());
                self.open = None;
            }
        }
        answer
    }

    /// Waits before the call is made again; fails with what ended it if it shall not be.
    pub(super) async fn pause(&mut self, error: Error) -> Result<(), Error> {
        let Some(wait) = self.waits.next(&error, Repeat::Always) else { return Err(error) };
        tracing::debug!(%error, wait_ms = wait.as_millis(), "resuming");
        sleep(wait).await;
        Ok(())
    }
}

async fn in_time<T>(max: Option<Duration>, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Error> {
    let answer = match max {
        Some(max) => timeout(max, answer).await.map_err(|_| Error::unavailable("the daemon doesn't answer"))?,
        None => answer.await,
    };
    answer.map_err(Error::from_status)
}
