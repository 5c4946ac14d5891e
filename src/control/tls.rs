//! TLS as the settings have it: which certificates are served, and when new ones are taken.
//!
//! Knows no connection: the driver gets a configuration whose certificates are replaced under it, so a renewal touches nobody who is
//! connected.

use super::config::Settings;
use crate::driver::TlsListener;
use crate::driver::clock::Clock;
use crate::time::Now;
use crate::tls::certificates::{Change, Development, Files, Store, Warning};
use crate::tls::{Config, RecordMode, Settings as TlsSettings, provider};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where TLS is listened for where a certificate is given and no address is.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9443);
/// Between two paths in one setting.
const SEPARATOR: char = ',';

/// The TLS of a server that has any.
pub struct Tls {
    /// For the driver.
    pub listener: TlsListener,
    /// What is served.
    pub certificates: Certificates,
    /// What a developer has to know, if the certificate was made for development.
    development: Option<Development>,
    warnings: Vec<Warning>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// The certificates that are served, for whoever looks after them.
#[derive(Clone)]
pub struct Certificates(Arc<Store>);

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificates").field(&self.0.summaries().len()).finish()
    }
}

/// Wall-clock time for certificates and tickets.
#[derive(Debug)]
struct WallClock(Clock);

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().wall.0)))
    }
}

impl Tls {
    /// Reads the certificates that the settings name; `None` if they name none.
    ///
    /// # Errors
    /// What can't be, with cause and remedy.
    pub fn load(settings: &Settings) -> Result<Option<Tls>, String> {
        let paths = |setting: &Option<String>| -> Vec<String> {
            setting.iter().flat_map(|paths| paths.split(SEPARATOR)).map(|path| path.trim().to_owned()).collect()
        };
        let (chains, keys) = (paths(&settings.tls_cert), paths(&settings.tls_key));
        if chains.is_empty() && keys.is_empty() && !settings.tls_dev {
            return match settings.tls_listen {
                None => Ok(None),
                Some(address) => Err(format!(
                    "--tls-listen {address} needs a certificate: give --tls-cert and --tls-key, or --tls-dev for a machine of your own"
                )),
            };
        }
        if settings.tls_dev && !(chains.is_empty() && keys.is_empty()) {
            return Err("--tls-dev makes a certificate, and --tls-cert and --tls-key give one: leave either out".to_owned());
        }
        if chains.len() != keys.len() {
            return Err(format!("--tls-cert names {} files and --tls-key {}: each chain needs its key", chains.len(), keys.len()));
        }
        let clock = Clock::start();
        let provider_of_keys = Arc::new(provider());
        let (store, development, warnings) = if settings.tls_dev {
            let development = Development::make(&provider_of_keys, clock.now()).map_err(|error| error.to_string())?;
            (Store::of_development(&development, provider_of_keys), Some(development), Vec::new())
        } else {
            let files = chains.into_iter().zip(keys).map(|(chain, key)| Files { chain: chain.into(), key: key.into() }).collect();
            let (store, warnings) = Store::load(files, provider_of_keys, clock.now()).map_err(|fault| fault.to_string())?;
            (store, None, warnings)
        };
        let store = Arc::new(store);
        let config = Config::new(TlsSettings {
            certificates: Arc::clone(&store) as _,
            client_verifier: None,
            tls12: settings.tls12,
            records: if settings.tls_records == "rustls" { RecordMode::Rustls } else { RecordMode::Compact },
            time: Arc::new(WallClock(clock)),
        });
        let config = config.map_err(|error| format!("TLS can't be set up: {error}"))?;
        let listener = TlsListener { address: settings.tls_listen.unwrap_or(LISTEN_DEFAULT), config };
        Ok(Some(Tls { listener, certificates: Certificates(store), development, warnings }))
    }

    /// What an operator should know of it when the server starts, a line each.
    pub fn notes(&self, port: u16) -> Vec<String> {
        let warnings = self.warnings.iter().map(|warning| format!("warning: {warning}"));
        let hint =
            self.development.iter().flat_map(|development| development.hint(port).lines().map(str::to_owned).collect::<Vec<_>>());
        let served = self.certificates.0.summaries().into_iter().filter(|summary| summary.chain.is_some()).map(|summary| {
            format!("certificate for {} until {}, SHA-256 {}", summary.hosts.join(", "), summary.not_after, summary.fingerprint)
        });
        served.chain(hint).chain(warnings).collect()
    }
}

impl Certificates {
    /// When the first of them ends, in Unix seconds.
    fn expires_at(&self) -> Option<i64> {
        self.0.summaries().iter().map(|summary| summary.not_after.0).min()
    }

    /// Says to whoever scrapes when the first of them ends.
    fn tell_expiry(&self) {
        if let Some(at) = self.expires_at() {
            metrics::gauge!("throng_tls_certificate_expiry_timestamp_seconds").set(at as f64);
        }
    }

    /// Reads the files again, because somebody asked for it. What is served stays where they can't be served.
    pub fn reload(&self, now: Now) {
        match self.0.reload(now) {
            Ok(warnings) => self.log_reloaded(&warnings),
            Err(fault) => tracing::error!("the certificates stay as they are: {fault}"),
        }
    }

    /// Takes new files, if there are any.
    pub fn poll(&self, now: Now) {
        self.tell_expiry();
        match self.0.poll_files(now) {
            Change::None | Change::Waiting => {}
            Change::Replaced(warnings) => self.log_reloaded(&warnings),
            Change::Refused(fault) => tracing::error!("new certificates can't be served, and the old ones stay: {fault}"),
        }
    }

    fn log_reloaded(&self, warnings: &[Warning]) {
        for summary in self.0.summaries() {
            tracing::info!(hosts = summary.hosts.join(","), until = %summary.not_after, sha256 = %summary.fingerprint, "certificate");
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
    }
}
