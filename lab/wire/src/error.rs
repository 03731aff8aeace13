//! Errors as the API gives them, and the exit codes they become.

use serde::{Deserialize, Serialize};

/// Kinds of refusal. The kind decides HTTP status and exit code; scripts may
/// rely on it, while messages are for people and may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request makes no sense.
    Usage,
    /// No such thing, or a filter that can never match.
    NotFound,
    /// Not allowed, or not logged in.
    NotAllowed,
    /// Somebody else holds it.
    Held,
    /// It is not in a state in which this can be done.
    Conflict,
    /// The idempotency key was used for another request.
    KeyReused,
    /// Waited as long as asked.
    TimedOut,
    /// The machine failed: power, boot, agent or image.
    MachineFailed,
    /// The outcome is not known; the same request with the same key may be
    /// sent again.
    NotKnown,
    /// Our fault.
    Internal,
}

impl Code {
    /// HTTP status (RFC 9110).
    pub fn http(self) -> u16 {
        match self {
            Self::Usage => 400,
            Self::NotFound => 404,
            Self::NotAllowed => 403,
            Self::Held | Self::Conflict => 409,
            Self::KeyReused => 422,
            Self::TimedOut => 408,
            Self::MachineFailed => 502,
            Self::NotKnown => 503,
            Self::Internal => 500,
        }
    }

    /// Exit code of the command line.
    pub fn exit(self) -> u8 {
        match self {
            Self::Internal | Self::Conflict => 1,
            Self::Usage | Self::KeyReused => 2,
            Self::NotFound => 3,
            Self::NotAllowed => 4,
            Self::Held => 5,
            Self::TimedOut => 6,
            Self::MachineFailed => 7,
            Self::NotKnown => 8,
        }
    }
}

/// An error as one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, utoipa::ToSchema)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of refusal.
    pub code: Code,
    /// What was attempted and why it was refused.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Who holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Seconds after which another try makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, holder: None, retry_after: None }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With who holds it.
    #[must_use]
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = Some(holder.into());
        self
    }
}
