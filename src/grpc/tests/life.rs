use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

use super::harness::*;
use crate::proto::{FlushRequest, GetStatusRequest, SaveRequest, SaveStreamRequest};

fn save_request() -> SaveRequest {
    SaveRequest { save: Some(player(1)), ..SaveRequest::default() }
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_is_red_until_recovery_is_over_and_again_from_the_stop_on() {
    let door = start_unready(|_| ()).await;
    let mut health = HealthClient::new(door.channel().await);
    for service in ["", "forebay.v1.SaveService", "forebay.v1.AdminService"] {
        let told = soon(health.check(of(service))).await.expect("it is known").into_inner();
        assert_eq!(told.status(), ServingStatus::NotServing, "{service:?}");
    }
    assert_eq!(soon(health.check(of("other"))).await.expect_err("it is unknown").code(), Code::NotFound);
    let mut watch = soon(health.watch(of("forebay.v1.SaveService"))).await.expect("it is watched").into_inner();
    assert_eq!(soon(watch.message()).await.expect("told").expect("told").status(), ServingStatus::NotServing);
    door.health.serving();
    assert_eq!(soon(watch.message()).await.expect("told").expect("told").status(), ServingStatus::Serving);
    assert!(door.health.is_serving());
    door.stop.cancel();
    assert_eq!(soon(watch.message()).await.expect("told").expect("told").status(), ServingStatus::NotServing);
    assert!(soon(watch.message()).await.expect("it ends well").is_none(), "a watch holds up no stop");
    door.health.serving();
    assert!(!door.health.is_serving(), "a stop is for good");
    soon(door.served).await.expect("it doesn't panic").expect("it ends well");
}

#[tokio::test]
async fn before_recovery_is_over_saves_are_refused_and_status_is_told() {
    let door = start_unready(|_| ()).await;
    let mut client = door.saves().await;
    assert_error(&soon(client.save(save_request())).await.expect_err("refused"), Code::Unavailable, "STARTING");
    assert_error(&soon(client.flush(FlushRequest::default())).await.expect_err("refused"), Code::Unavailable, "STARTING");
    let none = tokio_stream::iter([SaveStreamRequest::default()]);
    assert_error(&soon(client.save_stream(none)).await.expect_err("refused"), Code::Unavailable, "STARTING");
    soon(door.admin().await.get_status(GetStatusRequest {})).await.expect("it is told");
    door.health.serving();
    soon(client.save(save_request())).await.expect("it is accepted");
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight_and_ends_what_waits() {
    let door = start().await;
    door.journal.conduct(Conduct::Hold);
    let mut talk = door.talk(players(1..=3)).await;
    let (mut client, mut flusher) = (door.saves().await, door.saves().await);
    let call = tokio::spawn(async move { client.save(save_request()).await });
    let flush = tokio::spawn(async move { flusher.flush(FlushRequest::default()).await });
    door.journal.handed(4).await;
    while door.limits.awaiting_calls.used() == 0 {
        tokio::task::yield_now().await;
    }
    door.stop.cancel();
    let status = soon(flush).await.expect("it doesn't panic").expect_err("it waits no longer");
    assert_error(&status, Code::Unavailable, "STOPPING");
    door.journal.release();
    soon(call).await.expect("it doesn't panic").expect("it is acknowledged");
    talk.acknowledged(3).await;
    assert_error(&talk.error().await, Code::Unavailable, "STOPPING");
    drop(talk);
    soon(door.served).await.expect("it doesn't panic").expect("it ends well");
}

#[tokio::test]
async fn a_client_that_does_not_hang_up_is_cut_after_the_grace() {
    let door = start().await;
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(door.channel().await);
    let endless = soon(reflection.server_reflection_info(tokio_stream::pending())).await.expect("it opens");
    door.stop.cancel();
    soon(door.served).await.expect("it doesn't panic").expect("it ends well");
    drop(endless);
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let door = start().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(door.channel().await);
    let request = v1::ServerReflectionRequest {
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
        ..v1::ServerReflectionRequest::default()
    };
    let mut answers = soon(client.server_reflection_info(tokio_stream::once(request))).await.expect("it answers").into_inner();
    let answer = soon(answers.next()).await.expect("one").expect("one").message_response.expect("a message");
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else { panic!("a list: {answer:?}") };
    let names: Vec<_> = list.service.iter().map(|one| one.name.as_str()).collect();
    for service in ["forebay.v1.SaveService", "forebay.v1.AdminService", "grpc.health.v1.Health"] {
        assert!(names.contains(&service), "{names:?}");
    }
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(door.channel().await);
    let request = v1alpha::ServerReflectionRequest {
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol("forebay.v1.Save".to_owned())),
        ..v1alpha::ServerReflectionRequest::default()
    };
    let mut answers = soon(client.server_reflection_info(tokio_stream::once(request))).await.expect("it answers").into_inner();
    let answer = soon(answers.next()).await.expect("one").expect("one").message_response.expect("a message");
    assert!(matches!(answer, v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)), "{answer:?}");
}
