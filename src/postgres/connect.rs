//! From `postgres.url` to a connection.

use std::{future::Future, pin::Pin, time::Duration};

use deadpool_postgres::{Connect, Manager, ManagerConfig, RecyclingMethod};
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{
    Client, Config, Error, NoTls,
    config::{Host, LoadBalanceHosts, SslMode},
};

use crate::settings::PostgresSettings;

/// What is wrong with `postgres.url`. `Display` never shows the URL: it holds the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// There is none.
    #[error("`postgres.url` is not set: set it, or DATABASE_URL, to e.g. postgres://user@host:5432/database")]
    Missing,
    /// It can't be read.
    #[error("`postgres.url` can't be read ({0}): expected e.g. postgres://user:password@host:5432/database")]
    Invalid(String),
    /// It names nobody to connect to.
    #[error("`postgres.url` names no host: add one, e.g. postgres://user@host:5432/database, or host=/var/run/postgresql for a socket")]
    NoHost,
    /// It insists on TLS.
    #[error("`postgres.url` has sslmode=require, but this version of Forebay has no TLS to Postgres: use a local socket or a TLS proxy")]
    Tls,
}

/// The hosts to try, in order, one configuration each.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    each: Vec<Config>,
    any_order: bool,
    connect_timeout: Duration,
}

impl Hosts {
    pub(super) fn parse(settings: &PostgresSettings) -> Result<Self, UrlError> {
        let url = settings.url().ok_or(UrlError::Missing)?;
        let mut config: Config = url.parse().map_err(|error| UrlError::Invalid(why(&error)))?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(UrlError::Tls);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(UrlError::NoHost);
        }
        if config.get_application_name().is_none() {
            config.application_name("forebay");
        }
        config.connect_timeout(settings.connect_timeout).tcp_user_timeout(settings.tcp_user_timeout);
        config.keepalives(true).keepalives_idle(settings.keepalive_idle).keepalives_interval(settings.keepalive_interval);
        config.keepalives_retries(settings.keepalive_count);
        let any_order = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
        Ok(Self { each: one_host_each(config), any_order, connect_timeout: settings.connect_timeout })
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.each.len()).unwrap_or(u32::MAX)
    }

    /// Connections that broke are seen when they are taken from the pool, and those that may be in an unknown state never go
    /// back to it ([`super::lease`]): no query is needed to recycle one.
    pub(super) fn manager(&self) -> Manager {
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        Manager::from_connect(Config::new(), self.clone(), config)
    }

    async fn connect(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let mut order: Vec<_> = self.each.iter().collect();
        if self.any_order {
            fastrand::shuffle(&mut order);
        }
        let (last, others) = order.split_last().expect("a host is named");
        let mut told = None;
        for config in others {
            match timeout(self.connect_timeout, start(config)).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a Postgres host is not usable, trying the next");
                    told = told.or(Some(error).filter(speaks));
                }
                Err(_) => tracing::debug!("a Postgres host doesn't answer, trying the next"),
            }
        }
        // The pool's own limit (connect_timeout times hosts) ends this one.
        start(last).await.map_err(|error| if speaks(&error) { error } else { told.unwrap_or(error) })
    }
}

/// Why a server turned us away says more than that another is not there, and wants more: a wrong password, too many connections.
fn speaks(error: &Error) -> bool {
    error.as_db_error().is_some()
}

impl Connect for Hosts {
    fn connect(&self, _: &Config) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(self.connect())
    }
}

async fn start(config: &Config) -> Result<(Client, JoinHandle<()>), Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Its error is also the one of the statement in flight, which is where it is judged.
    let connection = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to Postgres broke");
        }
    });
    Ok((client, connection))
}

/// tokio-postgres bounds only the TCP part of a handshake: a stopped host that still takes connections would keep it from the
/// next one for ever. So each host is tried on its own, under a limit of ours.
fn one_host_each(config: Config) -> Vec<Config> {
    if config.get_hosts().len().max(config.get_hostaddrs().len()) <= 1 {
        return vec![config];
    }
    let ports = config.get_ports();
    (0..config.get_hosts().len().max(config.get_hostaddrs().len()))
        .map(|n| {
            let mut one = without_hosts(&config);
            match config.get_hosts().get(n) {
                Some(Host::Tcp(host)) => drop(one.host(host)),
                Some(Host::Unix(path)) => drop(one.host_path(path)),
                None => {}
            }
            config.get_hostaddrs().get(n).map(|address| one.hostaddr(*address));
            ports.get(n).or(ports.first()).map(|port| one.port(*port));
            one
        })
        .collect()
}

fn without_hosts(config: &Config) -> Config {
    let mut copy = Config::new();
    config.get_user().map(|user| copy.user(user));
    config.get_password().map(|password| copy.password(password));
    config.get_dbname().map(|name| copy.dbname(name));
    config.get_options().map(|options| copy.options(options));
    config.get_application_name().map(|name| copy.application_name(name));
    config.get_connect_timeout().map(|limit| copy.connect_timeout(*limit));
    config.get_tcp_user_timeout().map(|limit| copy.tcp_user_timeout(*limit));
    config.get_keepalives_interval().map(|interval| copy.keepalives_interval(interval));
    config.get_keepalives_retries().map(|count| copy.keepalives_retries(count));
    copy.keepalives(config.get_keepalives()).keepalives_idle(config.get_keepalives_idle());
    copy.ssl_mode(config.get_ssl_mode()).channel_binding(config.get_channel_binding());
    copy.target_session_attrs(config.get_target_session_attrs());
    copy
}

fn why(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::TargetSessionAttrs;

    use super::*;
    use crate::settings::Settings;

    fn parse(url: &str) -> Result<Hosts, UrlError> {
        Hosts::parse(&PostgresSettings { url: Some(url.to_owned().into()), ..Settings::default().postgres })
    }

    #[test]
    fn a_url_that_cannot_be_used_says_why_and_hides_the_password() {
        assert_eq!(Hosts::parse(&Settings::default().postgres).expect_err("no URL"), UrlError::Missing);
        assert_eq!(parse("postgres://u:secret@h/d?sslmode=require").expect_err("TLS"), UrlError::Tls);
        assert_eq!(parse("user=u dbname=d").expect_err("no host"), UrlError::NoHost);
        for url in ["postgres://u:secret@h:port/d", "secret", "http://secret@h", "postgres://u:secret@h/d?wrong=1", "host='secret"] {
            let error = parse(url).expect_err("no URL").to_string();
            assert!(!error.contains("secret") && error.contains("postgres.url"), "{error}");
        }
    }

    #[test]
    fn every_host_is_tried_on_its_own_with_its_port_and_all_settings() {
        let hosts = parse("postgres://u:p@a:1,b:2/d?target_session_attrs=read-write").expect("a URL");
        assert_eq!(hosts.count(), 2);
        for (config, (host, port)) in hosts.each.iter().zip([("a", 1), ("b", 2)]) {
            assert_eq!(config.get_hosts(), [Host::Tcp(host.to_owned())]);
            assert_eq!(config.get_ports(), [port]);
            assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
            assert_eq!(config.get_password(), Some(&b"p"[..]));
            assert_eq!((config.get_user(), config.get_dbname()), (Some("u"), Some("d")));
            assert_eq!(config.get_keepalives_idle(), Duration::from_secs(10));
            assert_eq!(config.get_application_name(), Some("forebay"));
        }
    }
}
