//! The journal as the front door sees it.

use crate::{
    collections::Collections,
    grpc::{self, Append, AppendDone},
    journal::{self, Appender},
    save::Save,
};

impl Append for Appender {
    fn gate(&self) -> Result<(), grpc::AppendError> {
        Appender::gate(self).map_err(told)
    }

    fn append_with(&self, collections: &Collections, saves: Vec<Save>, done: AppendDone) {
        Appender::append_with(self, collections, saves, move |outcome| done(outcome.map_err(told)));
    }
}

fn told(error: journal::AppendError) -> grpc::AppendError {
    match error {
        journal::AppendError::Full(reached) => grpc::AppendError::Full(reached),
        journal::AppendError::FreeSpace { free, min } => grpc::AppendError::FreeSpace { free, min },
        journal::AppendError::Stopped => grpc::AppendError::Stopped,
        journal::AppendError::OutcomeUnknown => grpc::AppendError::OutcomeUnknown,
    }
}
