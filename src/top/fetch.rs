//! One GET of a node's `/metrics`: HTTP/1.1 over a connection of its own, TLS where the address says so. A
//! token goes to the address that was named and nowhere else, and is in no error.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cli::args::Top;
use crate::config::Config;

/// How long a look may take.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Bytes of an answer: more than a node with every series that it may have says.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Where the metrics are, and how to get there.
pub struct Target {
    host: String,
    port: u16,
    path: String,
    tls: Option<TlsConnector>,
    token: Option<String>,
}

impl Target {
    /// What the command line names, else where the configuration has the node take requests.
    pub fn of(wanted: &Top, config: &Config) -> Result<Self, String> {
        let url = match (&wanted.url, &config.http.listen) {
            (Some(url), _) => url.clone(),
            (None, Some(listen)) => {
                let scheme = if config.http.tls_certificate.is_some() {
                    "https"
                } else {
                    "http"
                };
                // Where it listens on every address, it is here, too.
                let here = listen
                    .replace("0.0.0.0:", "127.0.0.1:")
                    .replace("[::]:", "[::1]:");
                format!("{scheme}://{here}")
            }
            (None, None) => {
                return Err(
                    "which node? Name its address: --url http://127.0.0.1:8080, or a \
                            configuration with `http.listen`: -c FILE"
                        .to_owned(),
                );
            }
        };
        let mut target = Self::at(&url)?;
        if url.starts_with("https://") {
            target.tls = Some(connector(wanted.ca_file.as_deref())?);
        }
        if let Some(path) = &wanted.token_file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("--token-file {}: {error}", path.display()))?;
            let token = text.trim();
            let is_token = |c: char| c.is_ascii_graphic();
            if token.is_empty() || !token.chars().all(is_token) {
                return Err(format!(
                    "--token-file {}: no token is in it",
                    path.display()
                ));
            }
            target.token = Some(token.to_owned());
        }
        let is_near = ["localhost", "127.0.0.1", "::1"].contains(&target.host.as_str());
        if target.tls.is_none() && !is_near && target.token.is_some() && !wanted.plaintext_unsafe {
            return Err(format!(
                "http://{}: whoever is in between would read the token. Use https://, or say \
                 --plaintext-unsafe",
                target.host
            ));
        }
        Ok(target)
    }

    fn at(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("https://").or(url.strip_prefix("http://"));
        let rest = rest.ok_or("--url: expected http:// or https:// in front of an address")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') || path.contains(['?', '#']) {
            return Err(
                "--url: expected an address and a path alone; a token is named with \
                        --token-file"
                    .to_owned(),
            );
        }
        let named = |text: &str| text.parse::<u16>().map_err(|_| "--url: no port".to_owned());
        let default = if url.starts_with("https://") { 443 } else { 80 };
        let (host, port) = match authority.strip_prefix('[') {
            Some(six) => {
                let (host, behind) = six.split_once(']').ok_or("--url: `[` without `]`")?;
                let port = behind.strip_prefix(':').map(named).transpose()?;
                (host, port.unwrap_or(default))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, named(port)?),
                None => (authority, default),
            },
        };
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
        if host.is_empty() || !is_plain(host) || !is_plain(path) {
            return Err("--url: expected a host, as in http://127.0.0.1:8080".to_owned());
        }
        let path = if path.is_empty() { "metrics" } else { path };
        Ok(Self {
            host: host.to_owned(),
            port,
            path: format!("/{path}"),
            tls: None,
            token: None,
        })
    }

    /// Where it is, for people.
    pub fn shown(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("tidegate top  {scheme}://{}{}", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The text of the metrics.
    pub async fn metrics(&self) -> Result<String, String> {
        let looked = tokio::time::timeout(LOOK_MAX, self.get()).await;
        let late = |_| Err(format!("no answer within {} s", LOOK_MAX.as_secs()));
        let answer = looked.unwrap_or_else(late)?;
        let (status, body) = read(&answer)?;
        match status {
            200 => String::from_utf8(body).map_err(|_| "the answer is no text".to_owned()),
            401 => Err("the token is not valid here, or none was named: --token-file".to_owned()),
            403 => Err("the token needs the scope `observe`".to_owned()),
            404 => Err(format!(
                "there is no {}; is it a node of Tidegate?",
                self.path
            )),
            other => Err(format!("it answers with status {other}")),
        }
    }

    async fn get(&self) -> Result<Vec<u8>, String> {
        let authority = self.authority();
        let connected = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = connected.map_err(|error| format!("{authority}: {error}"))?;
        let Some(tls) = &self.tls else {
            return self.ask(stream).await;
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| format!("{}: no name that a certificate may have", self.host))?;
        let stream = tls.connect(name, stream).await;
        self.ask(stream.map_err(|error| format!("{authority}: {error}"))?)
            .await
    }

    async fn ask(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<Vec<u8>, String> {
        let mut head = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/plain\r\nConnection: close\r\n",
            self.path,
            self.authority()
        );
        if let Some(token) = &self.token {
            head.push_str("Authorization: Bearer ");
            head.push_str(token);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let failed = |error: std::io::Error| format!("{}: {error}", self.authority());
        stream.write_all(head.as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::new();
        let mut bounded = stream.take(ANSWER_BYTES_MAX);
        match bounded.read_to_end(&mut answer).await {
            Ok(_) => Ok(answer),
            // A server that ends TLS without saying so: the length tells whether all was there.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(answer),
            Err(error) => Err(failed(error)),
        }
    }
}

fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let wrong = |what: String| format!("--ca-file {}: {what}", path.display());
            let read = CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))?;
            for certificate in read {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("no certificate is in it".to_owned()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            roots.add_parsable_certificates(found);
            if roots.is_empty() {
                return Err("this machine trusts no authority; name one with --ca-file".to_owned());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Status and body of a whole answer.
fn read(answer: &[u8]) -> Result<(u16, Vec<u8>), String> {
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let cut = || "the answer is cut off".to_owned();
    let end = answer.windows(HEAD_END.len()).position(|it| it == HEAD_END);
    let (head, rest) = answer
        .split_at_checked(end.ok_or_else(cut)?)
        .ok_or_else(cut)?;
    let body = rest.get(HEAD_END.len()..).unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| {
        let rest = line.strip_prefix("HTTP/1.")?;
        rest.split(' ').nth(1)?.parse().ok()
    });
    let status = status.ok_or("the answer is no HTTP")?;
    let header = |wanted: &str| {
        let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
        let found = lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim().to_ascii_lowercase())
    };
    if header("transfer-encoding").is_some_and(|value| value.ends_with("chunked")) {
        return Ok((status, unchunked(body).ok_or_else(cut)?));
    }
    match header("content-length").and_then(|value| value.parse().ok()) {
        Some(length) => Ok((status, body.get(..length).ok_or_else(cut)?.to_vec())),
        None => Ok((status, body.to_vec())),
    }
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = rest.windows(2).position(|it| it == b"\r\n")?;
        let line = std::str::from_utf8(rest.get(..line_end)?).ok()?;
        let size = line.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = rest.get(line_end + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, read};

    #[test]
    fn an_address_is_a_scheme_a_host_and_perhaps_a_port_and_a_path() {
        for (url, host, port, path) in [
            ("http://127.0.0.1:8080", "127.0.0.1", 8080, "/metrics"),
            ("https://node.example/", "node.example", 443, "/metrics"),
            ("http://[::1]:9/x/metrics", "::1", 9, "/x/metrics"),
            ("http://[::1]", "::1", 80, "/metrics"),
        ] {
            let target = Target::at(url).unwrap();
            let found = (target.host.as_str(), target.port, target.path.as_str());
            assert_eq!(found, (host, port, path), "{url}");
        }
        for url in [
            "127.0.0.1:8080",
            "ftp://x",
            "http://",
            "http://x:port",
            "http://user:secret@x",
            "http://x/metrics?token=secret",
            "http://x y/",
        ] {
            let error = Target::at(url).err().unwrap();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn an_answer_is_read_whole_or_refused() {
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        let closed = b"HTTP/1.0 200 OK\r\n\r\nabc";
        for whole in [&sized[..], chunked, closed] {
            assert_eq!(read(whole).unwrap(), (200, b"abc".to_vec()));
        }
        let refused = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(read(refused).unwrap().0, 401);
        for (answer, cuts) in [(&sized[..], 1), (chunked, 6), (b"SSH-2.0\r\n\r\n", 0)] {
            assert!(read(&answer[..answer.len() - cuts]).is_err());
        }
        let huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab";
        assert!(read(huge).is_err());
    }
}
