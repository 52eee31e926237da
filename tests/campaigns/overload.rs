//! More than is reasonable, and what nobody sends by accident: open loops far above what Postgres takes, connections and calls that
//! are held, no file descriptors left, and HTTP/2, protobuf and compression turned against the daemon (P7, P10).
//!
//! A run is one daemon with known limits, and rounds of one [`Kind`] of overload. While it lasts, honest clients are served and
//! health is told; the memory it costs at the peak is what the limits allow. After each round everything is as it was before:
//! descriptors, connections, calls, memory; a new client is served. At the end the checker judges what the honest clients saved.
//! When minutes are asked for, one run lasts as long.
//!
//! [`run`] is what all kinds share, [`honest`] who has to be served meanwhile; [`capacity`], [`connections`], [`http2`] (with
//! [`frames`]) and [`messages`] do the harm.

use self::run::Run;
use super::campaign;

mod capacity;
mod connections;
mod frames;
mod honest;
mod http2;
mod messages;
mod run;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The limits of every run, beside which a kind may have its own. Those below are the same as numbers.
const LIMITS: [(&str, &str); 6] = [
    ("grpc.connections_max", "64"),
    ("grpc.streams_per_connection_max", "64"),
    ("grpc.message_bytes_max", "256 KiB"),
    ("grpc.receiving_bytes_max", "24 MiB"),
    ("grpc.body_bytes_max", "128 KiB"),
    ("grpc.batch_saves_max", "200"),
];
const CONNECTIONS_MAX: usize = 64;
const CALLS_PER_CONNECTION_MAX: usize = 64;
const MESSAGE_BYTES_MAX: u64 = 256 * KIB;
const RECEIVING_BYTES_MAX: u64 = 24 * MIB;
/// What HTTP/2 lets a client send ahead on one connection: the most that it makes the daemon hold before anybody reads it.
const CONNECTION_WINDOW_BYTES: u64 = 2 * MIB;
/// Connections from which frames and messages come at once.
const ATTACKERS: usize = 4;

/// What overloads the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    TenTimesCapacity,
    IdleConnections,
    SlowReadersAndWriters,
    UnfinishedMessages,
    NoFileDescriptors,
    RapidResets,
    ProvokedResets,
    EmptyData,
    Continuations,
    HugeHeaders,
    ControlFrames,
    DeepAndWideMessages,
    DecompressionBombs,
}

impl Kind {
    /// What a round is counted in.
    const fn counted(self) -> &'static str {
        match self {
            Self::TenTimesCapacity => capacity::OFFERED,
            Self::IdleConnections => "idle connections",
            Self::SlowReadersAndWriters => "slow calls",
            Self::UnfinishedMessages => "unfinished messages",
            Self::NoFileDescriptors => "connections without a descriptor",
            Self::RapidResets | Self::ProvokedResets | Self::EmptyData | Self::Continuations | Self::HugeHeaders | Self::ControlFrames => {
                "frames"
            }
            Self::DeepAndWideMessages | Self::DecompressionBombs => "messages",
        }
    }

    /// Its own limits.
    const fn limits(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::TenTimesCapacity => &capacity::LIMITS,
            Self::IdleConnections => &connections::IDLE_LIMITS,
            _ => &[],
        }
    }

    /// Warnings and errors that it provokes.
    const fn logged(self) -> &'static [&'static str] {
        match self {
            Self::NoFileDescriptors => &["can't accept connections", "http connection could not be accepted"],
            // Who is cut off comes back before its connection is gone.
            _ => &["connections are refused"],
        }
    }

    /// What the limits allow it to cost at the peak, beside what honest clients cost.
    const fn memory_max(self) -> u64 {
        match self {
            // The backlog of so many rows, and calls of as many.
            Self::TenTimesCapacity => 16 * MIB,
            Self::IdleConnections | Self::NoFileDescriptors => CONNECTIONS_MAX as u64 * connections::IDLE_BYTES_MAX,
            Self::SlowReadersAndWriters => connections::SLOW_BYTES_MAX,
            // An eighth of what is sent: what HTTP/2 has taken of the newest connections and nobody has read comes on top.
            Self::UnfinishedMessages => RECEIVING_BYTES_MAX + 2 * CONNECTION_WINDOW_BYTES,
            Self::RapidResets | Self::ProvokedResets | Self::EmptyData | Self::Continuations | Self::HugeHeaders | Self::ControlFrames => {
                ATTACKERS as u64 * CONNECTION_WINDOW_BYTES
            }
            Self::DeepAndWideMessages => ATTACKERS as u64 * messages::DECODED_BYTES_MAX,
            Self::DecompressionBombs => ATTACKERS as u64 * MESSAGE_BYTES_MAX,
        }
    }

    /// What the allocator keeps of it, beside what it keeps of everything.
    const fn kept_max(self) -> u64 {
        match self {
            // Ten times as many buffers come and go as are held, and leave holes: after hundreds of rounds it keeps 30 MiB more than after
            // the first, while what is alive stays the same.
            Self::UnfinishedMessages => 2 * RECEIVING_BYTES_MAX,
            // Of a message on each of two cores.
            Self::DeepAndWideMessages => 2 * messages::DECODED_BYTES_MAX,
            _ => 0,
        }
    }
}

async fn overload(kind: Kind, name: &'static str) {
    campaign::run(name, 1, u64::MAX, move |seed| async move {
        let mut run = Run::new(kind, seed).await;
        while run.goes_on() {
            run.begin().await;
            let struck = strike(kind, &mut run).await;
            run.end(struck).await;
        }
        run.complete().await
    })
    .await;
}

/// One round of it, for as long as it takes to serve honest clients well; how much there was of it.
async fn strike(kind: Kind, run: &mut Run) -> u64 {
    match kind {
        Kind::TenTimesCapacity => capacity::offer_ten_times(run).await,
        Kind::IdleConnections => connections::idle(run).await,
        Kind::SlowReadersAndWriters => connections::read_and_write_slowly(run).await,
        Kind::UnfinishedMessages => connections::begin_messages(run).await,
        Kind::NoFileDescriptors => connections::take_all_descriptors(run).await,
        Kind::RapidResets => run.while_serving(|| http2::flood(run.address(), http2::reset_calls)).await,
        Kind::ProvokedResets => run.while_serving(|| http2::flood(run.address(), http2::provoke_resets)).await,
        Kind::EmptyData => run.while_serving(|| http2::flood(run.address(), http2::send_nothing)).await,
        Kind::Continuations => run.while_serving(|| http2::flood(run.address(), http2::continue_for_ever)).await,
        Kind::HugeHeaders => run.while_serving(|| http2::flood(run.address(), http2::send_huge_headers)).await,
        Kind::ControlFrames => run.while_serving(|| http2::flood(run.address(), http2::ask_for_answers)).await,
        Kind::DeepAndWideMessages => run.while_serving(|| messages::send(run.address(), messages::deep_and_wide())).await,
        Kind::DecompressionBombs => run.while_serving(|| messages::send(run.address(), messages::bombs())).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_capacity_is_shed_and_what_was_accepted_is_written() {
    overload(Kind::TenTimesCapacity, "overload::ten_times_capacity").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_the_cap_are_dropped_and_those_that_live_are_kept() {
    overload(Kind::IdleConnections, "overload::idle_connections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_and_writers_by_the_thousand_hold_up_nobody() {
    overload(Kind::SlowReadersAndWriters, "overload::slow_readers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_are_held_to_their_limit() {
    overload(Kind::UnfinishedMessages, "overload::unfinished_messages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_descriptors_that_are_all_taken_stop_no_save() {
    overload(Kind::NoFileDescriptors, "overload::file_descriptors").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_hold_up_nobody() {
    overload(Kind::RapidResets, "overload::rapid_resets").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provoked_resets_hold_up_nobody() {
    overload(Kind::ProvokedResets, "overload::provoked_resets").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_data_frames_are_not_kept() {
    overload(Kind::EmptyData, "overload::empty_data").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn continuations_without_end_are_cut() {
    overload(Kind::Continuations, "overload::continuations").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_headers_are_not_kept() {
    overload(Kind::HugeHeaders, "overload::huge_headers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_frames_whose_answers_nobody_reads_are_not_piled_up() {
    overload(Kind::ControlFrames, "overload::control_frames").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_and_wide_messages_are_refused() {
    overload(Kind::DeepAndWideMessages, "overload::deep_and_wide").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decompression_bombs_are_refused_unopened() {
    overload(Kind::DecompressionBombs, "overload::decompression_bombs").await;
}
