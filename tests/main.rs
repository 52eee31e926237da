//! Forebay through its front door: the real program, real Postgres, real gRPC, real kills.

mod architecture;
mod bad_input;
mod cuts;
mod disks;
mod equivalence;
mod fail_stop;
mod failed_saves;
mod hosts;
mod keys;
mod kills;
mod lanes;
mod limits;
mod modes;
mod outages;
mod pipe;
mod poolers;
mod programs;
mod restarts;
mod rewinds;
mod schema_changes;
mod slow_readers;
mod stops;
mod support;
mod syncs;
mod tables;
mod types;
