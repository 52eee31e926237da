//! The front door over real connections, with a journal and a daemon that do as they are told.

mod accept;
mod callbacks;
mod failed;
mod harness;
mod life;
mod limits;
mod persisted;
mod stream;
mod tickets;
mod unary;
mod watch;
