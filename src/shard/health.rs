//! What state a shard is in, and why.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What state a shard is in, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "cause")]
#[non_exhaustive]
pub enum Health {
    /// It serves and is flushed to.
    Online,
    /// It serves, but some of its bytes failed a check, for which its replicas answer; or it cannot be written to at the
    /// moment, for want of space for example.
    Degraded(String),
    /// It neither serves nor is flushed to; its replicas do.
    Offline(String),
    /// It is being filled by a change of the topology: it is written to, and not read yet.
    Joining,
    /// It is being filled from its replicas, or brought up to date from the journal, and does not serve yet.
    Rebuilding,
}

impl Health {
    /// Whether reads go to the shard.
    pub fn serves(&self) -> bool {
        matches!(self, Health::Online | Health::Degraded(_))
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Online => f.write_str("online"),
            Health::Degraded(cause) => write!(f, "degraded: {cause}"),
            Health::Offline(cause) => write!(f, "offline: {cause}"),
            Health::Joining => f.write_str("joining"),
            Health::Rebuilding => f.write_str("rebuilding"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_shard_is_can_be_read_and_says_whether_it_is() {
        let cause = || "its disk is full".to_owned();
        for (health, text, serves) in [
            (Health::Online, "online", true),
            (Health::Degraded(cause()), "degraded: its disk is full", true),
            (Health::Offline(cause()), "offline: its disk is full", false),
            (Health::Joining, "joining", false),
            (Health::Rebuilding, "rebuilding", false),
        ] {
            assert_eq!((health.to_string().as_str(), health.serves()), (text, serves));
        }
    }
}
