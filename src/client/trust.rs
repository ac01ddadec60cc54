//! Whom a client believes to be the node.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;

/// Whom a client believes to be the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Anybody: without TLS.
    Plaintext,
    /// Who shows a certificate for the host's name, of an authority that this machine believes.
    Machine,
    /// Who shows one of one of these authorities.
    Authority(PathBuf),
    /// Who shows this very certificate, whatever its name: a node on this machine whose file it is.
    Same(PathBuf),
}

impl Trust {
    /// Says what is wrong with the file of an authority, before anybody is asked. The certificate of a node's
    /// own may be under renewal, so a moment later it may be right.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Authority(_) | Self::Machine => self.connector().map(drop),
            Self::Plaintext | Self::Same(_) => Ok(()),
        }
    }

    /// How TLS is spoken, if it is. Files are read at each question: a renewed one counts.
    pub(super) fn connector(&self) -> Result<Option<TlsConnector>, String> {
        let ring = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Plaintext => return Ok(None),
            Self::Machine => {
                let mut roots = RootCertStore::empty();
                let found = rustls_native_certs::load_native_certs().certs;
                roots.add_parsable_certificates(found);
                if roots.is_empty() {
                    return Err(
                        "this machine believes no authority: name one with --ca-file".to_owned(),
                    );
                }
                by_authority(roots, &ring)?
            }
            Self::Authority(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(file)? {
                    let added = roots.add(certificate);
                    added.map_err(|error| format!("{}: {error}", file.display()))?;
                }
                by_authority(roots, &ring)
                    .map_err(|error| format!("{}: {error}", file.display()))?
            }
            Self::Same(file) => {
                let mut chain = certificates(file)?.into_iter();
                let expected = chain
                    .next()
                    .ok_or_else(|| format!("{}: no certificate is in it", file.display()))?;
                Arc::new(Same {
                    expected,
                    provider: ring.clone(),
                })
            }
        };
        let builder = ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }
}

fn by_authority(
    roots: RootCertStore,
    ring: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    if roots.is_empty() {
        return Err("no certificate is in it".to_owned());
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), ring.clone()).build();
    match built {
        Ok(verifier) => Ok(verifier),
        Err(error) => Err(error.to_string()),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect())
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// Believes one certificate. Its key is proven by the handshake's signature, as ever.
#[derive(Debug)]
struct Same {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Same {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *shown == self.expected {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
