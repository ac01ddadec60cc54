//! A client of a node: one connection that is kept, one request at a time.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Result;

/// Bytes of an answer's head and body together: those of a hundred events fit.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One connection.
pub struct Connection {
    socket: TcpStream,
    host: String,
    token: String,
    answer: Vec<u8>,
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(address: &str, token: &str) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            host: address.to_owned(),
            token: token.to_owned(),
            answer: Vec::with_capacity(4_096),
        })
    }

    /// Sends one event, or an array of them, and waits for the answer. Anything but 200 is an error.
    pub async fn send(&mut self, body: &str) -> Result<()> {
        let form = match body.starts_with('[') {
            true => "application/cloudevents-batch+json",
            false => "application/cloudevents+json",
        };
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: {form}\r\n\
             Content-Length: {}\r\n\r\n",
            self.host,
            self.token,
            body.len()
        );
        self.socket.write_all((head + body).as_bytes()).await?;
        self.answer.clear();
        let (head, length) = loop {
            self.read().await?;
            let text = String::from_utf8_lossy(&self.answer);
            if let Some((head, _)) = text.split_once("\r\n\r\n") {
                break (head.len() + 4, content_length(head)?);
            }
        };
        while self.answer.len() < head + length {
            self.read().await?;
        }
        match self.answer.starts_with(b"HTTP/1.1 200") {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&self.answer).into_owned().into()),
        }
    }

    async fn read(&mut self) -> Result<()> {
        if self.answer.len() > ANSWER_BYTES_MAX {
            return Err("an answer without end".into());
        }
        match self.socket.read_buf(&mut self.answer).await? {
            0 => Err("the node closed the connection".into()),
            _ => Ok(()),
        }
    }
}

fn content_length(head: &str) -> Result<usize> {
    let line = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length: ")
            .map(str::to_owned)
    });
    Ok(line.ok_or("an answer without its length")?.trim().parse()?)
}
