//! A whole answer, from the bytes of a connection that was closed behind it.

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Reads it, or says that something is missing.
pub(super) fn read(heard: &[u8]) -> Result<Answer, String> {
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let cut = || "the answer is cut off".to_owned();
    if !heard.starts_with(b"HTTP/1.") {
        return Err("what answers speaks no HTTP here; is it TLS, or another server?".to_owned());
    }
    let end = heard.windows(HEAD_END.len()).position(|it| it == HEAD_END);
    let (head, rest) = heard
        .split_at_checked(end.ok_or_else(cut)?)
        .ok_or_else(cut)?;
    let rest = rest.get(HEAD_END.len()..).unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let (line, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or("the answer has no status")?;
    let header = |wanted: &str| {
        let mut lines = headers
            .split("\r\n")
            .filter_map(|line| line.split_once(':'));
        let found = lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim().to_ascii_lowercase())
    };
    let body = if header("transfer-encoding").is_some_and(|value| value.ends_with("chunked")) {
        unchunked(rest).ok_or_else(cut)?
    } else {
        match header("content-length").and_then(|value| value.parse().ok()) {
            Some(length) => rest.get(..length).ok_or_else(cut)?.to_vec(),
            None => rest.to_vec(),
        }
    };
    Ok(Answer { status, body })
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
    use super::read;

    #[test]
    fn an_answer_is_read_whole_or_refused() {
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        let closed = b"HTTP/1.0 200 OK\r\n\r\nabc";
        for whole in [&sized[..], chunked, closed] {
            let answer = read(whole).unwrap();
            assert_eq!((answer.status, &answer.body[..]), (200, &b"abc"[..]));
        }
        let refused = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(read(refused).unwrap().status, 401);
        for (answer, cuts) in [(&sized[..], 1), (chunked, 6), (b"SSH-2.0\r\n\r\n", 0)] {
            assert!(read(&answer[..answer.len() - cuts]).is_err());
        }
        let huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab";
        assert!(read(huge).is_err());
    }
}
