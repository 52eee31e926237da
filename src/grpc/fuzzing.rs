//! What clients send, given any bytes.

use std::{
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use prost::Message;

use super::{
    errors, fixtures,
    validate::{Findings, Path, Rules, validate},
};
use crate::{
    collections::Collections,
    limits::{Limit, LimitKind},
    proto::SaveBatchRequest,
    save::Save,
};

static COLLECTIONS: LazyLock<Collections> = LazyLock::new(fixtures::collections);
static BODY_BYTES: LazyLock<Arc<Limit>> = LazyLock::new(|| Limit::new(LimitKind::Size, "grpc.body_bytes_max", 1 << 20));
static KEY_BYTES: LazyLock<Arc<Limit>> = LazyLock::new(|| Limit::new(LimitKind::Size, "grpc.key_bytes_max", 1 << 10));

/// The saves of a `SaveBatchRequest` that are valid.
pub(crate) fn saves(bytes: &[u8]) -> Vec<Save> {
    let Ok(request) = SaveBatchRequest::decode(bytes) else { return Vec::new() };
    let rules = Rules { collections: &COLLECTIONS, body_bytes: &BODY_BYTES, key_bytes: &KEY_BYTES };
    let checked = request.saves.iter().enumerate().map(|(n, save)| {
        let mut findings = Findings::default();
        let valid = validate(save, Path::Nth(n), &rules, SystemTime::UNIX_EPOCH, &mut findings);
        assert_eq!(valid.is_some(), findings.violations.is_empty(), "what is refused is told why");
        if valid.is_none() {
            let status = errors::invalid_save(findings.violations);
            assert!(status.details().len() < 8_192, "the details of a refusal fit into a header");
        }
        valid
    });
    checked.flatten().collect()
}
