//! How a verb fails: the one place that knows text, JSON and exit codes.

use super::out::Out;
use pitstop_wire::{ApiError, Code};
use std::process::ExitCode;

/// Our own failure in `run`: every other code is the command's.
const RUN_FAILED: u8 = 125;
/// What a shell reports for a process that SIGPIPE ended.
const BROKEN_PIPE: u8 = 141;
/// The shell's code for SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Why a verb did not end well.
#[derive(Debug)]
pub enum Fail {
    /// Something to say, and the exit code of its kind.
    Said(ApiError),
    /// All was said already.
    Exit(u8),
    /// Whoever read our output went away.
    BrokenPipe,
}

impl Fail {
    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Said(ApiError::new(Code::Usage, message))
    }

    /// Something of ours went wrong.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Said(ApiError::new(Code::Internal, message))
    }

    /// With what to do next.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Said(error) => Self::Said(error.hint(hint)),
            other => other,
        }
    }

    /// The exit code; `run` keeps one for itself.
    pub fn code(&self, is_run: bool) -> u8 {
        match self {
            Self::Said(_) if is_run => RUN_FAILED,
            Self::Said(error) => error.code.exit(),
            Self::Exit(code) => *code,
            Self::BrokenPipe => BROKEN_PIPE,
        }
    }

    /// Says what there is to say.
    pub fn report(self, out: &Out, is_run: bool) -> ExitCode {
        if let Self::Said(error) = &self {
            out.error(error);
        }
        ExitCode::from(self.code(is_run))
    }
}

impl From<ApiError> for Fail {
    fn from(error: ApiError) -> Self {
        Self::Said(error)
    }
}

impl From<std::io::Error> for Fail {
    /// For writing our output.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::internal(format!("output cannot be written: {error}")),
        }
    }
}

impl From<serde_json::Error> for Fail {
    fn from(error: serde_json::Error) -> Self {
        if error.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe) {
            return Self::BrokenPipe;
        }
        Self::internal(format!("output cannot be written as JSON: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_the_documented_exit_code() {
        let table = [
            (Code::Internal, 1),
            (Code::Conflict, 1),
            (Code::Usage, 2),
            (Code::KeyReused, 2),
            (Code::NotFound, 3),
            (Code::NotAllowed, 4),
            (Code::Held, 5),
            (Code::TimedOut, 6),
            (Code::MachineFailed, 7),
            (Code::NotKnown, 8),
        ];
        for (code, exit) in table {
            let fail = Fail::from(ApiError::new(code, "x"));
            assert_eq!(fail.code(false), exit, "{code:?}");
            assert_eq!(fail.code(true), 125, "in `run` every other code is the command's");
        }
        assert_eq!(Fail::Exit(42).code(true), 42);
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Fail::from(pipe).code(false), 141);
    }
}
