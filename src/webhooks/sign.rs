//! Signatures of Standard Webhooks: HMAC-SHA256 over id, timestamp and body.

use std::fmt::{self, Write};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The secrets of an endpoint: each signs, so that receivers may change to another one in their own time.
pub(super) struct Signer(Vec<Vec<u8>>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(secret)")
    }
}

impl Signer {
    pub(super) fn new(keys: Vec<Vec<u8>>) -> Self {
        Self(keys)
    }

    /// The value of `webhook-signature`; `timestamp` is that of the attempt, in seconds since 1970.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let mut signatures = String::new();
        for key in &self.0 {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body.as_bytes());
            let space = if signatures.is_empty() { "" } else { " " };
            let _ = write!(signatures, "{space}v1,{}", BASE64.encode(mac.finalize().into_bytes()));
        }
        signatures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Secret, signing_key};

    fn key(secret: &str) -> Vec<u8> {
        signing_key(&Secret::from(secret)).expect("a secret")
    }

    /// The vector that the libraries of Standard Webhooks are tested with.
    #[test]
    fn signs_as_the_published_vector() {
        let signer = Signer::new(vec![key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]);
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_secret_signs() {
        let (new, old) = (key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), vec![7; 32]);
        let signature = |keys| Signer::new(keys).sign("id", 1, "{}");
        let both = signature(vec![new.clone(), old.clone()]);
        assert_eq!(both, format!("{} {}", signature(vec![new]), signature(vec![old])));
        assert_eq!(format!("{:?}", Signer::new(vec![vec![1; 32]])), "Signer(secret)");
    }
}
