//! Where output goes and how it looks.

use super::fail::Fail;
use super::table::Table;
use pitstop_wire::ApiError;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For people with wide screens.
    Wide,
    /// One document.
    Json,
    /// One object per line.
    Jsonl,
    /// Comma-separated, with a header.
    Csv,
    /// Names only.
    Name,
    /// The bytes themselves, whatever they do to a terminal: consoles.
    Raw,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A colour by meaning; the words are always there as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// In use (blue).
    Used,
    /// Under way (yellow).
    Busy,
    /// Wants a person (red).
    Bad,
    /// Out of the way (grey).
    Dim,
}

/// The output of one command.
#[derive(Debug, Clone)]
pub struct Out {
    /// How data is printed.
    pub format: Format,
    /// Whether stdout gets colours.
    pub color: bool,
    /// Whether marks must be ASCII.
    pub ascii: bool,
    /// Width of the terminal on stdout; `None`: not a terminal.
    pub width: Option<u16>,
    /// Whether stderr is a terminal, on which a line may be redrawn.
    pub live: bool,
    /// Whether a person can be asked.
    pub can_ask: bool,
}

impl Out {
    /// As arguments, environment and terminals say.
    pub fn new(format: Format, color: Color) -> Self {
        let said = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let forced: Option<u16> = std::env::var("PITSTOP_FORCE_TTY").ok().and_then(|w| w.parse().ok());
        let terminal = std::io::stdout().is_terminal();
        let width = forced.or_else(|| terminal.then(terminal_width));
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if said("NO_COLOR") => false,
            Color::Auto => width.is_some() || said("CLICOLOR_FORCE"),
        };
        let live = std::io::stderr().is_terminal();
        Self {
            format,
            color,
            ascii: said("PITSTOP_ASCII"),
            width,
            live,
            can_ask: live && std::io::stdin().is_terminal(),
        }
    }

    /// Whether output is for people.
    pub fn human(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// One line of data.
    pub fn line(&self, text: &str) -> Result<(), Fail> {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{text}")?;
        Ok(())
    }

    /// One line of talk. A stderr that is gone is nobody to talk to.
    pub fn say(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// A line of talk that the next one replaces on a terminal.
    pub fn redraw(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
    }

    /// One object: as a document, or by `human` for people.
    pub fn object<T: Serialize>(
        &self,
        object: &T,
        name: &str,
        human: impl FnOnce(&Self) -> Result<(), Fail>,
    ) -> Result<(), Fail> {
        match self.format {
            Format::Json | Format::Jsonl => self.json(object),
            // Refused before anything was done.
            Format::Csv => Err(Fail::usage("one thing is no list: -o json")),
            Format::Name => self.line(name),
            Format::Table | Format::Wide | Format::Raw => human(self),
        }
    }

    /// One JSON document on a line, or indented for a terminal.
    pub fn json<T: Serialize>(&self, object: &T) -> Result<(), Fail> {
        let text = match self.format {
            Format::Json if self.width.is_some() => serde_json::to_string_pretty(object)?,
            _ => serde_json::to_string(object)?,
        };
        self.line(&text)
    }

    /// Many objects of a kind: `document` is all of them with their schema.
    pub fn list<T: Serialize, D: Serialize>(
        &self,
        document: &D,
        items: &[T],
        table: &Table<T>,
    ) -> Result<(), Fail> {
        match self.format {
            Format::Json => self.json(document),
            Format::Jsonl => items.iter().try_for_each(|item| self.json(item)),
            Format::Csv => self.lines(&table.csv(items)),
            Format::Name => items.iter().try_for_each(|item| self.line(&(table.name)(item))),
            Format::Table | Format::Wide | Format::Raw => self.lines(&table.text(items, self)),
        }
    }

    fn lines(&self, text: &str) -> Result<(), Fail> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(())
    }

    /// Text in the colour of its meaning.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.color => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Used => "34",
            Tone::Busy => "33",
            Tone::Bad => "31",
            Tone::Dim => "90",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// An error on stderr: one JSON object where JSON was asked for.
    pub fn error(&self, error: &ApiError) {
        if matches!(self.format, Format::Json | Format::Jsonl)
            && let Ok(text) = serde_json::to_string(error)
        {
            return self.say(&text);
        }
        self.say(&format!("pitstop: {}", printable(&error.message)));
        for line in error.hint.iter().flat_map(|hint| hint.lines()) {
            self.say(&format!("  {}", printable(line)));
        }
    }
}

/// Messages may quote what machines or other people wrote.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

fn terminal_width() -> u16 {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .map(|size| size.ws_col)
        .ok()
        .filter(|w| *w > 0)
        .unwrap_or(80)
}

#[cfg(test)]
impl Out {
    /// Not a terminal, no colours.
    pub fn plain(format: Format) -> Self {
        Self { format, color: false, ascii: false, width: None, live: false, can_ask: false }
    }
}
