//! What the shell of a bench host is told.
//!
//! An ssh server takes one string and hands it to the user's shell. Ours is a
//! fixed script; whatever comes from the inventory is an argument of it,
//! quoted by `shlex`, and never part of the script.
//!
//! A program must not go on when nobody waits for it any more: a switch that
//! is thrown minutes later is thrown for the next holder. An ssh server kills
//! nothing when a connection is lost, but it closes the program's input. So
//! the script keeps the input for itself, as a line that is held at both
//! ends, and kills its process group when it is let go (ssh servers begin a
//! session, and with it a group, for each command). Where the connection dies
//! unseen, a clock does it.

/// What was printed before this, on either output, was the host's greeting: a
/// login shell reads files that may say anything.
pub const BEGIN: &str = "pitstop-begin:\n";
/// Stands at the end of what a program printed to its standard error, with
/// its exit code: a lost connection must not look like exit code 0.
pub const END: &str = "pitstop-exit:";
/// Stands in the place of the exit code where there is no such program.
pub const NONE: &str = "none";
/// The same where a file could not be taken.
pub const FILE: &str = "file";
/// Says that a line is open, and what it can do.
pub const OPEN: &str = "pitstop-open:";

/// Arguments: seconds, program, its arguments. What the program leaves in its
/// group is asked to end, and then ended: nothing acts behind an end that was told.
const RUN: &str = r#"exec 3<&0
printf 'pitstop-begin:\n'; printf 'pitstop-begin:\n' >&2
{ cat <&3; kill -s KILL 0; } >/dev/null 2>&1 &
{ sleep "$1"; kill -s KILL 0; } >/dev/null 2>&1 3<&- &
shift
if ! command -v "$1" >/dev/null; then printf '\npitstop-exit:none\n' >&2; exit; fi
LC_ALL=C; export LC_ALL
"$@" </dev/null 3<&-
code=$?
trap '' TERM
kill -s TERM 0
printf '\npitstop-exit:%s\n' "$code" >&2
kill -s KILL 0"#;

/// Arguments: seconds, a directory (or nothing), how many files, name and bytes
/// of each, program, its arguments. The files come on the input, and then
/// nothing: it ends when that does. (`head -c` of BusyBox reads more than it
/// writes, and the next file's beginning with it.)
const ERRAND: &str = r#"exec 3<&0
printf 'pitstop-begin:\n'; printf 'pitstop-begin:\n' >&2
home=$2
gone() { if [ -n "$home" ]; then rm -rf "$home"; fi; }
take() { dd bs=4096 count=$(($1 / 4096)) iflag=fullblock status=none && dd bs=1 count=$(($1 % 4096)) status=none; }
end() { gone; trap '' TERM; kill -s TERM 0; printf '\npitstop-exit:%s\n' "$1" >&2; kill -s KILL 0; }
{ sleep "$1"; gone; kill -s KILL 0; } >/dev/null 2>&1 3<&- &
files=$3
shift 3
mask=$(umask)
umask 077
if [ -n "$home" ] && ! mkdir "$home"; then home=; end file; fi
while [ "$files" -gt 0 ]; do
    if ! take "$2" <&3 >"$home/$1" || [ "$(wc -c <"$home/$1")" -ne "$2" ]; then end file; fi
    shift 2
    files=$((files - 1))
done
umask "$mask"
{ cat <&3; gone; kill -s KILL 0; } >/dev/null 2>&1 &
if ! command -v "$1" >/dev/null; then end none; fi
LC_ALL=C; export LC_ALL
"$@" </dev/null 3<&-
end $?"#;

/// Arguments: program, its arguments.
const TALK: &str = r#"exec 3<&0
printf 'pitstop-begin:\n'; printf 'pitstop-begin:\n' >&2
printf 'pitstop-open:\n' >&2
{ cat <&3; kill -s KILL 0; } | { "$@" 3<&-; kill -s KILL 0; }"#;

/// Arguments: device (or `usb:` and an interface), baud, `crtscts` or
/// `-crtscts`.
const SERIAL: &str = r#"exec 3<&0
printf 'pitstop-begin:\n'; printf 'pitstop-begin:\n' >&2
dev=$1
case $dev in
usb:*)
    dir=/sys/bus/usb/devices/${dev#usb:}
    for found in "$dir"/tty?* "$dir"/tty/tty?*; do
        if [ -e "$found" ]; then dev=/dev/${found##*/}; break; fi
    done ;;
esac
if [ ! -c "$dev" ]; then echo "there is no serial port ${dev#usb:}: is it plugged in?" >&2; exit 1; fi
stty -F "$dev" clocal || exit
exec 9<>"$dev" || exit
if command -v flock >/dev/null && ! flock -n 9; then echo "$dev is in use by somebody else" >&2; exit 1; fi
stty -F "$dev" raw -echo cs8 -cstopb -parenb clocal cread "$3" "$2" || exit
break=
for program in python3 perl; do
    if command -v $program >/dev/null; then break=$program; break; fi
done
printf 'pitstop-open:%s %s\n' "$break" "$dev" >&2
{ cat <&9; kill -s KILL 0; } 3<&- &
cat <&3 >&9
kill -s KILL 0"#;

/// The command for the ssh server.
///
/// # Errors
/// An argument has a NUL byte, which no program can be given.
fn command<'a>(script: &'a str, args: impl IntoIterator<Item = &'a str>) -> Result<String, String> {
    let words = ["exec", "sh", "-c", script, "pitstop"].into_iter().chain(args);
    shlex::try_join(words).map_err(|e| e.to_string())
}

/// Runs a program for at most so many seconds.
pub fn run(argv: &[String], seconds: u64) -> Result<String, String> {
    let seconds = seconds.to_string();
    command(RUN, [seconds.as_str()].into_iter().chain(argv.iter().map(String::as_str)))
}

/// Runs a program for at most so many seconds, with files of these names and
/// lengths in a directory that is made for it.
pub fn errand(
    seconds: u64,
    home: &str,
    files: &[(String, u64)],
    argv: &[String],
) -> Result<Vec<String>, String> {
    let files = files.iter().flat_map(|(name, bytes)| [name.clone(), bytes.to_string()]);
    let fixed = ["sh", "-c", ERRAND, "pitstop"].map(str::to_owned).into_iter();
    let first = [seconds.to_string(), home.to_owned(), (files.clone().count() / 2).to_string()];
    let all: Vec<String> = fixed.chain(first).chain(files).chain(argv.iter().cloned()).collect();
    match all.iter().any(|word| word.contains('\0')) {
        true => Err("an argument has a NUL byte, which no program can be given".to_owned()),
        false => Ok(all),
    }
}

/// A command of words for the ssh server.
pub fn line(argv: &[String]) -> Result<String, String> {
    let words = std::iter::once("exec").chain(argv.iter().map(String::as_str));
    shlex::try_join(words).map_err(|e| e.to_string())
}

/// Runs a program that is talked to.
pub fn talk(argv: &[String]) -> Result<String, String> {
    command(TALK, argv.iter().map(String::as_str))
}

/// Opens a serial port.
pub fn serial(device: &str, baud: u32, rtscts: bool) -> Result<String, String> {
    let flow = if rtscts { "crtscts" } else { "-crtscts" };
    command(SERIAL, [device, &baud.to_string(), flow])
}

/// The program that sends a break on a port that is open already, by the
/// interpreter that the host has (tcsendbreak(3)).
pub fn send_break(interpreter: &str, device: &str) -> Vec<String> {
    let (flag, code) = match interpreter {
        "perl" => (
            "-e",
            "use POSIX; use Fcntl; sysopen(my $f, $ARGV[0], O_RDWR | O_NOCTTY) or die $!; \
             POSIX::tcsendbreak(fileno($f), 0) or die $!;",
        ),
        _ => (
            "-c",
            "import os, sys, termios; \
             termios.tcsendbreak(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY), 0)",
        ),
    };
    [interpreter, flag, code, device].map(str::to_owned).to_vec()
}
