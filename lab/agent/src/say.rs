//! Where the agent's own lines for people go: the console, which the daemon's journal keeps.

use std::fmt;
use std::sync::Arc;

/// Prints one line. Lines never carry a token or a key.
#[derive(Clone)]
pub struct Say(Arc<dyn Fn(&str) + Send + Sync>);

impl Say {
    /// Calls `print` with each line, without prefix and newline.
    pub fn new(print: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(print))
    }

    /// To standard error, prefixed `pitstop-agent: `.
    pub fn stderr() -> Self {
        Self::new(|line| eprintln!("pitstop-agent: {line}"))
    }

    /// Prints a line.
    pub fn line(&self, line: &str) {
        (self.0)(line);
    }
}

impl fmt::Debug for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Say")
    }
}
