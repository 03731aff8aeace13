//! `pitstop console`: watch a machine's serial line, search what it said, or
//! type on it.

mod escape;
mod filter;
mod grep;
mod hex;
mod keys;
mod show;
mod stamp;
mod terminal;

use super::fail::Fail;
use super::out::Format;
use super::{Context, Result};
use filter::{Filter, Keep};
use hex::Hex;
use pitstop_wire::MachineName;
use pitstop_wire::api::ConsoleRequest;
use regex::bytes::Regex;
use show::Painted;
use stamp::Stamps;
use std::io::IsTerminal as _;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine, `M:NAME` for another console than its first; yours if
    /// there is only one.
    #[arg(value_name = "MACHINE[:CONSOLE]")]
    machine: Option<String>,
    /// Take the keyboard; one at a time, holders only.
    #[arg(short, long, conflicts_with = "no_follow")]
    write: bool,
    /// Take it from whoever has it.
    #[arg(long)]
    steal: bool,
    /// Why, for everybody on the console to read.
    #[arg(long, value_name = "TEXT", requires = "steal")]
    reason: Option<String>,
    /// Begin at the last power-on, where the machine was given to you, so long ago, or so many bytes back. Unless
    /// said: one screen on a terminal, else `boot`.
    #[arg(long, value_name = "boot|reserve|5m|BYTES", value_parser = since)]
    since: Option<Since>,
    /// Begin so many lines back.
    #[arg(long, value_name = "N", conflicts_with = "since")]
    lines: Option<u32>,
    /// Begin at the oldest byte that is kept.
    #[arg(long, conflicts_with_all = ["since", "lines"])]
    all: bool,
    /// End after the replay.
    #[arg(long)]
    no_follow: bool,
    /// Print the lines that match, of all that is kept or since then, and end. 1: there are none.
    #[arg(long, value_name = "RE", value_parser = Regex::new, conflicts_with_all = ["write", "steal"])]
    grep: Option<Regex>,
    /// In front of each line when it was said, to a second.
    #[arg(long, conflicts_with_all = ["write", "steal", "send_break", "sysrq"])]
    timestamps: bool,
    /// Positions, bytes and characters, as `hexdump -C` has them.
    #[arg(long, conflicts_with_all = ["write", "steal", "send_break", "sysrq"])]
    hex: bool,
    /// Send a break, and end.
    #[arg(long = "break", conflicts_with_all = ["write", "grep", "sysrq"])]
    send_break: bool,
    /// Send a break and this key, and end: `t` has a Linux kernel list its tasks, `b` reboot.
    #[arg(long, value_name = "KEY", value_parser = sysrq, conflicts_with_all = ["write", "grep"])]
    sysrq: Option<char>,
    /// The key that, at a line's beginning, begins what is for pitstop itself; or `none`.
    #[arg(long, value_name = "KEY|none", default_value = "~", value_parser = escape_key)]
    escape: EscapeKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Boot,
    Reserve,
    Ago(Duration),
    Bytes(u64),
}

fn since(text: &str) -> std::result::Result<Since, String> {
    match text {
        "boot" => Ok(Since::Boot),
        "reserve" => Ok(Since::Reserve),
        other => other.parse().map(Since::Bytes).or_else(|_| {
            super::times::duration(other).map(Since::Ago).map_err(|e| {
                format!("`{text}` is none of `boot`, `reserve`, a time ago, a number of bytes: {e}")
            })
        }),
    }
}

/// Keys that the kernel knows are letters and digits.
fn sysrq(text: &str) -> std::result::Result<char, String> {
    match text.chars().collect::<Vec<_>>()[..] {
        [key] if key.is_ascii_alphanumeric() => Ok(key),
        _ => Err(format!("`{text}` is no key: one letter or digit, as in `--sysrq t`")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EscapeKey(Option<u8>);

fn escape_key(text: &str) -> std::result::Result<EscapeKey, String> {
    match text.as_bytes() {
        b"none" => Ok(EscapeKey(None)),
        [key] if key.is_ascii_graphic() && !b".?bwtr".contains(key) => Ok(EscapeKey(Some(*key))),
        _ => Err(format!("`{text}` is no key that could be one: `~`, `^`, `none`")),
    }
}

/// How the bytes are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    timestamps: bool,
    hex: bool,
}

impl Look {
    /// As asked for, if the format can do that.
    fn of(args: &Args, format: Format) -> std::result::Result<Self, Fail> {
        let Args { timestamps, hex, .. } = *args;
        match format {
            Format::Raw if timestamps || hex => {
                let option = if hex { "--hex" } else { "--timestamps" };
                Err(Fail::usage(format!("-o raw is the bytes as they came, without anything: no {option}")))
            }
            Format::Json | Format::Jsonl if hex => {
                Err(Fail::usage("--hex is for people: JSON has the positions and the lines themselves"))
            }
            _ => Ok(Self { timestamps, hex }),
        }
    }
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let look = Look::of(args, cx.out.format)?;
    let (machine, console) =
        match args.machine.as_deref().map(|m| m.split_once(':').map_or((m, None), |(m, c)| (m, Some(c)))) {
            Some((machine, console)) => (Some(machine), console),
            None => (None, None),
        };
    let machine = super::pick::machine(cx, machine).await?;
    let (console, reason) = (console.map(str::to_owned), args.reason.clone());
    let ask = ConsoleRequest { console, reason, times: look.timestamps, ..Default::default() };
    if let Some(pattern) = &args.grep {
        return grep::run(
            cx,
            &machine,
            ConsoleRequest { no_follow: true, ..replay(args, ask, None) },
            pattern,
            look,
        )
        .await;
    }
    if args.send_break || args.sysrq.is_some() {
        return keys::send(cx, &machine, ConsoleRequest { steal: args.steal, ..ask }, args.sysrq).await;
    }
    if args.steal && !args.write {
        return Err(Fail::usage("--steal takes the keyboard: with --write, --break or --sysrq"));
    }
    let ask = ConsoleRequest {
        write: args.write,
        steal: args.steal,
        no_follow: args.no_follow,
        ..replay(args, ask, screen(args.no_follow))
    };
    attach(cx, args, look, &machine, ask).await
}

async fn attach(cx: &Context, args: &Args, look: Look, machine: &MachineName, ask: ConsoleRequest) -> Result {
    let link = cx.client.console(machine, ask).await?;
    let interactive = args.write && std::io::stdin().is_terminal();
    let signals = if interactive { Some(terminal::signals()?) } else { None };
    let raw = if interactive { Some(terminal::Raw::on()?) } else { None };
    let painted = match cx.out.format {
        Format::Raw => Painted::Raw,
        _ if look.hex => Painted::Hex(Hex::default(), look.timestamps.then(Stamps::default)),
        // What moves about on a screen has no lines.
        _ if look.timestamps => Painted::Stamped(Filter::new(Keep::Words), Stamps::default()),
        _ if std::io::stdout().is_terminal() => Painted::Filtered(Filter::new(Keep::Paint)),
        _ => Painted::Filtered(Filter::new(Keep::Words)),
    };
    let show = show::Show::new(cx, machine, raw.is_some(), args.escape.0, painted);
    show.follow(link, args.write.then(keys::read), signals).await
}

/// Lines of the terminal that is followed on.
fn screen(no_follow: bool) -> Option<u32> {
    let follows = !no_follow && std::io::stdout().is_terminal();
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok().filter(|_| follows)?;
    Some(u32::from(size.ws_row)).filter(|rows| *rows > 1)
}

/// Where the replay begins; by default `screen` lines back, for a search at
/// the oldest byte, else at the last power-on.
fn replay(args: &Args, ask: ConsoleRequest, screen: Option<u32>) -> ConsoleRequest {
    let millis = |ago: Duration| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    match (args.since, args.lines.or(screen)) {
        _ if args.all => ConsoleRequest { all: true, ..ask },
        (Some(Since::Boot), _) => ConsoleRequest { since_boot: true, ..ask },
        (Some(Since::Reserve), _) => ConsoleRequest { since_reserve: true, ..ask },
        (Some(Since::Ago(ago)), _) => ConsoleRequest { since: Some(millis(ago)), ..ask },
        (Some(Since::Bytes(bytes)), _) => ConsoleRequest { last: Some(bytes), ..ask },
        (None, Some(lines)) => ConsoleRequest { lines: Some(lines), ..ask },
        (None, None) if args.grep.is_some() => ConsoleRequest { all: true, ..ask },
        (None, None) => ConsoleRequest { since_boot: true, ..ask },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_begins_at_boot_at_the_reservation_some_time_ago_or_some_bytes_back() {
        assert_eq!(since("boot"), Ok(Since::Boot));
        assert_eq!(since("reserve"), Ok(Since::Reserve));
        assert_eq!(since("5m"), Ok(Since::Ago(Duration::from_secs(300))));
        assert_eq!(since("4096"), Ok(Since::Bytes(4096)));
        assert!(since("yesterday").unwrap_err().contains("`boot`"));
    }

    #[test]
    fn what_is_shown_raw_has_neither_times_nor_offsets() {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            args: Args,
        }
        let look = |line: &str, format| {
            let alone =
                <Alone as clap::Parser>::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?;
            Look::of(&alone.args, format).map_err(|e| format!("{e:?}"))
        };
        let both = Look { timestamps: true, hex: true };
        assert_eq!(look("console m1 --timestamps --hex --lines 5", Format::Table), Ok(both));
        for options in ["--timestamps", "--hex", "--hex --grep x"] {
            let refused = look(&format!("console m1 {options}"), Format::Raw);
            assert!(refused.as_ref().is_err_and(|e| e.contains("-o raw")), "{refused:?}");
        }
        assert!(look("console m1 --hex --grep x", Format::Json).is_err());
        assert!(look("console m1 --timestamps --grep x", Format::Json).is_ok());
        assert!(look("console m1 --hex --write", Format::Table).is_err());
    }

    #[test]
    fn a_key_is_one_key() {
        assert_eq!(sysrq("t"), Ok('t'));
        assert!(sysrq("reboot").is_err() && sysrq("\r").is_err() && sysrq("").is_err());
        assert_eq!(escape_key("none"), Ok(EscapeKey(None)));
        assert_eq!(escape_key("^"), Ok(EscapeKey(Some(b'^'))));
        assert!(escape_key(".").is_err(), "what follows it would mean two things");
    }
}
