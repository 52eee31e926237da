use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::harness::*;
use crate::proto::SaveRequest;

const SHORT: Duration = Duration::from_millis(50);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn save_request() -> SaveRequest {
    SaveRequest { save: Some(player(1)), ..SaveRequest::default() }
}

async fn connect(door: &Harness) -> TcpStream {
    soon(TcpStream::connect(door.address)).await.expect("the door is open")
}

/// Waits until the other side closes.
async fn closed(mut socket: TcpStream) {
    let mut rest = Vec::new();
    // An end or a reset: both are a close.
    let _ = soon(socket.read_to_end(&mut rest)).await;
}

async fn assert_serves(door: &Harness) {
    soon(door.saves().await.save(save_request())).await.expect("it is accepted");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_dropped() {
    let door = start_with(|settings| settings.first_byte_timeout = SHORT).await;
    closed(connect(&door).await).await;
    assert_serves(&door).await;
}

#[tokio::test]
async fn a_client_that_begins_and_falls_silent_is_dropped() {
    let door = start_with(|settings| settings.handshake_timeout = SHORT).await;
    for begun in [&PREFACE[..1], PREFACE, &[PREFACE, &[0, 0, 6, 4, 0]].concat()] {
        let mut socket = connect(&door).await;
        socket.write_all(begun).await.expect("it is taken");
        closed(socket).await;
    }
    assert_serves(&door).await;
}

#[tokio::test]
async fn a_connection_that_has_begun_well_outlives_the_deadlines() {
    let door = start_with(|settings| (settings.first_byte_timeout, settings.handshake_timeout) = (SHORT, SHORT)).await;
    let mut client = door.saves().await;
    soon(client.save(save_request())).await.expect("it is accepted");
    // Longer than both: seen by another client's end.
    closed(connect(&door).await).await;
    closed(connect(&door).await).await;
    soon(client.save(save_request())).await.expect("on the same connection");
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let door = start().await;
    for garbage in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0xff; 4_096], &[PREFACE, &[0xff; 64]].concat()] {
        let mut socket = connect(&door).await;
        // It may be closed while this is written.
        let _ = socket.write_all(garbage).await;
        closed(socket).await;
    }
    assert_serves(&door).await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once() {
    let door = start_with(|settings| settings.connections_max = 1).await;
    let mut client = door.saves().await;
    soon(client.save(save_request())).await.expect("it is accepted");
    for _ in 0..3 {
        closed(connect(&door).await).await;
    }
    soon(client.save(save_request())).await.expect("the first is not concerned");
    drop(client);
    while door.limits.connections.used() > 0 {
        tokio::task::yield_now().await;
    }
    assert_serves(&door).await;
}
