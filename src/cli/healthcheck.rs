//! `forebay healthcheck`: for a container's health check, where there is no curl.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;
use forebay::exit::{Exit, Failure};

use super::{SettingsArguments, reachable};

const TIMEOUT: Duration = Duration::from_secs(3);
/// Far above any answer of a probe page.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Asks the daemon's HTTP port; exits 0 if the answer is yes, 1 if not.
#[derive(Args)]
pub(super) struct Arguments {
    /// Asks whether it accepts saves (the default).
    #[arg(long, conflicts_with = "live")]
    ready: bool,
    /// Asks whether it runs.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    settings: SettingsArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let address = reachable(arguments.settings.load()?.http.listen);
    let path = if arguments.live { "/livez" } else { "/readyz" };
    let (exit, answer) = match probe(address, path) {
        Ok(answer) if answer.yes => (Exit::Success, answer.text),
        Ok(answer) => (Exit::No, answer.text),
        Err(error) => (Exit::No, format!("http://{address}{path}: {error}")),
    };
    println!("{}", answer.trim_end());
    Ok(exit)
}

struct Answer {
    yes: bool,
    text: String,
}

fn probe(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    read(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("no HTTP answer: does another program listen there?"))
}

fn read(answer: &str) -> Option<Answer> {
    let (head, text) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?;
    Some(Answer { yes: status.starts_with("200"), text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// What a probe of a server that sends these bytes finds.
    fn probe_of(bytes: &'static [u8]) -> io::Result<Answer> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the probe");
            let mut request = BufReader::new(&stream).lines().map_while(Result::ok);
            assert_eq!(request.next().as_deref(), Some("GET /readyz HTTP/1.1"));
            // To the empty line that ends the headers: closing with unread bytes would cut the answer off.
            assert!(request.any(|line| line.is_empty()));
            stream.write_all(bytes).expect("answered");
        });
        let found = probe(address, "/readyz");
        server.join().expect("no panic");
        found
    }

    #[test]
    fn the_answer_and_its_reason_are_told() {
        let ready = probe_of(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n").expect("an answer");
        assert!(ready.yes);
        let waiting = probe_of(b"HTTP/1.1 503 Service Unavailable\r\n\r\nrecovering the journal\n").expect("an answer");
        assert!(!waiting.yes);
        assert_eq!(waiting.text, "recovering the journal\n");
    }

    #[test]
    fn another_program_on_the_port_is_told_apart() {
        assert!(probe_of(b"220 mail.example.org ESMTP\r\n").is_err());
    }
}
