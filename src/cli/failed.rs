//! `forebay failed`: what Postgres would not take, and what is done about it.

use std::{
    io::{self, BufWriter, Write},
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use forebay::{
    client::{Client, Error},
    exit::{Exit, Failure, OrExit},
    proto::{
        DiscardFailedSavesRequest, FailedSave, FailedSaveFilter, FailedSaveState, ListFailedSavesRequest, RetryFailedSavesRequest,
        RetryResult,
    },
};

use super::daemon::DaemonArguments;

mod filter;
mod line;
mod table;

use filter::{FilterArguments, StateArgument};

/// A retry first waits for what was accepted before it.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Failed saves that are asked for at once.
const PAGE_SIZE: i32 = 1_000;

/// Lists, shows, retries, discards and exports saves that were accepted and that Postgres would not take.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Lists failed saves with their reason, oldest first; without their data.
    List {
        #[command(flatten)]
        filter: FilterArguments,
        /// Those in this state; without it the open ones.
        #[arg(long = "state", value_enum)]
        states: Vec<StateArgument>,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Shows failed saves whole: with the body, which is data of yours. Exits 1 if there is none with a ticket.
    Show {
        /// Their tickets.
        #[arg(required = true, value_name = "TICKET")]
        tickets: Vec<String>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Saves failed saves again, as new saves with tickets of their own. Exits 1 if one of them is not retried, or there is none.
    Retry {
        #[command(flatten)]
        filter: FilterArguments,
        /// Every open failed save.
        #[arg(long)]
        all: bool,
        /// Also if the object has been saved since: its older columns are put over the newer ones.
        #[arg(long)]
        force: bool,
        /// Leave this column, which is gone, out of the body; may be given more than once.
        #[arg(long = "without-column", value_name = "NAME")]
        without_columns: Vec<String>,
        /// One JSON object a line and failed save, with its new ticket or why there is none.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Gives open failed saves up, for good. Exits 1 if a ticket is not open, or there is nothing to discard.
    Discard {
        #[command(flatten)]
        filter: FilterArguments,
        /// Every open failed save.
        #[arg(long)]
        all: bool,
        /// Why; kept with each of them and logged.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Prints failed saves whole, oldest first, a JSON object a line. Bodies are data of yours: mind where they go.
    Export {
        #[command(flatten)]
        filter: FilterArguments,
        /// Those in this state; without it the open ones.
        #[arg(long = "state", value_enum)]
        states: Vec<StateArgument>,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    match &arguments.action {
        Action::List { filter, states, limit, json, daemon } => list(daemon, &request(filter.to_proto(), states), *limit, *json),
        Action::Show { tickets, json, daemon } => show(daemon, tickets, *json),
        Action::Retry { filter, all, force, without_columns, json, daemon } => {
            filter.check_meant(*all)?;
            let (filter, without_columns) = (Some(filter.to_proto()), without_columns.clone());
            let request = RetryFailedSavesRequest { filter, all: *all, force: *force, without_columns, page_token: String::new() };
            retry(daemon, request, *json)
        }
        Action::Discard { filter, all, reason, daemon } => {
            filter.check_meant(*all)?;
            let request = DiscardFailedSavesRequest { filter: Some(filter.to_proto()), all: *all, reason: reason.clone() };
            discard(daemon, &request)
        }
        Action::Export { filter, states, daemon } => export(daemon, &request(filter.to_proto(), states)),
    }
}

fn request(filter: FailedSaveFilter, states: &[StateArgument]) -> ListFailedSavesRequest {
    let states = states.iter().map(|&state| FailedSaveState::from(state).into()).collect();
    ListFailedSavesRequest { filter: Some(filter), states, page_size: PAGE_SIZE, ..ListFailedSavesRequest::default() }
}

fn list(daemon: &DaemonArguments, request: &ListFailedSavesRequest, limit: usize, json: bool) -> Result<Exit, Failure> {
    let (mut found, mut more) = (Vec::new(), false);
    daemon.ask_within(CALL_TIMEOUT, "list failed saves", async |client| {
        each_page(&client, request, |page| {
            let room = limit - found.len();
            more = page.len() > room;
            found.extend(page.into_iter().take(room));
            !more
        })
        .await
    })?;
    if json {
        return print(|out| found.iter().try_for_each(|save| line::write(save, out)));
    }
    print!("{}", table::Table { saves: &found, now: SystemTime::now() });
    if more {
        println!("there are more: see --limit, or narrow the list");
    }
    Ok(Exit::Success)
}

fn show(daemon: &DaemonArguments, tickets: &[String], json: bool) -> Result<Exit, Failure> {
    let filter = FailedSaveFilter { tickets: tickets.to_vec(), ..FailedSaveFilter::default() };
    let request = ListFailedSavesRequest { with_bodies: true, ..request(filter, &StateArgument::ALL) };
    let mut found = Vec::new();
    daemon.ask_within(CALL_TIMEOUT, "show failed saves", async |client| {
        each_page(&client, &request, |page| {
            found.extend(page);
            true
        })
        .await
    })?;
    print(|out| {
        found.iter().try_for_each(|save| match json {
            true => line::write(save, out),
            false => write!(out, "{}", table::Whole(save)),
        })
    })?;
    let missing = tickets.iter().filter(|ticket| found.iter().all(|save| save.ticket != **ticket));
    let missing: Vec<_> = missing.inspect(|ticket| eprintln!("{ticket}: is no failed save that this daemon knows of")).collect();
    Ok(if missing.is_empty() { Exit::Success } else { Exit::No })
}

fn retry(daemon: &DaemonArguments, mut request: RetryFailedSavesRequest, json: bool) -> Result<Exit, Failure> {
    let (mut retried, mut left) = (0_u64, 0_u64);
    daemon.ask_within(CALL_TIMEOUT, "retry failed saves", async |client| {
        loop {
            let answer = client.retry_failed_saves(request.clone()).await?;
            for result in &answer.results {
                *(if result.retry_ticket.is_empty() { &mut left } else { &mut retried }) += 1;
                tell_retried(result, json);
            }
            request.page_token = answer.next_page_token;
            if request.page_token.is_empty() {
                return Ok(());
            }
        }
    })?;
    if !json {
        println!("{retried} retried, {left} not");
    }
    Ok(if retried > 0 && left == 0 { Exit::Success } else { Exit::No })
}

fn tell_retried(result: &RetryResult, json: bool) {
    let RetryResult { ticket, retry_ticket, message, .. } = result;
    match (json, retry_ticket.is_empty()) {
        (true, _) => println!("{}", line::retried(result)),
        (false, true) => println!("{ticket}: {message}"),
        (false, false) => println!("{ticket}: retried as {retry_ticket}"),
    }
}

fn discard(daemon: &DaemonArguments, request: &DiscardFailedSavesRequest) -> Result<Exit, Failure> {
    let answer =
        daemon.ask_within(CALL_TIMEOUT, "discard failed saves", async |client| client.discard_failed_saves(request.clone()).await)?;
    for ticket in &answer.tickets_left {
        eprintln!("{ticket}: is not open, or is being retried");
    }
    println!("{} discarded", answer.count);
    Ok(if answer.count > 0 && answer.tickets_left.is_empty() { Exit::Success } else { Exit::No })
}

fn export(daemon: &DaemonArguments, request: &ListFailedSavesRequest) -> Result<Exit, Failure> {
    let request = ListFailedSavesRequest { with_bodies: true, ..request.clone() };
    let (mut out, mut count) = (BufWriter::new(io::stdout().lock()), 0_u64);
    let mut written = Ok(());
    daemon.ask_within(CALL_TIMEOUT, "export failed saves", async |client| {
        each_page(&client, &request, |page| {
            count += page.len() as u64;
            written = page.iter().try_for_each(|save| line::write(save, &mut out));
            written.is_ok()
        })
        .await
    })?;
    written.and_then(|()| out.flush()).or_exit(Exit::Internal, "write")?;
    eprintln!("{count} failed saves");
    Ok(Exit::Success)
}

/// Every page in turn, until `take` says that it has enough.
async fn each_page(client: &Client, request: &ListFailedSavesRequest, mut take: impl FnMut(Vec<FailedSave>) -> bool) -> Result<(), Error> {
    let mut request = request.clone();
    loop {
        let page = client.list_failed_saves(request.clone()).await?;
        if !take(page.failed_saves) || page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Exit, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out).and_then(|()| out.flush()).or_exit(Exit::Internal, "write")?;
    Ok(Exit::Success)
}
