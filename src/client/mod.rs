//! One GET of a running node, for the commands that look at one: HTTP/1.1 over a connection of its own, TLS
//! where the address says so, bounded in time and in what is read. A container's probe is this binary itself,
//! so that no image needs another client. A token goes to the address that was named and nowhere else, and
//! is in no error.

mod answer;
mod trust;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::Config;
use crate::config::checks::listen_address;

pub use answer::Answer;
pub use trust::Trust;

/// Where a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What is in front of every path: nothing, or what a proxy put there. Begins with `/`.
    pub path: String,
    /// Who it has to be.
    pub trust: Trust,
}

/// What is asked.
#[derive(Clone, Copy)]
pub struct Question<'q> {
    /// Begins with `/`.
    pub path: &'q str,
    /// Who asks.
    pub token: Option<&'q str>,
    /// When the whole answer has to be there.
    pub limit: Duration,
    /// Bytes that an answer may have.
    pub bytes_max: u64,
}

impl Target {
    /// The node at a URL: a scheme, a host, perhaps a port and a path.
    pub fn named(url: &str, authority: Option<PathBuf>) -> Result<Self, String> {
        let wrong = |what: &str| format!("--url: {what}");
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| wrong("expected http://HOST:PORT or https://HOST:PORT"))?;
        let (trust, default_port) = match (scheme, authority) {
            ("http", None) => (Trust::Plaintext, 80),
            ("http", Some(_)) => return Err("--ca-file is for https".to_owned()),
            ("https", Some(file)) => (Trust::Authority(file), 443),
            ("https", None) => (Trust::Machine, 443),
            _ => return Err(wrong("expected http:// or https://")),
        };
        if rest.contains(['?', '#', '@']) {
            return Err(wrong(
                "expected an address and perhaps a path; a token comes by --token-file",
            ));
        }
        let (place, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let number = |text: &str| text.parse().map_err(|_| wrong("no such port"));
        let (host, port) = match place.strip_prefix('[') {
            Some(six) => {
                let (host, behind) = six
                    .split_once(']')
                    .ok_or_else(|| wrong("`[` without `]`"))?;
                match (behind, behind.strip_prefix(':')) {
                    ("", _) => (host, default_port),
                    (_, Some(port)) => (host, number(port)?),
                    (_, None) => return Err(wrong("expected `:PORT` behind `]`")),
                }
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host, number(port)?),
                None => (place, default_port),
            },
        };
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
        if host.is_empty() || !is_plain(host) || !is_plain(path) {
            return Err(wrong("expected a host, as in http://127.0.0.1:8080"));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            path: path.trim_end_matches('/').to_owned(),
            trust,
        })
    }

    /// The node that a configuration runs on this machine.
    pub fn of_config(config: &Config) -> Result<Self, String> {
        let section = &config.http;
        let listen = section.listen.as_deref().and_then(listen_address);
        let Some(address) = listen else {
            return Err(
                "which node? Name its address: --url http://127.0.0.1:8080, or the \
                        configuration that it runs with, which has to have `http.listen`: -c FILE"
                    .to_owned(),
            );
        };
        if address.port() == 0 {
            return Err(
                "`http.listen` has port 0, so the node chose one by itself: name it with --url"
                    .to_owned(),
            );
        }
        // Where it listens on every address, it is here, too.
        let host = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let trust = match &section.tls_certificate {
            Some(certificate) => Trust::Same(certificate.clone()),
            None => Trust::Plaintext,
        };
        Ok(Self {
            host: host.to_string(),
            port: address.port(),
            path: String::new(),
            trust,
        })
    }

    /// Refuses to send a token where others read it.
    pub fn check_token(&self, plaintext_unsafe: bool) -> Result<(), String> {
        if self.trust != Trust::Plaintext || self.is_near() || plaintext_unsafe {
            return Ok(());
        }
        Err(format!(
            "http://{}: whoever is in between would read the token. Use https://, or say --plaintext-unsafe",
            self.host
        ))
    }

    /// True for this machine.
    fn is_near(&self) -> bool {
        let address: Option<IpAddr> = self.host.parse().ok();
        self.host.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| address.is_loopback())
    }

    /// As it is written in a URL.
    pub fn url(&self) -> String {
        let scheme = match self.trust {
            Trust::Plaintext => "http",
            _ => "https",
        };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Asks. The error says what was in the way, and never holds the token.
    pub async fn get(&self, question: Question<'_>) -> Result<Answer, String> {
        let Ok(heard) = tokio::time::timeout(question.limit, self.hear(question)).await else {
            return Err(format!(
                "no answer within {} s",
                question.limit.as_secs_f64()
            ));
        };
        answer::read(&heard?)
    }

    async fn hear(&self, question: Question<'_>) -> Result<Vec<u8>, String> {
        let authority = self.authority();
        let connected = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = connected.map_err(|error| format!("{authority}: {error}"))?;
        let Some(tls) = self.trust.connector()? else {
            return self.talk(stream, question).await;
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| format!("`{}` is no host name", self.host))?;
        let stream = tls.connect(name, stream).await;
        let stream = stream.map_err(|error| format!("{authority}: {error}"))?;
        self.talk(stream, question).await
    }

    async fn talk(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        question: Question<'_>,
    ) -> Result<Vec<u8>, String> {
        let mut request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\naccept: */*\r\n",
            question.path,
            self.authority()
        );
        if let Some(token) = question.token {
            request.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        request.push_str("\r\n");
        let failed = |error: std::io::Error| format!("{}: {error}", self.authority());
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let mut heard = Vec::new();
        let mut bounded = stream.take(question.bytes_max);
        match bounded.read_to_end(&mut heard).await {
            Ok(_) => Ok(heard),
            // A peer that hangs up without a farewell has said what it said: the length tells whether
            // all was there.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && !heard.is_empty() => {
                Ok(heard)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// The token in a file. The error shows nothing of it.
pub fn token(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("--token-file {}: {error}", file.display()))?;
    let token = text.trim();
    let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits {
        return Err(format!(
            "--token-file {}: expected one token and nothing else, as `tidegate tokens create --out` writes it",
            file.display()
        ));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn an_address_is_a_scheme_a_host_and_perhaps_a_port_and_a_path() {
        for (url, host, port, path) in [
            ("http://127.0.0.1:8080", "127.0.0.1", 8080, ""),
            ("https://node.example/", "node.example", 443, ""),
            ("http://[::1]:9/x/metrics", "::1", 9, "/x/metrics"),
            ("http://[::1]", "::1", 80, ""),
        ] {
            let target = Target::named(url, None).unwrap();
            let found = (target.host.as_str(), target.port, target.path.as_str());
            assert_eq!(found, (host, port, path), "{url}");
        }
        for url in [
            "127.0.0.1:8080",
            "ftp://x",
            "http://",
            "http://x:port",
            "http://[::1]port",
            "http://user:secret@x",
            "http://x/metrics?token=secret",
            "http://x y/",
        ] {
            let error = Target::named(url, None).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
