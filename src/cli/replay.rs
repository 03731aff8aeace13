//! `pitstop replay`: steps through what the simulator wrote down.

use super::out::printable;
use super::{Context, Fail, Result};
use pitstop_core::simulator::{Entry, Header};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};

pub const HELP: &str = "Examples
  pitstop-simulate --seed 7 --json-trace run.jsonl
  pitstop replay run.jsonl

On a terminal it shows one happening at a time:
  Enter    the next one
  n N      the next N
  /TEXT    on to the next one that says TEXT; / alone: the same again
  s        every machine and reservation as it is now
  q        enough
Elsewhere it prints all of them.";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A trace of pitstop-simulate --json-trace.
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
}

/// A trace, and how far one has come.
struct Replay {
    header: Header,
    entries: Vec<Entry>,
    next: usize,
    /// Machines and reservations as of the last entry shown.
    states: BTreeMap<String, String>,
    wanted: String,
}

/// What is typed.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Next(usize),
    Find(String),
    States,
    Quit,
}

pub fn run(_: &mut Context, args: &Args) -> Result {
    let mut replay = Replay::read(&args.trace)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", replay.title())?;
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return replay.show(usize::MAX, &mut out);
    }
    for line in std::io::stdin().lock().lines() {
        match order(&line.map_err(|e| Fail::internal(format!("cannot read what is typed: {e}")))?) {
            Ok(Order::Next(n)) => replay.show(n, &mut out)?,
            Ok(Order::Find(text)) => replay.find(&text, &mut out)?,
            Ok(Order::States) => replay.show_states(&mut out)?,
            Ok(Order::Quit) => return Ok(()),
            Err(what) => writeln!(out, "{what}: Enter, n N, /TEXT, s or q")?,
        }
        if replay.next == replay.entries.len() {
            writeln!(out, "the end")?;
            return Ok(());
        }
        write!(out, "{}/{} > ", replay.next, replay.entries.len())?;
        out.flush()?;
    }
    Ok(())
}

fn order(line: &str) -> std::result::Result<Order, String> {
    let line = line.trim();
    match line.split_once(' ').unwrap_or((line, "")) {
        ("" | "n", "") => Ok(Order::Next(1)),
        ("n", n) => n.trim().parse().map(Order::Next).map_err(|_| format!("`{n}` is no number")),
        ("s", "") => Ok(Order::States),
        ("q", "") => Ok(Order::Quit),
        _ => match line.strip_prefix('/') {
            Some(text) => Ok(Order::Find(text.to_owned())),
            None => Err(format!("`{line}` means nothing here")),
        },
    }
}

impl Replay {
    fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let bad = |what: String| {
            Fail::usage(format!("{shown}: {what}"))
                .hint("pitstop-simulate --seed N --json-trace FILE makes one")
        };
        let file = std::fs::File::open(path).map_err(|e| bad(e.to_string()))?;
        let mut lines = BufReader::new(file).lines().enumerate();
        let header = match lines.next() {
            Some((_, Ok(line))) => serde_json::from_str::<Header>(&line),
            _ => return Err(bad("it is empty".into())),
        };
        let header = header.map_err(|e| bad(format!("this is no trace: {e}")))?;
        let mut entries = Vec::new();
        for (n, line) in lines {
            let line = line.map_err(|e| bad(e.to_string()))?;
            entries.push(serde_json::from_str(&line).map_err(|e| bad(format!("line {}: {e}", n + 1)))?);
        }
        Ok(Self { header, entries, next: 0, states: BTreeMap::new(), wanted: String::new() })
    }

    fn title(&self) -> String {
        let Header { seed, machines, clients, span, without, left_out, .. } = &self.header;
        let without = without.as_ref().map(|f| format!(", without the fence {f}")).unwrap_or_default();
        let left_out = if *left_out > 0 { format!(", {left_out} things left out") } else { String::new() };
        format!(
            "seed {seed}: {machines} machines, {clients} clients, {} h{without}{left_out}; {} happenings",
            span / 3_600_000,
            self.entries.len()
        )
    }

    /// Goes on by `count` happenings, showing each.
    fn show(&mut self, count: usize, out: &mut impl Write) -> Result {
        let to = self.next.saturating_add(count).min(self.entries.len());
        for entry in &self.entries[self.next..to] {
            writeln!(out, "{}", printable(&entry.to_string()))?;
            remember(&mut self.states, entry);
        }
        self.next = to;
        Ok(())
    }

    /// Goes on to the next happening that says `text`.
    fn find(&mut self, text: &str, out: &mut impl Write) -> Result {
        if !text.is_empty() {
            text.clone_into(&mut self.wanted);
        }
        let says = |e: &Entry| e.to_string().contains(&self.wanted);
        let Some(passed) = self.entries[self.next..].iter().position(says) else {
            writeln!(out, "no later happening says `{}`", self.wanted)?;
            return Ok(());
        };
        for entry in &self.entries[self.next..self.next + passed] {
            remember(&mut self.states, entry);
        }
        self.next += passed;
        self.show(1, out)
    }

    fn show_states(&self, out: &mut impl Write) -> Result {
        for (name, state) in &self.states {
            writeln!(out, "  {name}: {}", printable(state))?;
        }
        Ok(())
    }
}

fn remember(states: &mut BTreeMap<String, String>, entry: &Entry) {
    for (name, state) in &entry.states {
        match state.is_empty() {
            true => drop(states.remove(name)),
            false => drop(states.insert(name.clone(), state.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_core::simulator::{Config, run};
    use std::fs;

    fn trace() -> (tempfile::TempDir, PathBuf, usize) {
        let config = Config { trace: true, span: 600_000, ..Config::short(3) };
        let report = run(&config);
        let mut lines = vec![serde_json::to_string(&Header::of(&config)).unwrap()];
        lines.extend(report.trace.iter().map(|e| serde_json::to_string(e).unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.jsonl");
        fs::write(&path, lines.join("\n")).unwrap();
        (dir, path, report.trace.len())
    }

    #[test]
    fn a_trace_is_stepped_through() {
        let (_dir, path, length) = trace();
        let mut replay = Replay::read(&path).unwrap();
        assert!(replay.title().starts_with("seed 3: "), "{}", replay.title());
        let mut out = Vec::new();
        replay.find("PowerIntended", &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("PowerIntended"));
        let at = replay.next;
        replay.find("", &mut Vec::new()).unwrap();
        assert!(replay.next > at, "the same again is not the next one");
        assert!(replay.states.keys().any(|n| n == "m0"), "{:?}", replay.states);
        replay.show(usize::MAX, &mut Vec::new()).unwrap();
        assert_eq!(replay.next, length);
    }

    #[test]
    fn what_is_typed_is_understood() {
        assert_eq!(order(""), Ok(Order::Next(1)));
        assert_eq!(order("n 20"), Ok(Order::Next(20)));
        assert_eq!(order("/m0 is"), Ok(Order::Find("m0 is".into())));
        assert_eq!(order("s"), Ok(Order::States));
        assert_eq!(order("q"), Ok(Order::Quit));
        assert!(order("x").is_err() && order("n many").is_err());
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "{}\n").unwrap();
        assert!(Replay::read(&path).is_err());
        assert!(Replay::read(&dir.path().join("missing")).is_err());
    }
}
