//! What the settings say of an endpoint, ready to be used: keys read, certificates loaded.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc};

use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::{address::Allowed, sign::Signer};
use crate::settings::{EndpointSettings, EndpointUrl, Secret, Settings, signing_key};

/// A secret's file is a few lines.
const SECRET_FILE_BYTES_MAX: u64 = 64 << 10;

/// The endpoints of the settings by name.
#[derive(Debug)]
pub struct Targets(pub(super) BTreeMap<String, Target>);

/// An endpoint of the settings can't be used. Never shows a secret.
#[derive(Debug, thiserror::Error)]
#[error("endpoints.{endpoint}.{key} {problem}")]
pub struct TargetError {
    endpoint: String,
    key: &'static str,
    problem: String,
}

/// One endpoint.
pub(super) struct Target {
    pub(super) url: EndpointUrl,
    pub(super) signer: Signer,
    pub(super) allowed: Allowed,
    /// For https.
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", &self.url).field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Targets {
    /// Reads the files that the settings name. Blocks.
    ///
    /// # Errors
    /// [`TargetError`] with the key, what is wrong and what helps.
    pub fn load(settings: &Settings) -> Result<Self, TargetError> {
        let load = |(name, endpoint): (&String, &EndpointSettings)| {
            let target = Target::load(endpoint);
            target.map(|target| (name.clone(), target)).map_err(|(key, problem)| TargetError { endpoint: name.clone(), key, problem })
        };
        Ok(Self(settings.endpoints.iter().map(load).collect::<Result<_, _>>()?))
    }
}

impl Target {
    fn load(endpoint: &EndpointSettings) -> Result<Self, (&'static str, String)> {
        let url = endpoint.url.clone().ok_or_else(|| ("url", "is not set".to_owned()))?;
        let secrets = match &endpoint.secret_file {
            Some(path) => read_secrets(path).map_err(|problem| ("secret_file", problem))?,
            None => endpoint.secret.clone(),
        };
        let keys = secrets.iter().map(signing_key).collect::<Result<_, _>>();
        let signer = Signer::new(keys.map_err(|problem| (if endpoint.secret_file.is_some() { "secret_file" } else { "secret" }, problem))?);
        let tls = if url.is_https() { Some(tls(&url, endpoint.ca_file.as_deref())?) } else { None };
        let allowed = Allowed { loopback: endpoint.allow_loopback, private: endpoint.allow_private };
        Ok(Self { url, signer, allowed, tls })
    }
}

fn read_secrets(path: &Path) -> Result<Vec<Secret>, String> {
    let shown = path.display();
    let bytes = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if bytes > SECRET_FILE_BYTES_MAX {
        return Err(format!("{shown} has {bytes} bytes, which are no secrets: write one a line"));
    }
    let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let secrets: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::from).collect();
    if secrets.is_empty() { Err(format!("{shown} is empty: write one secret a line")) } else { Ok(secrets) }
}

fn tls(url: &EndpointUrl, ca_file: Option<&Path>) -> Result<(TlsConnector, ServerName<'static>), (&'static str, String)> {
    let name = ServerName::try_from(url.host().to_owned());
    let name = name.map_err(|_| ("url", "names a host that no certificate can name: write a DNS name or an address".to_owned()))?;
    let mut roots = RootCertStore::empty();
    // What can't be read of the system's is as good as not there: an endpoint that needs it will say so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        add_file(&mut roots, path).map_err(|problem| ("ca_file", format!("{}: {problem}", path.display())))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what the default versions need")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((TlsConnector::from(Arc::new(config)), name))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut count = 0;
    for certificate in found {
        let certificate = certificate.map_err(|error| io::Error::other(error).to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
        count += 1;
    }
    if count == 0 { Err("holds no certificate in PEM form".to_owned()) } else { Ok(()) }
}
