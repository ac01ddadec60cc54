//! Reading a body: in bounded time, of bounded size, also when it is compressed.

use std::io::Read;
use std::time::Duration;

use actix_web::web;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::problem::{Kind, Problem};
use super::room::Room;

/// How much of a body is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyLimits {
    /// Bytes, as they come and after they are decompressed.
    pub bytes_max: usize,
    /// Bytes that one compressed byte may become, beyond a first 64 KiB.
    pub ratio_max: usize,
    /// From the head of the request to the end of its body.
    pub time_max: Duration,
}

/// What small bodies may become whatever their ratio.
const ALWAYS_BYTES: usize = 64 * 1024;

/// Reads the whole body and undoes its content encoding. Its room is then what the body takes and what its
/// events, written once more, will take beside it.
pub async fn read(
    payload: web::Payload,
    encoding: Option<&str>,
    limits: BodyLimits,
    room: &mut Room,
) -> Result<Bytes, Problem> {
    let coding = Coding::of(encoding)?;
    let read = tokio::time::timeout(limits.time_max, raw(payload, limits.bytes_max, room)).await;
    let raw = read.map_err(|_| {
        let seconds = limits.time_max.as_secs();
        Problem::new(
            Kind::Timeout,
            format!("the body did not arrive within {seconds} s"),
        )
    })??;
    let by_ratio = raw.len().saturating_mul(limits.ratio_max).max(ALWAYS_BYTES);
    let allowed = by_ratio.min(limits.bytes_max);
    if coding != Coding::Identity {
        room.grow(allowed)?;
    }
    let body = decode(coding, raw, allowed)?.ok_or_else(|| match by_ratio < limits.bytes_max {
        true => unpacks_to_too_much(limits.ratio_max),
        false => too_large(limits.bytes_max),
    })?;
    room.resize(2 * body.len())?;
    Ok(body)
}

async fn raw(
    mut payload: web::Payload,
    bytes_max: usize,
    room: &mut Room,
) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk =
            chunk.map_err(|_| Problem::invalid("", "the body ended before it was whole"))?;
        if body.len() + chunk.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        room.grow(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    fn of(encoding: Option<&str>) -> Result<Self, Problem> {
        match encoding.map(str::trim) {
            None | Some("" | "identity") => Ok(Coding::Identity),
            Some("gzip") => Ok(Coding::Gzip),
            Some("zstd") => Ok(Coding::Zstd),
            Some(_) => Err(Problem::new(
                Kind::UnsupportedMediaType,
                "content-encoding is gzip, zstd or none",
            )),
        }
    }
}

/// What was encoded; `None` when it is more than so many bytes, of which no more were looked at.
fn decode(coding: Coding, raw: Bytes, bytes_max: usize) -> Result<Option<Bytes>, Problem> {
    let broken = |_| Problem::invalid("content-encoding", "the body is not what it says");
    match coding {
        Coding::Identity => Ok(Some(raw)),
        Coding::Gzip => bounded(flate2::read::MultiGzDecoder::new(raw.as_ref()), bytes_max),
        Coding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(raw.as_ref()).map_err(broken)?;
            // 8 MiB, what every decoder must accept: more would be memory that a client chooses.
            decoder.window_log_max(23).map_err(broken)?;
            bounded(decoder, bytes_max)
        }
    }
}

fn bounded(decoder: impl Read, bytes_max: usize) -> Result<Option<Bytes>, Problem> {
    let mut body = Vec::new();
    let mut decoder = decoder.take(bytes_max as u64 + 1);
    decoder
        .read_to_end(&mut body)
        .map_err(|_| Problem::invalid("content-encoding", "the body is not what it says"))?;
    Ok((body.len() <= bytes_max).then(|| Bytes::from(body)))
}

fn unpacks_to_too_much(ratio_max: usize) -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!(
            "the body unpacks to more than {ratio_max} times its bytes and more than {ALWAYS_BYTES}; send it \
             without content-encoding"
        ),
    )
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!("the body has more than {bytes_max} bytes; send fewer events at once"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bytes::Bytes;

    use super::{Coding, Kind, decode};

    fn gzip(plain: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        Bytes::from(encoder.finish().unwrap())
    }

    #[test]
    fn r44_a_bomb_is_refused_before_it_is_in_memory() {
        let zeros = vec![0; 8 * 1024 * 1024];
        for (coding, bomb) in [
            (Coding::Gzip, gzip(&zeros)),
            (
                Coding::Zstd,
                Bytes::from(zstd::encode_all(zeros.as_slice(), 19).unwrap()),
            ),
        ] {
            assert!(bomb.len() < 16 * 1024, "{}", bomb.len());
            assert_eq!(decode(coding, bomb, 1024 * 1024).unwrap(), None);
        }
    }

    #[test]
    fn what_was_compressed_comes_out_as_it_was_and_what_is_broken_is_refused() {
        let plain = b"{\"id\":\"1\"}";
        for (coding, packed) in [
            (Coding::Gzip, gzip(plain)),
            (
                Coding::Zstd,
                Bytes::from(zstd::encode_all(plain.as_slice(), 1).unwrap()),
            ),
        ] {
            let whole = decode(coding, packed.clone(), 100).unwrap().unwrap();
            assert_eq!(whole, &plain[..]);
            let cut = packed.slice(..packed.len() - 3);
            assert_eq!(decode(coding, cut, 100).unwrap_err().kind, Kind::Invalid);
        }
        assert!(Coding::of(Some("br")).is_err());
    }
}
