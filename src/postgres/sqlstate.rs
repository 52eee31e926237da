//! Judgement: from what Postgres said to what is done about it. One pure function, one table.
//!
//! Errors about data are never grounds to halt, errors about the statement are. A code that nobody has classified is never
//! treated as poison at first sight. How often something was tried is counted by the drain.

/// What the drain does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The same again on the same connection after a wait, as long as it takes.
    Retry,
    /// The same again at once, a few times, then with fewer rows per statement: a lost race with another transaction.
    RetryThenShrink,
    /// The same again a few times, then halt.
    RetryThenHalt,
    /// The same again a few times, then halve; the single save that remains becomes a failed save.
    RetryThenHalve,
    /// Nobody has classified it: the same again a few times, then halve; halt in front of the single save that remains.
    Unclear,
    /// The same again with fewer rows per statement, after a wait; halt if one row is still too much.
    Shrink,
    /// Drop the connection, make a new one, the same again.
    Reconnect,
    /// As [`Action::Reconnect`]; if it happens again and again, halt.
    ReconnectThenHalt,
    /// Whether it was committed is unknown: drop the connection, the position row tells.
    InDoubt,
    /// Some save's fault, or that of their order: halve by sequence down to the save, which becomes a failed save.
    Halve,
    /// The row's own fault, wherever it stands: as [`Action::Halve`], or by the shortcut that takes the object out.
    RowsOwn,
    /// No save's fault: stop the lane in front of it, say so, probe.
    Halt,
}

impl Action {
    /// For metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::RetryThenShrink => "conflict",
            Self::RetryThenHalt => "retry_then_halt",
            Self::RetryThenHalve => "retry_then_halve",
            Self::Unclear => "unclear",
            Self::Shrink => "shrink",
            Self::Reconnect => "reconnect",
            Self::ReconnectThenHalt => "reconnect_then_halt",
            Self::InDoubt => "in_doubt",
            Self::Halve => "halve",
            Self::RowsOwn => "rows_own",
            Self::Halt => "halt",
        }
    }
}

/// How far the transaction was when the error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing can have been committed.
    BeforeCommit,
    /// COMMIT was sent.
    CommitSent,
}

/// What is needed of an error that Postgres reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    /// The SQLSTATE.
    pub(super) code: &'a str,
    /// The routine of the server that raised it.
    pub(super) routine: Option<&'a str>,
    /// FATAL or PANIC: the session is over.
    pub(super) fatal: bool,
}

/// The connection broke, was refused, or our own timeout passed: there is no SQLSTATE.
pub(super) fn judge_silence(phase: Phase) -> Action {
    match phase {
        Phase::BeforeCommit => Action::Reconnect,
        Phase::CommitSent => Action::InDoubt,
    }
}

/// What to do about an error that Postgres reported.
///
/// 22012 of a transaction's first statement is the fence and never gets here.
///
/// Who answers COMMIT with an ERROR is alive and has rolled back; the writer takes the word of the position row for it, which it
/// reads in the same flight. Whoever ends the session, or makes us end it, may have written the commit record first.
pub(super) fn judge(told: Told<'_>, phase: Phase) -> Action {
    let action = judge_before_commit(told);
    let leaves = matches!(action, Action::Reconnect | Action::ReconnectThenHalt);
    if phase == Phase::CommitSent && (told.fatal || leaves) { Action::InDoubt } else { action }
}

fn judge_before_commit(Told { code, routine, .. }: Told<'_>) -> Action {
    use Action::*;
    match code {
        // Exceptions to their class first.
        "08004" | "08P01" => ReconnectThenHalt,
        "08007" | "40003" => InDoubt,
        "0A000" if routine == Some("RevalidateCachedQuery") => Reconnect,
        "22P03" => Halve,
        "23502" | "23514" => RowsOwn,
        "26000" | "42P05" => Reconnect,
        "40001" | "40P01" => RetryThenShrink,
        "40002" => Halve,
        // Row-level security: about the data, unlike a privilege.
        "42501" if routine == Some("ExecWithCheckOptions") => Halve,
        "0A000" | "42601" | "42602" | "42704" | "42725" | "42883" | "42P01" if routine.is_some_and(reads_a_value) => RowsOwn,
        "53100" => Halt,
        "53300" => Retry,
        "54000" => Halve,
        "55006" | "55P03" | "55P04" => Retry,
        "55P02" | "57P04" => Halt,
        "57014" => Shrink,
        "P0004" => Halt,
        "XX001" | "XX002" => Halt,
        _ => judge_class(code),
    }
}

/// Input functions that say of a value what is otherwise said of a statement: of tsvector, tsquery and jsonpath, of the names of
/// objects (regclass and the like) and roles (aclitem). Nothing in our statements is read by them.
fn reads_a_value(routine: &str) -> bool {
    const ROUTINES: [&str; 19] = [
        "RangeVarGetRelidExtended",
        "flattenJsonPathParseItem",
        "get_collation_oid",
        "get_role_oid",
        "get_ts_config_oid",
        "get_ts_dict_oid",
        "gettoken_query_standard",
        "gettoken_tsvector",
        "jsonpath_yyerror",
        "makeRangeVarFromNameList",
        "makepol",
        "parseTypeString",
        "prssyntaxerror",
        "regoperatorin",
        "regoperin",
        "regprocedurein",
        "regprocin",
        "regrolein",
        "textToQualifiedNameList",
    ];
    ROUTINES.contains(&routine)
}

fn judge_class(code: &str) -> Action {
    use Action::*;
    match code.get(..2).unwrap_or_default() {
        "08" | "25" | "26" | "57" => Reconnect,
        "22" => RowsOwn,
        // A function or trigger of the user's raised it while it worked on a row.
        "09" | "20" | "21" | "23" | "27" | "2F" | "38" | "39" | "44" | "P0" => Halve,
        "0A" | "28" | "3D" | "3F" | "42" | "58" | "F0" => Halt,
        "40" | "72" => Retry,
        "53" | "54" => Shrink,
        "55" | "HV" => RetryThenHalt,
        "XX" => RetryThenHalve,
        _ => Unclear,
    }
}

/// What a person can do about it; empty where there is nothing to do but wait.
pub(super) fn remedy(code: &str) -> &'static str {
    match code {
        "25006" => "let `postgres.url` name the primary, or all hosts with target_session_attrs=read-write",
        "42501" => "grant what is missing: `forebay check --connect` lists it",
        "42P01" => "bring the table back, or discard its saves",
        "42703" => "bring the column back, or discard it from its saves",
        "53100" => "free disk space on the Postgres server",
        "53300" => "raise max_connections, or close other connections",
        "55P02" => "let no pooler or trigger keep our sessions from `set local`",
        "57014" => "raise `postgres.statement_timeout`, or look for what makes Postgres slow",
        "55P03" => "look in pg_stat_activity for the transaction that holds the lock",
        "3D000" | "57P04" => "create the database, or correct `postgres.url`",
        "P0004" => "correct the function or trigger whose assertion failed",
        "XX001" | "XX002" => "the database is damaged: stop writing, take care of a backup",
        _ => remedy_of_class(code.get(..2).unwrap_or_default()),
    }
}

fn remedy_of_class(class: &str) -> &'static str {
    match class {
        "28" => "correct the user or password in `postgres.url`",
        "42" | "0A" | "3F" => "the tables no longer fit the saves: undo the change of the schema",
        "58" | "F0" => "look into the Postgres server's log",
        "08" | "57" => "check that Postgres runs and that `postgres.url` reaches it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{Action::*, *};

    fn told(code: &str) -> Told<'_> {
        Told { code, routine: None, fatal: false }
    }

    #[test]
    fn codes_nobody_knows_are_never_poison() {
        for code in ["99999", "ZZ000", "", "é", "2", "0"] {
            assert_eq!(judge(told(code), Phase::BeforeCommit), Unclear, "{code}");
            assert_eq!(judge(told(code), Phase::CommitSent), Unclear, "{code}");
            assert_eq!(judge(Told { fatal: true, ..told(code) }, Phase::CommitSent), InDoubt, "{code}");
        }
    }

    #[test]
    fn the_routine_tells_security_policies_stale_plans_and_values_apart() {
        let with = |code, routine| judge(Told { routine: Some(routine), ..told(code) }, Phase::BeforeCommit);
        assert_eq!(with("42501", "ExecWithCheckOptions"), Halve);
        assert_eq!(with("42501", "aclcheck_error"), Halt);
        assert_eq!(with("0A000", "RevalidateCachedQuery"), Reconnect);
        assert_eq!((with("42601", "makepol"), with("42601", "scanner_yyerror")), (RowsOwn, Halt));
        assert_eq!((with("42P01", "RangeVarGetRelidExtended"), with("42P01", "parserOpenTable")), (RowsOwn, Halt));
    }

    #[test]
    fn silence_is_in_doubt_only_after_commit_was_sent() {
        assert_eq!(judge_silence(Phase::BeforeCommit), Reconnect);
        assert_eq!(judge_silence(Phase::CommitSent), InDoubt);
    }
}
