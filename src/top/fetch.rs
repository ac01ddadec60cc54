//! The metrics of a node, over HTTP as any other client reads them.

use std::time::Duration;

use crate::cli::args::Top;
use crate::client::{self, Question, Target};
use crate::config::Config;

/// How long a look may take.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Bytes of an answer: more than a node with every series that it may have says.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Where the metrics are, and who asks for them.
pub struct Metrics {
    target: Target,
    token: Option<String>,
}

impl Metrics {
    /// What the command line names, else where the configuration has the node take requests.
    pub fn of(wanted: &Top, config: &Config) -> Result<Self, String> {
        let mut target = match &wanted.url {
            Some(url) => Target::named(url, wanted.ca_file.clone())?,
            None => Target::of_config(config)?,
        };
        if target.path.is_empty() {
            "/metrics".clone_into(&mut target.path);
        }
        let checked = target.trust.check();
        checked.map_err(|error| format!("--ca-file: {error}"))?;
        let token = wanted
            .token_file
            .as_deref()
            .map(client::token)
            .transpose()?;
        if token.is_some() {
            target.check_token(wanted.plaintext_unsafe)?;
        }
        Ok(Self { target, token })
    }

    /// Where they are, for people.
    pub fn shown(&self) -> String {
        format!("tidegate top  {}", self.target.url())
    }

    /// Their text.
    pub async fn read(&self) -> Result<String, String> {
        let path = &self.target.path;
        let asked = Question {
            path,
            token: self.token.as_deref(),
            limit: LOOK_MAX,
            bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = self.target.get(asked).await?;
        match answer.status {
            200 => String::from_utf8(answer.body).map_err(|_| "the answer is no text".to_owned()),
            401 => Err("the token is not valid here, or none was named: --token-file".to_owned()),
            403 => Err("the token needs the scope `observe`".to_owned()),
            404 => Err(format!("there is no {path}; is it a node of Tidegate?")),
            other => Err(format!("it answers with status {other}")),
        }
    }
}
