//! Saves as the contract spells them.

use forebay::proto::{Delete, Save, SaveBatchRequest, SaveRequest, save::Change};
use serde_json::Value;

/// A set.
pub(crate) fn set(collection: &str, key: &[&str], json: Value) -> Save {
    set_text(collection, key, &json.to_string())
}

/// A set with a body that need not be JSON.
pub(crate) fn set_text(collection: &str, key: &[&str], json: &str) -> Save {
    Save {
        collection: collection.to_owned(),
        key: key.iter().map(|part| (*part).to_owned()).collect(),
        change: Some(Change::Json(json.to_owned().into())),
        add: Vec::new(),
    }
}

/// A delete.
pub(crate) fn delete(collection: &str, key: &[&str]) -> Save {
    Save { change: Some(Change::Delete(Delete {})), ..set_text(collection, key, "") }
}

/// One save as a request.
pub(crate) fn request(save: Save) -> SaveRequest {
    SaveRequest { save: Some(save), ..SaveRequest::default() }
}

/// Many saves as a request.
pub(crate) fn batch(saves: Vec<Save>) -> SaveBatchRequest {
    SaveBatchRequest { saves, ..SaveBatchRequest::default() }
}
