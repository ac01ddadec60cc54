//! Tokens for Amazon MSK with IAM: a request to `kafka-cluster` that is signed and never sent. The cluster
//! checks the signature, and IAM what its signer may do. Credentials are found as all programs for AWS find
//! them: environment, profile, web identity (EKS), container (ECS), instance.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::{Builder, tls};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidegate_engine::clock::Timestamp;
use tokio::sync::OnceCell;

use super::tokens::{KafkaToken, TokenSigner};

/// How long a token is good for: the most that MSK takes.
const LIFETIME: Duration = Duration::from_secs(900);

/// Signs with the credentials of this process.
pub struct MskIamSigner {
    region: String,
    /// Where credentials come from, once that was looked for.
    credentials: OnceCell<SharedCredentialsProvider>,
}

impl std::fmt::Debug for MskIamSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MskIamSigner")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl MskIamSigner {
    /// For clusters of that region, like `eu-central-1`. Credentials are looked for with the first token.
    pub fn new(region: impl Into<String>) -> Self {
        Self {
            region: region.into(),
            credentials: OnceCell::new(),
        }
    }

    async fn find(&self) -> Result<SharedCredentialsProvider, String> {
        // The client that would come by itself has another provider of cryptography than the rest of us.
        let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(Region::new(self.region.clone()))
            .http_client(Builder::new().tls_provider(ring).build_https())
            .load()
            .await;
        let credentials = config.credentials_provider();
        credentials.ok_or_else(|| no_credentials("nothing provides any"))
    }
}

#[async_trait::async_trait]
impl TokenSigner for MskIamSigner {
    async fn sign(&self, now: Timestamp) -> Result<KafkaToken, String> {
        let credentials = self.credentials.get_or_try_init(|| self.find()).await?;
        let found = credentials.provide_credentials().await;
        let found = found.map_err(|error| no_credentials(&chain(&error)))?;
        token(&self.region, found, now)
    }
}

fn no_credentials(why: &str) -> String {
    format!(
        "there are no credentials for AWS ({why}). Give the process a role, or AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
    )
}

/// An error with what it comes from.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words = format!("{words}: {cause}");
        next = cause.source();
    }
    words
}

fn token(region: &str, credentials: Credentials, now: Timestamp) -> Result<KafkaToken, String> {
    let principal = credentials.access_key_id().to_owned();
    let now = at(now);
    let latest = now + LIFETIME;
    let ends = credentials
        .expiry()
        .map_or(latest, |expiry| expiry.min(latest));
    let since = ends
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let expires_at = Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    let url = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
    let signed = signed_query(&url, region, credentials, now)
        .map_err(|error| format!("the request cannot be signed: {error}"))?;
    let agent = concat!("tidegate/", env!("CARGO_PKG_VERSION"));
    let url = format!("{url}{signed}&User-Agent={}", encoded(agent));
    Ok(KafkaToken {
        token: URL_SAFE_NO_PAD.encode(url),
        principal,
        expires_at,
    })
}

fn at(moment: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(moment.0).unwrap_or(0))
}

/// The parameters that a signature adds.
fn signed_query(
    url: &str,
    region: &str,
    credentials: Credentials,
    now: SystemTime,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFETIME);
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("kafka-cluster")
        .time(now)
        .settings(settings)
        .build()?;
    let body = SignableBody::Bytes(&[]);
    let request = SignableRequest::new("GET", url, std::iter::empty(), body)?;
    let (instructions, _) = sign(request, &parameters.into())?.into_parts();
    let parameters = instructions.params().iter();
    Ok(parameters
        .map(|(name, value)| format!("&{name}={}", encoded(value)))
        .collect())
}

/// A value in a query: all but letters, digits and `-._~` by its bytes.
fn encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000_000);

    fn url(token: &KafkaToken) -> String {
        String::from_utf8(URL_SAFE_NO_PAD.decode(&token.token).unwrap()).unwrap()
    }

    #[test]
    fn a_token_is_a_signed_request_that_says_who_until_when() {
        let session = Some("session/token+=".to_owned());
        let keys = Credentials::new("AKIDEXAMPLE", "a-secret", session, None, "test");
        let token = token("eu-central-1", keys, NOW).unwrap();
        assert_eq!(token.expires_at, Timestamp(NOW.0 + 900_000_000));
        assert_eq!(token.principal, "AKIDEXAMPLE");
        let url = url(&token);
        for part in [
            "https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect&",
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "X-Amz-Credential=AKIDEXAMPLE%2F20260921%2Feu-central-1%2Fkafka-cluster%2Faws4_request",
            "X-Amz-Date=20260921T",
            "X-Amz-Expires=900",
            "X-Amz-SignedHeaders=host",
            "X-Amz-Security-Token=session%2Ftoken%2B%3D",
            "X-Amz-Signature=",
            "User-Agent=tidegate%2F",
        ] {
            assert!(url.contains(part), "{part}\n{url}");
        }
        assert!(!url.contains("a-secret"), "{url}");
    }

    /// Calculated by hand from the rules of AWS, with `hmac` and `sha256` of another library.
    #[test]
    fn the_signature_is_what_anybody_else_calculates() {
        let keys = Credentials::new("AKIDEXAMPLE", "a-secret", None, None, "test");
        let url = url(&token("eu-central-1", keys, NOW).unwrap());
        let signature = "e31ffcb38a30548567cc436b355330069dc5999d8390b05a21fe3d5f506c30a0";
        assert!(
            url.contains(&format!("X-Amz-Signature={signature}&")),
            "{url}"
        );
    }

    #[test]
    fn a_token_does_not_outlive_its_credentials() {
        let ends = Timestamp(NOW.0 + 60_000_000);
        let keys = Credentials::new("AKIDEXAMPLE", "a-secret", None, Some(at(ends)), "test");
        assert_eq!(token("eu-central-1", keys, NOW).unwrap().expires_at, ends);
    }
}
