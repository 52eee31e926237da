//! Limits that are changed while the daemon runs.

use std::sync::Arc;

use tonic::Status;

use super::{door::Door, errors, show, validate::quoted, violations::Violations};
use crate::{limits::Limit, proto::*, settings::Settings};

/// Whether a setting may have this value.
type Check = fn(&str, u64) -> Result<(), String>;

impl Door {
    /// Changes limits, all or none. They are as the settings say again after the next start.
    pub(super) fn set_limits(&self, changes: &[LimitChange]) -> Result<SetLimitsResponse, Status> {
        if changes.is_empty() {
            return Err(errors::invalid_request("changes", "is empty"));
        }
        let mut violations = Violations::default();
        let mut live = Vec::with_capacity(changes.len());
        for (n, change) in changes.iter().enumerate() {
            match self.live_limit(change) {
                Ok(limit) => live.push((limit, change.max)),
                Err((field, why)) => violations.push(format_args!("changes[{n}].{field}"), || why),
            }
        }
        if !violations.is_empty() {
            return Err(errors::invalid_fields(violations));
        }
        for (limit, max) in live {
            tracing::info!(limit = limit.name(), from = limit.max(), to = max, "limit changed until the next start");
            limit.set_max(max);
        }
        // A lane may stand in front of one of them.
        self.control.probe();
        Ok(SetLimitsResponse { limits: self.limits.all().map(|limit| show::limit(limit.into())).collect() })
    }

    fn live_limit(&self, LimitChange { name, max }: &LimitChange) -> Result<&Arc<Limit>, (&'static str, String)> {
        let live: [(_, Check); 4] = [
            (&self.limits.failed_saves, Settings::check_number),
            (&self.limits.calls_in_flight, Settings::check_number),
            (&self.limits.rows_per_second, Settings::check_number),
            (&self.limits.statement_target, Settings::check_milliseconds),
        ];
        let Some((limit, check)) = live.into_iter().find(|(limit, _)| limit.name() == name) else {
            let names = live.map(|(limit, _)| limit.name()).join(", ");
            return Err(("name", format!("is {}, which can't be changed while the daemon runs: live are {names}", quoted(name))));
        };
        check(limit.name(), *max).map_err(|why| ("max", format!("is no {name}: {why}")))?;
        Ok(limit)
    }
}
