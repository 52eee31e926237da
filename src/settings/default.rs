//! What holds without any configuration: `config/forebay.toml` says why each value is what it is.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    BacklogSettings, CallbackSettings, DrainSettings, FailedSettings, GrpcSettings, HttpSettings, JournalSettings, LaneSettings,
    LogSettings, OnRewind, PostgresSettings, RequestIdSettings, Settings, StopSettings, SynchronousCommit,
};

impl Default for Settings {
    fn default() -> Self {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        let seconds = Duration::from_secs;
        Self {
            grpc: GrpcSettings {
                listen: SocketAddr::from(([127, 0, 0, 1], 7420)),
                connections_max: 4_096,
                streams_per_connection_max: 256,
                calls_in_flight_max: 16_384,
                awaiting_calls_max: 100_000,
                save_streams_max: 1_024,
                stream_unacknowledged_max: 4_096,
                message_bytes_max: 4 * MIB,
                receiving_bytes_max: 256 * MIB,
                message_timeout: seconds(30),
                body_bytes_max: MIB,
                key_bytes_max: KIB,
                batch_saves_max: 10_000,
                header_bytes_max: 16 << 10,
                handshake_timeout: seconds(5),
                first_byte_timeout: seconds(5),
                keepalive_interval: seconds(30),
                keepalive_timeout: seconds(10),
            },
            http: HttpSettings { listen: SocketAddr::from(([127, 0, 0, 1], 7421)) },
            journal: JournalSettings {
                directory: PathBuf::from("./forebay-data"),
                bytes_max: 10 * GIB,
                free_bytes_min: GIB,
                segment_bytes: 64 * MIB,
                group_bytes_max: MIB,
                group_saves_max: 4_096,
                inbox_bytes_max: 64 * MIB,
                retention: seconds(600),
                retention_bytes_max: GIB,
                sync_warn: seconds(1),
                sync_timeout: seconds(30),
            },
            backlog: BacklogSettings { bytes_max: GIB, objects_max: 2_000_000 },
            drain: DrainSettings {
                statement_rows: 1_000,
                statement_target: Duration::from_millis(50),
                generation_objects_max: 1_000_000,
                rows_per_second_max: 0,
                retry_wait_min: Duration::from_millis(100),
                retry_wait_max: seconds(10),
                halt_wait: seconds(600),
                relational_retry: Duration::ZERO,
                on_rewind: OnRewind::Reapply,
            },
            postgres: PostgresSettings {
                url: None,
                schemas: vec!["public".to_owned()],
                readers: 2,
                first_wait: seconds(60),
                connect_timeout: seconds(5),
                statement_timeout: seconds(30),
                answer_grace: seconds(5),
                lock_timeout: seconds(10),
                idle_in_transaction_timeout: seconds(60),
                synchronous_commit: SynchronousCommit::On,
                allow_fsync_off: false,
                keepalive_idle: seconds(10),
                keepalive_interval: seconds(5),
                keepalive_count: 3,
                tcp_user_timeout: seconds(15),
            },
            failed: FailedSettings { saves_max: 100_000, closed_kept: 1_000_000 },
            request_ids: RequestIdSettings { count_max: 1_000_000, retention: seconds(600) },
            callbacks: CallbackSettings { timeout: seconds(15), give_up: seconds(24 * 3_600), pending_max: 100_000 },
            stop: StopSettings { drain_timeout: seconds(10), timeout: seconds(25) },
            log: LogSettings { level: "info".to_owned(), format: None },
            lanes: BTreeMap::from([("default".to_owned(), LaneSettings::default())]),
            collections: BTreeMap::new(),
            endpoints: BTreeMap::new(),
        }
    }
}
