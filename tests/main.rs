//! Forebay through its front door: the real program, real Postgres, real gRPC, real kills.

mod architecture;
mod bad_input;
mod failed_saves;
mod kills;
mod limits;
mod outages;
mod pipe;
mod programs;
mod restarts;
mod stops;
mod support;
mod syncs;
