//! What must hold of `[endpoints.NAME]`: who is told outcomes by webhooks, and what signs them.

use std::{fmt, net::IpAddr};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hyper::Uri;

use super::{
    EndpointSettings, Secret, Settings,
    kinds::{Hidden, Kind, Raw},
    lanes,
};

/// Where an endpoint is: http or https, a host, nothing that a request doesn't carry.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Uri);

impl EndpointUrl {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it as https://host/path";
        // None of these texts may hold the value: people put passwords into urls.
        let uri: Uri = text.parse().map_err(|error| format!("is no url ({error}): {FORM}"))?;
        let url = Self(uri);
        match url.0.scheme_str() {
            Some("https" | "http") => {}
            _ => return Err(format!("is neither https nor http: {FORM}")),
        }
        if url.0.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("holds a user or a password: leave it out, callbacks are known by their signature".to_owned());
        }
        if text.contains('#') {
            return Err("holds a fragment (#), which is never sent: leave it out".to_owned());
        }
        if url.host().is_empty() { Err(format!("names no host: {FORM}")) } else { Ok(url) }
    }

    /// Whether it asks for TLS.
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The name or address, the latter without brackets.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// Host and port as they were written, for the `host` header.
    pub fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    /// The port, or that of the scheme.
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// What is asked of the host.
    pub fn path(&self) -> &str {
        self.0.path_and_query().map_or("/", |path| path.as_str())
    }

    fn is_loopback(&self) -> bool {
        self.host() == "localhost" || self.host().parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The url of an endpoint.
pub(super) struct Url;

impl Kind<EndpointUrl> for Url {
    fn parse(&self, raw: &Raw) -> Result<EndpointUrl, String> {
        match raw {
            Raw::Text(text) => EndpointUrl::parse(text.trim()),
            _ => Err("is no text: write a url in quotes".to_owned()),
        }
    }

    fn show(&self, value: &EndpointUrl) -> Option<String> {
        Some(toml::Value::String(value.to_string()).to_string())
    }
}

/// The bytes of a signing secret in the form of Standard Webhooks, or what is wrong with it: without showing it.
///
/// # Errors
/// A sentence that goes on after the name of the key.
pub fn signing_key(secret: &Secret) -> Result<Vec<u8>, String> {
    const REMEDY: &str = "write whsec_ and 24 to 64 random bytes in base64, as `echo whsec_$(openssl rand -base64 32)` prints";
    let text = secret.expose().trim();
    let encoded = text.strip_prefix("whsec_").ok_or_else(|| format!("doesn't begin with whsec_: {REMEDY}"))?;
    let key = BASE64.decode(encoded).map_err(|_| format!("is no base64 after whsec_: {REMEDY}"))?;
    if (24..=64).contains(&key.len()) { Ok(key) } else { Err(format!("has {} bytes: {REMEDY}", key.len())) }
}

/// Signing secrets: a list, or in text separated by commas.
pub(super) struct SigningSecrets;

impl Kind<Vec<Secret>> for SigningSecrets {
    fn parse(&self, raw: &Raw) -> Result<Vec<Secret>, String> {
        let texts: Vec<Raw> = match raw {
            Raw::Text(text) => text.split(',').map(|text| Raw::Text(text.trim().to_owned())).collect(),
            Raw::List(list) => list.clone(),
            other => vec![other.clone()],
        };
        let secrets: Vec<Secret> = texts.iter().map(|text| Hidden.parse(text)).collect::<Result<_, _>>()?;
        if secrets.is_empty() {
            return Err("is an empty list: name one secret, or two while they are changed".to_owned());
        }
        secrets.iter().try_for_each(|secret| signing_key(secret).map(drop))?;
        Ok(secrets)
    }

    fn show(&self, value: &Vec<Secret>) -> Option<String> {
        (!value.is_empty()).then(|| "(secret)".to_owned())
    }
}

pub(super) fn no_name() -> String {
    lanes::no_name().replace("lane's", "endpoint's")
}

/// Every problem of endpoints and of those who name them.
pub(super) fn problems(settings: &Settings) -> Vec<String> {
    let mut problems: Vec<String> = settings.endpoints.iter().filter_map(|(name, endpoint)| problem(name, endpoint)).collect();
    for (collection, its) in &settings.collections {
        if let Some(unknown) = its.on_failed.as_ref().filter(|name| !settings.endpoints.contains_key(*name)) {
            problems.push(format!(
                "collections.{collection}.on_failed names {unknown:?}, which is no endpoint: {}",
                Settings::endpoints_there_are(settings.endpoints.keys().map(String::as_str))
            ));
        }
    }
    problems
}

fn problem(name: &str, endpoint: &EndpointSettings) -> Option<String> {
    let Some(url) = &endpoint.url else {
        return Some(format!("endpoints.{name} has no url: give it endpoints.{name}.url, or leave the endpoint out"));
    };
    let stays_here = endpoint.allow_loopback && url.is_loopback();
    if !(url.is_https() || stays_here) {
        return Some(format!(
            "endpoints.{name}.url is not https: use https, or on this host 127.0.0.1 with endpoints.{name}.allow_loopback = true"
        ));
    }
    match (endpoint.secret.is_empty(), &endpoint.secret_file) {
        (true, None) => Some(format!("endpoints.{name} has no secret to sign with: set endpoints.{name}.secret or .secret_file")),
        (false, Some(_)) => Some(format!("endpoints.{name} has both secret and secret_file: leave one out")),
        _ => None,
    }
}

impl Settings {
    /// A clause for whoever has named an endpoint that isn't there.
    pub fn endpoints_there_are<'a>(names: impl Iterator<Item = &'a str>) -> String {
        let names: Vec<_> = names.collect();
        if names.is_empty() { "the settings have none".to_owned() } else { format!("the settings have {}", names.join(", ")) }
    }
}
