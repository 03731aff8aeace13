//! How the demo speaks: one line per phase, with the time since the
//! beginning, who, what, and words. ASCII only, colours on terminals.

use crate::cli::Result;
use crate::cli::out::{Out, Tone};
use pitstop_wire::api::Time;

/// Says things.
pub struct Teller {
    out: Out,
    began: Time,
}

impl Teller {
    /// The time begins now.
    pub fn new(out: &Out) -> Self {
        Self { out: out.clone(), began: Time::now() }
    }

    /// Milliseconds since the beginning.
    pub fn elapsed(&self) -> u64 {
        Time::now().since(self.began)
    }

    /// A line of the story.
    pub fn line(&self, at: Time, who: &str, tone: Tone, what: &str, text: &str) -> Result {
        let ms = at.since(self.began);
        let time = self.out.paint(Tone::Dim, &format!("{:>3}.{:02}s", ms / 1_000, ms % 1_000 / 10));
        let what = self.out.paint(tone, &format!("{what:<10}"));
        self.out.line(ascii(&format!("{time}  {who:<8} {what}  {text}")).trim_end())
    }

    /// The same, of now.
    pub fn now(&self, who: &str, tone: Tone, what: &str, text: &str) -> Result {
        self.line(Time::now(), who, tone, what, text)
    }

    /// More about the line above.
    pub fn more(&self, text: &str) -> Result {
        let text = self.out.paint(Tone::Dim, &ascii(text));
        self.out.line(&format!("{:<19}{text}", ""))
    }

    /// Text beside the story.
    pub fn text(&self, text: &str) -> Result {
        text.split('\n').try_for_each(|line| self.out.line(&ascii(line)))
    }

    /// Text in the colour of its meaning.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        self.out.paint(tone, text)
    }
}

/// A demo is watched on any terminal, and its output pasted anywhere.
fn ascii(text: &str) -> String {
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{1b}' | ' '..='~' => ascii.push(c),
            '…' => ascii.push_str("..."),
            '→' => ascii.push_str("->"),
            '×' => ascii.push('x'),
            _ => ascii.push('?'),
        }
    }
    ascii
}

/// Bytes as people say them.
pub fn mib(bytes: u64) -> String {
    format!("{}", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_can_be_shown_anywhere() {
        assert_eq!(ascii("a → b … 2 × ö\u{7}"), "a -> b ... 2 x ??");
        assert_eq!(mib(16 << 20), "16");
    }
}
