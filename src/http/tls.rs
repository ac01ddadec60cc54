//! The server's certificate, from files that are read again when they change: a renewed certificate needs
//! no restart. One that cannot be read is said, and the one before stays.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore, ServerConfig};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Where the certificate chain and its key are, both PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The certificate in force.
#[derive(Debug)]
pub struct Certificate {
    files: Files,
    /// When the files had been changed before they were read: what comes after is not missed.
    seen: Stamps,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads it. The error says which file, and what is wrong with it.
    pub fn read(files: Files) -> Result<Arc<Self>, String> {
        let seen = stamps(&files);
        let current = RwLock::new(Arc::new(certified(&files)?));
        Ok(Arc::new(Self {
            files,
            seen,
            current,
        }))
    }

    /// The server's side of TLS with it.
    pub fn server(self: &Arc<Self>) -> Result<ServerConfig, String> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(builder
            .with_no_client_auth()
            .with_cert_resolver(self.clone()))
    }

    /// Looks for changed files, for ever.
    pub async fn keep(self: Arc<Self>) {
        let mut seen = self.seen;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = stamps(&self.files);
            if now == seen {
                continue;
            }
            seen = now;
            match certified(&self.files) {
                Ok(read) => {
                    let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                    *current = Arc::new(read);
                    tracing::info!(certificate = %self.files.certificate.display(), "certificate read again");
                }
                Err(error) => {
                    tracing::error!(%error, "the changed certificate cannot be used; the one before stays");
                }
            }
        }
    }
}

/// When certificate and key were changed last.
type Stamps = [Option<SystemTime>; 2];

fn stamps(files: &Files) -> Stamps {
    [&files.certificate, &files.key].map(|path| {
        path.metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
    })
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(current.clone())
    }
}

/// When the server's own certificate ends, in seconds since 1970; the files are checked as at a start.
pub fn ends_at(files: &Files) -> Result<i64, String> {
    let certified = certified(files)?;
    let wrong = |what: String| format!("{}: {what}", files.certificate.display());
    let own = certified
        .end_entity_cert()
        .map_err(|error| wrong(error.to_string()))?;
    let parsed = ParsedCertificate::try_from(own).map_err(|error| wrong(error.to_string()))?;
    // Asked about a day on which no certificate is valid any more, the answer names the last one.
    let doomsday = UnixTime::since_unix_epoch(Duration::from_secs(MAX_SECONDS));
    let algorithms = ring::default_provider()
        .signature_verification_algorithms
        .all;
    let answer = verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &RootCertStore::empty(),
        &[],
        doomsday,
        algorithms,
    );
    match answer {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) => Ok(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX)),
        Err(other) => Err(wrong(other.to_string())),
        Ok(()) => Ok(i64::MAX),
    }
}

/// The last moment of the year 9999, which a certificate without an end names.
const MAX_SECONDS: u64 = 253_402_300_800;

fn certified(files: &Files) -> Result<CertifiedKey, String> {
    let wrong = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| wrong(&files.certificate, &error))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, &"no certificate is in it"));
    }
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
    let key = ring::sign::any_supported_type(&key).map_err(|error| wrong(&files.key, &error))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|error| {
        wrong(
            &files.key,
            &format!("it is not the certificate's key ({error})"),
        )
    })?;
    Ok(certified)
}
