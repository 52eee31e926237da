//! The disk of Postgres is full: that of its tables, which it survives, or that of its write-ahead log, which it doesn't.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    process::Command,
};

use crate::support::{Database, Disk, eventually};

use super::run::Run;

/// Small, so that it is soon full.
const TABLES_MIB: u64 = 48;
/// Some segments of the log, of 16 MiB each.
const LOG_MIB: u64 = 160;

/// What grows with every write lies on a small disk for a while.
pub(super) async fn fill_the_tables(run: &mut Run) {
    let disk = mount(TABLES_MIB, &run.database);
    let path = disk.path();
    run.alter(&format!("create tablespace small location '{}'", place(&path, &run.database))).await;
    move_tables(run, "small").await;
    run.flows().await;
    disk.fill(0);
    run.halted("53100", "free disk space on the Postgres server").await;
    run.pass_time(0..1_000).await;
    disk.empty();
    run.repaired().await;
    run.flows().await;
    move_tables(run, "pg_default").await;
    run.alter("drop tablespace small").await;
}

async fn move_tables(run: &Run, space: &str) {
    for table in ["applied", "notes"] {
        run.alter(&format!("alter table {table} set tablespace {space}")).await;
    }
}

/// The log can't grow: Postgres panics, and nobody can start it before there is room.
pub(super) async fn fill_the_log(run: &mut Run) {
    let disk = mount(LOG_MIB, &run.database);
    let log = run.database.data_directory().join("pg_wal");
    let on_disk = disk.path().join("pg_wal");
    run.database.shut_postgres_down();
    copy(&log, &on_disk);
    fs::remove_dir_all(&log).and_then(|()| symlink(&on_disk, &log)).expect("the log lies elsewhere");
    run.database.start_postgres();
    run.flows().await;
    let session = run.database.client().await;
    disk.fill(0);
    eventually("Postgres panics", || async { session.batch_execute("select pg_switch_wal()").await.err().filter(|_| session.is_closed()) })
        .await;
    run.pass_time(0..1_000).await;
    disk.empty();
    // It may have come back by itself, or have given up.
    run.database.stop_postgres();
    run.database.start_postgres();
    run.flows().await;
    run.database.shut_postgres_down();
    fs::remove_file(&log).expect("the link");
    copy(&on_disk, &log);
    run.database.start_postgres();
}

/// A disk that Postgres may use.
fn mount(mib: u64, database: &Database) -> Disk {
    let disk = Disk::mount(mib);
    let home = disk.path().parent().expect("it is mounted in a directory").to_owned();
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
    own(&disk.path(), database);
    disk
}

/// A directory for a tablespace.
fn place(disk: &Path, database: &Database) -> String {
    let path = disk.join("space");
    fs::create_dir(&path).expect("made");
    own(&path, database);
    path.display().to_string()
}

/// Hands a path to whom Postgres runs as.
fn own(path: &Path, database: &Database) {
    let owner = fs::metadata(database.data_directory()).expect("the cluster is there");
    chown(path, Some(owner.uid()), Some(owner.gid())).expect("we may give it away");
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "{} is copied to {}: {status}", from.display(), to.display());
}
