//! The front door over real connections, with a journal and a daemon that do as they are told.

mod accept;
mod failed;
mod harness;
mod life;
mod limits;
mod stream;
mod tickets;
mod unary;
mod watch;
