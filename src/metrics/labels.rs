//! Label values: every one is a variant here or the name of a configured collection or lane, so that no key or body can
//! become a time series.

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of the discriminants.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// The label's text.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    )+};
}

labels! {
    /// An rpc that takes saves or waits; by the name it has in the contract.
    Rpc {
        /// One save.
        Save = "Save",
        /// Saves accepted together.
        SaveBatch = "SaveBatch",
        /// A message of a save stream.
        SaveStream = "SaveStream",
        /// Waits for the drain.
        Flush = "Flush",
        /// What became of a save.
        GetTicket = "GetTicket",
        /// Waiting for the outcome of a save.
        AwaitTicket = "AwaitTicket",
        /// Reads an object.
        Get = "Get",
        /// Reads many.
        Load = "Load",
        /// A watcher of outcomes.
        WatchOutcomes = "WatchOutcomes",
        /// Everything else.
        Other = "other",
    }

    /// Why a save was turned away; the reasons of the contract in lower case.
    Refused {
        /// Its sender has to correct it.
        InvalidSave = "invalid_save",
        /// It asks for what this version doesn't have.
        NotImplemented = "not_implemented",
        /// A limit is met.
        LimitReached = "limit_reached",
        /// The journal's file system is nearly full.
        DiskFull = "disk_full",
        /// The journal is being recovered.
        Starting = "starting",
        /// The daemon stops.
        Stopping = "stopping",
        /// The journal failed while the save was under way.
        OutcomeUnknown = "outcome_unknown",
        /// A newer connection has the stream.
        StreamTakenOver = "stream_taken_over",
        /// The caller's deadline came first.
        Deadline = "deadline",
        /// Later saves of its stream were accepted.
        Overtaken = "overtaken",
        /// Another call was accepted under its request id.
        RequestIdReused = "request_id_reused",
    }

    /// What a statement did to rows.
    RowOp {
        /// It was there: its columns were set.
        Update = "update",
        /// It was missing: it was inserted.
        Insert = "insert",
        /// It was there and is no more.
        Delete = "delete",
        /// Added to an append collection.
        Append = "append",
    }

    /// How a writing transaction ended.
    TransactionResult {
        /// The server confirmed the commit.
        Committed = "committed",
        /// The server refused a statement, or was told to roll back.
        RolledBack = "rolled_back",
        /// The connection was lost before the commit was sent.
        Lost = "lost",
        /// The connection was lost while the commit was under way; the position row tells.
        InDoubt = "in_doubt",
    }

    /// Why a generation is tried again.
    RetryReason {
        /// No connection, or a lost one.
        Connection = "connection",
        /// A statement, a lock or a call took too long.
        Timeout = "timeout",
        /// A deadlock or a serialization failure.
        Conflict = "conflict",
        /// The server is short of memory, connections or disk.
        Resources = "resources",
        /// The position row isn't where it was expected.
        PositionMoved = "position_moved",
        /// The tables aren't as they were read.
        CatalogChanged = "catalog_changed",
        /// Postgres would not take a part of it: it is halved.
        Halved = "halved",
        /// Anything else.
        Other = "other",
    }

    /// How an attempt to tell an endpoint an outcome ended.
    AttemptResult {
        /// The answer was 2xx.
        Delivered = "delivered",
        /// The answer was another one.
        Refused = "refused",
        /// There was no answer in time.
        TimedOut = "timed_out",
        /// There was no connection, or it broke.
        Unreachable = "unreachable",
    }

    /// Why an outcome will not be told.
    GiveUpReason {
        /// It was tried for too long.
        TooOld = "too_old",
        /// Its endpoint answered 410.
        Disabled = "disabled",
    }

    /// What a limit holds down, and so what is used of it.
    LimitKind {
        /// A shared amount: what is in use now.
        Amount = "amount",
        /// The size of one thing: the largest since the start.
        Size = "size",
        /// What must be left: what there is now.
        Reserve = "reserve",
        /// So much a second: what the last second had.
        Rate = "rate",
    }

    /// What a lane does, as in the status.
    LaneState {
        /// Getting a connection, or reading its position.
        Connecting = "connecting",
        /// Nothing to write.
        Idle = "idle",
        /// Gathering saves for the coalescing window.
        Gathering = "gathering",
        /// Writing a generation.
        Applying = "applying",
        /// Waiting before it tries again.
        Retrying = "retrying",
        /// Paused by an operator.
        Paused = "paused",
        /// In front of a save that the server doesn't take for now.
        Halted = "halted",
        /// Another daemon writes it.
        Fenced = "fenced",
        /// Ended.
        Stopped = "stopped",
    }
}
