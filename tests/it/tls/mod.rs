//! TLS by real handshakes: the listener of requests, its probe, and the connection to Postgres. Every
//! certificate is made here, by authorities that last as long as the test.

mod listener;
mod postgres;
mod probe;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// How long a node may take to say something.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for `host` and its key, written as `tls.crt` and `tls.key`. Gives what the client will
    /// be shown.
    pub fn certify(&self, host: &str, directory: &Path) -> CertificateDer<'static> {
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
        std::fs::write(directory.join("tls.crt"), certificate.pem()).unwrap();
        certificate.der().clone()
    }

    /// A client that believes this authority and no other.
    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(ring);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = builder.with_no_client_auth();
        // As browsers and libraries do: both are offered, the server chooses.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A connection that was greeted.
pub struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    /// Shakes hands with whoever is at `address` as `host`.
    pub fn open(address: &str, host: &str, believes: &Authority) -> std::io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let mut session = ClientConnection::new(believes.client(), name).unwrap();
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(Self(StreamOwned::new(session, socket)))
    }

    /// The certificate that was shown.
    pub fn shown(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    }

    /// The protocol that the server chose.
    pub fn spoken(&self) -> Option<String> {
        let chosen = self.0.conn.alpn_protocol();
        chosen.map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// The status of a request; the connection stays.
    pub fn get(&mut self, target: &str) -> u16 {
        let request = format!("GET {target} HTTP/1.1\r\nhost: node\r\n\r\n");
        self.0.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(&mut self.0);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
            if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = said.trim().parse().unwrap();
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        status
    }
}

/// A node in a process of its own, with what it logs; killed when it is dropped.
pub struct Node {
    child: Child,
    heard: mpsc::Receiver<String>,
    pub address: String,
}

impl Node {
    /// `tidegate run -c node.yaml` in that directory.
    pub fn run(directory: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "-c", "node.yaml"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, heard) = mpsc::sync_channel(1_000);
        let log = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let _ = lines.try_send(line);
            }
        });
        let mut node = Self {
            child,
            heard,
            address: String::new(),
        };
        let taking = node.logged("taking requests");
        let address = taking["address"].as_str().unwrap();
        node.address = address.split("//").nth(1).unwrap().to_owned();
        node
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// True when its process is over.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; its exit code.
    pub fn end(&mut self) -> Option<i32> {
        for _ in 0..1_200 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            crate::http::pause(50);
        }
        panic!("it does not end");
    }

    /// The next log line that says so.
    pub fn logged(&self, message: &str) -> Value {
        let mut log = String::new();
        loop {
            let line = self.heard.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("it did not say `{message}`:\n{log}"));
            if let Ok(json) = serde_json::from_str::<Value>(&line)
                && json["message"]
                    .as_str()
                    .is_some_and(|said| said.contains(message))
            {
                return json;
            }
            log.push_str(&line);
            log.push('\n');
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
