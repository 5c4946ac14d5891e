//! Tests of the certificates, and what they share: files in a folder of their own, authorities and certificates made for the test, and
//! a time that stands still.

mod client_ca;
mod development;
mod pair;
mod store;

use super::Files;
use super::development::base64;
use crate::time::{Millis, Now, WallMillis};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The wall clock of the tests, in seconds since 1970: 2026-01-01.
const NOW_S: u64 = 1_767_225_600;
const DAY_S: u64 = 24 * 3600;

/// This long after the tests' beginning, in ms.
fn at(ms: u64) -> Now {
    Now { mono: Millis(1_000 + ms), wall: WallMillis(NOW_S * 1000 + ms) }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A folder that is gone with its test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("throng-certificates-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file that only its owner may read.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Writes a chain and its key.
    fn pair(&self, name: &str, issued: &Issued) -> Files {
        Files {
            chain: self.write(&format!("{name}.pem"), &issued.chain),
            key: self.write(&format!("{name}.key"), issued.key.serialize_pem()),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Swaps a link as renewal tools do: a new one takes the old one's name.
fn relink(target: &Path, link: &Path) {
    let new = link.with_extension("new");
    std::os::unix::fs::symlink(target, &new).unwrap();
    fs::rename(&new, link).unwrap();
}

/// A certificate with its key and, in `chain`, whom it was issued by.
struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
    chain: String,
}

/// Somebody who issues certificates.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
    /// Its own chain, from itself to below the root.
    chain: String,
}

impl Authority {
    fn root(name: &str) -> Authority {
        let (parameters, key) = authority(name);
        let certificate = parameters.self_signed(&key).unwrap();
        Authority { certificate, issuer: Issuer::new(parameters, key), chain: String::new() }
    }

    fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let (mut parameters, key) = authority(name);
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let chain = format!("{}{}", certificate.pem(), self.chain);
        Authority { certificate, issuer: Issuer::new(parameters, key), chain }
    }

    /// A certificate for these hosts and addresses.
    fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, KeyPair::generate().unwrap(), |_| {})
    }

    fn issue_with(&self, names: &[&str], key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut parameters = parameters(names, "a server");
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let chain = format!("{}{}", certificate.pem(), self.chain);
        Issued { certificate, key, chain }
    }
}

/// An authority below a root, as public ones are.
fn authority_with_intermediate() -> Authority {
    Authority::root("a root").intermediate("an intermediate", |_| {})
}

fn parameters(names: &[&str], common_name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut parameters = parameters(&[], name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (parameters, KeyPair::generate().unwrap())
}

fn self_signed(names: &[&str]) -> Issued {
    let key = KeyPair::generate().unwrap();
    let certificate = parameters(names, "itself").self_signed(&key).unwrap();
    Issued { chain: certificate.pem(), certificate, key }
}

/// A change of parameters that makes the certificate valid between these seconds since 1970.
fn valid(from_s: u64, until_s: u64) -> impl FnOnce(&mut CertificateParams) {
    let moment = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    move |parameters| (parameters.not_before, parameters.not_after) = (moment(from_s), moment(until_s))
}

/// One section of PEM.
fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64(der))
}
