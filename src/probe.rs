//! One request to a running node and the status of its answer, for health checks. A container's probe is
//! this binary itself, so that no image needs another client. Bounded in time and in what is read.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};
use tidegate_engine::clock::{Clock as _, Timestamp};

use crate::runtime::SystemClock;

/// What an answer may have: a status, headers, and a sentence.
const ANSWER_BYTES_MAX: u64 = 16 * 1_024;

/// Whom a probe believes to be the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Nobody: without TLS.
    Plaintext,
    /// Who shows a certificate of one of these authorities for the host's name.
    Authority(PathBuf),
    /// Who shows this very certificate, whatever its name: a node on this machine whose file it is.
    Same(PathBuf),
}

/// Where a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who it has to be.
    pub trust: Trust,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, as far as it was read.
    pub body: String,
}

/// Asks. The error says what was in the way, and never holds the token.
pub fn ask(
    target: &Target,
    path: &str,
    token: Option<&str>,
    limit: Duration,
) -> Result<Answer, String> {
    let limit_micros = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX);
    let deadline = Timestamp(SystemClock.now().0.saturating_add(limit_micros));
    let socket = connect(target, limit)?;
    let brackets = target.host.contains(':') && !target.host.starts_with('[');
    let host = match brackets {
        true => format!("[{}]", target.host),
        false => target.host.clone(),
    };
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}:{}\r\nconnection: close\r\naccept: */*\r\n",
        target.port
    );
    if let Some(token) = token {
        request.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    request.push_str("\r\n");
    let heard = match client(&target.trust)? {
        None => talk(socket, &request, deadline),
        Some(config) => {
            let name = ServerName::try_from(target.host.clone())
                .map_err(|_| format!("`{}` is no host name", target.host))?;
            let session =
                ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
            talk(StreamOwned::new(session, socket), &request, deadline)
        }
    };
    answer(&heard.map_err(|error| error.to_string())?)
}

/// Says what is wrong with the file of an authority, before anybody is asked.
pub fn check(trust: &Trust) -> Result<(), String> {
    match trust {
        Trust::Authority(_) => client(trust).map(drop),
        Trust::Plaintext | Trust::Same(_) => Ok(()),
    }
}

fn connect(target: &Target, limit: Duration) -> Result<TcpStream, String> {
    let host = target.host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, target.port)
        .to_socket_addrs()
        .map_err(|error| format!("`{host}` has no address: {error}"))?;
    let mut refused = format!("`{host}` has no address");
    for address in addresses {
        let connected = TcpStream::connect_timeout(&address, limit).and_then(|socket| {
            socket.set_read_timeout(Some(limit))?;
            socket.set_write_timeout(Some(limit))?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) => refused = format!("{address}: {error}"),
        }
    }
    Err(refused)
}

/// Reads to the end, to the deadline or to the bound, whichever comes first.
fn talk<S: Read + Write>(
    mut stream: S,
    request: &str,
    deadline: Timestamp,
) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut heard = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(heard),
            Ok(read) => heard.extend_from_slice(piece.get(..read).unwrap_or_default()),
            // A peer that hangs up without a farewell has said what it said.
            Err(error)
                if error.kind() == std::io::ErrorKind::UnexpectedEof && !heard.is_empty() =>
            {
                return Ok(heard);
            }
            Err(error) => return Err(error),
        }
        if heard.len() as u64 >= ANSWER_BYTES_MAX || SystemClock.now() >= deadline {
            return Ok(heard);
        }
    }
}

fn answer(heard: &[u8]) -> Result<Answer, String> {
    let text = String::from_utf8_lossy(heard);
    let status = text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| {
            "what answers speaks no HTTP here; is it TLS, or another server?".to_owned()
        })?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

fn client(trust: &Trust) -> Result<Option<ClientConfig>, String> {
    let ring = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Plaintext => return Ok(None),
        Trust::Authority(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                let added = roots.add(certificate);
                added.map_err(|error| format!("{}: {error}", file.display()))?;
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), ring.clone())
                .build()
                .map_err(|error| format!("{}: {error}", file.display()))?
        }
        Trust::Same(file) => {
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
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(Some(builder.with_no_client_auth()))
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
