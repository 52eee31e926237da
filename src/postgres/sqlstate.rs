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
pub(super) fn judge(told: Told<'_>, phase: Phase) -> Action {
    let action = judge_before_commit(told);
    if phase == Phase::CommitSent && (told.fatal || !aborts_for_sure(told.code)) { Action::InDoubt } else { action }
}

/// An ERROR of these classes in answer to COMMIT means that the transaction was rolled back. Everything else may come from a
/// pooler, a dying server, or after the commit record was written; asking the position row is cheap.
fn aborts_for_sure(code: &str) -> bool {
    matches!(code.get(..2), Some("22" | "23" | "42" | "44" | "54" | "P0")) || matches!(code, "40000" | "40001" | "40002" | "40P01")
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
        "53300" => Reconnect,
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
        "57014" => "raise `postgres.statement_timeout`, or look for what makes Postgres slow",
        "55P03" => "look in pg_stat_activity for the transaction that holds the lock",
        "3D000" | "57P04" => "create the database, or correct `postgres.url`",
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

    /// Every code that tokio-postgres knows, with what reference and design want done about it.
    const TABLE: &[(Action, &str)] = &[
        (
            Unclear,
            "00000 01000 01003 01004 01006 01007 01008 0100C 01P01 02000 02001 03000 0B000 0F000 0F001 0L000 0LP01 0P000 0Z000 0Z002",
        ),
        (Unclear, "24000 2B000 2BP01 2D000 34000 3B000 3B001"),
        (Reconnect, "08000 08001 08003 08006"),
        (ReconnectThenHalt, "08004 08P01"),
        (InDoubt, "08007 40003"),
        (Halve, "09000 20000 21000 27000 2F000 2F002 2F003 2F004 2F005 38000 38001 38002 38003 38004 39000 39001 39004 39P01 39P02 39P03"),
        (Halt, "0A000"),
        (
            RowsOwn,
            "22000 22001 22002 22003 22004 22005 22007 22008 22009 2200B 2200C 2200D 2200F 2200G 2200H 2200L 2200M 2200N 2200S 2200T",
        ),
        (
            RowsOwn,
            "22010 22011 22012 22013 22014 22015 22016 22018 22019 2201B 2201E 2201F 2201G 2201W 2201X 22021 22022 22023 22024 22025",
        ),
        (
            RowsOwn,
            "22026 22027 2202E 2202G 2202H 22030 22031 22032 22033 22034 22035 22036 22037 22038 22039 2203A 2203B 2203C 2203D 2203E",
        ),
        (RowsOwn, "2203F 2203G 22P01 22P02 22P04 22P05 22P06 23502 23514"),
        (Halve, "22P03 23000 23001 23503 23505 23P01 40002 44000 54000"),
        (Reconnect, "25000 25001 25002 25003 25004 25005 25006 25007 25008 25P01 25P02 25P03 26000 42P05"),
        (Halt, "28000 28P01 3D000 3F000"),
        (Retry, "40000 55006 55P03 55P04 72000"),
        (RetryThenShrink, "40001 40P01"),
        (Halt, "42000 42501 42601 42602 42611 42622 42701 42702 42703 42704 42710 42712 42723 42725 42803 42804 42809 42830 42846 42883"),
        (Halt, "428C9 42939 42P01 42P02 42P03 42P04 42P06 42P07 42P08 42P09 42P10 42P11 42P12 42P13 42P14 42P15 42P16 42P17 42P18 42P19"),
        (Halt, "42P20 42P21 42P22"),
        (Shrink, "53000 53200 53400 54001 54011 54023 57014"),
        (Halt, "53100 55P02 57P04 58000 58030 58P01 58P02 F0000 F0001 P0004 XX001 XX002"),
        (Reconnect, "53300 57000 57P01 57P02 57P03 57P05"),
        (
            RetryThenHalt,
            "55000 HV000 HV001 HV002 HV004 HV005 HV006 HV007 HV008 HV009 HV00A HV00B HV00C HV00D HV00J HV00K HV00L HV00M HV00N",
        ),
        (RetryThenHalt, "HV00P HV00Q HV00R HV010 HV014 HV021 HV024 HV090 HV091"),
        (Halve, "P0000 P0001 P0002 P0003"),
        (RetryThenHalve, "XX000"),
    ];

    fn told(code: &str) -> Told<'_> {
        Told { code, routine: None, fatal: false }
    }

    fn codes() -> impl Iterator<Item = (Action, &'static str)> {
        TABLE.iter().flat_map(|&(action, codes)| codes.split(' ').map(move |code| (action, code)))
    }

    #[test]
    fn every_known_code_has_its_action() {
        const KNOWN_TO_TOKIO_POSTGRES: usize = 260;
        for (action, code) in codes() {
            assert_eq!(judge(told(code), Phase::BeforeCommit), action, "{code}");
        }
        let distinct: std::collections::BTreeSet<_> = codes().map(|(_, code)| code).collect();
        assert_eq!(distinct.len(), codes().count(), "no code twice");
        assert_eq!(distinct.len(), KNOWN_TO_TOKIO_POSTGRES);
    }

    #[test]
    fn an_error_after_commit_was_sent_is_in_doubt_unless_it_aborts_for_sure() {
        for (action, code) in codes() {
            let after = judge(told(code), Phase::CommitSent);
            let sure = matches!(action, RowsOwn) || code.starts_with("23") || matches!(code, "40000" | "40001" | "40P01" | "40002");
            assert!(!sure || after == action, "{code}: {after:?}");
            assert!(!matches!(after, Reconnect | ReconnectThenHalt | Retry) || code == "40000" || code == "42P05", "{code}: {after:?}");
            assert_eq!(judge(Told { fatal: true, ..told(code) }, Phase::CommitSent), InDoubt, "{code}");
        }
    }

    #[test]
    fn codes_nobody_knows_are_never_poison() {
        for code in ["99999", "ZZ000", "", "é", "2", "0"] {
            assert_eq!(judge(told(code), Phase::BeforeCommit), Unclear, "{code}");
            assert_eq!(judge(told(code), Phase::CommitSent), InDoubt, "{code}");
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

    #[test]
    fn what_halts_has_a_remedy() {
        for (action, code) in codes() {
            assert!(action != Halt || !remedy(code).is_empty() || code == "P0004" || code == "55P02", "{code}");
        }
    }
}
