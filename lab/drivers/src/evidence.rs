//! What shows that a machine is up that runs no agent of ours.

use crate::address;
use crate::child::first_line;
use crate::error::{DriverError, Task};
use crate::power::programs::{self, HOST, Programs, TIMEOUT};
use crate::site::Site;
use pitstop_core::inventory::DriverSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema};
use regex::Regex;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;

const PORT: u16 = 22;
/// How long an ssh server may take to say who it is.
const GREETING: Duration = Duration::from_secs(5);
/// The longest line it may do that with (RFC 4253, section 4.2).
const LONGEST: u64 = 255;

const WITHIN: FieldSchema = FieldSchema::optional(
    "within",
    FieldKind::Duration,
    "how long that may take, besides the `timeout.power` that the power-on may take; `timeout.firmware` and \
     `timeout.evidence` together unless said",
);

/// `ready.console`
pub const CONSOLE: DriverSchema = DriverSchema {
    name: "console",
    fields: &[
        FieldSchema::optional(
            "console",
            FieldKind::ConsoleRef,
            "which console; `main`, or else the first, unless said",
        ),
        FieldSchema::required(
            "line",
            FieldKind::Raw,
            "regular expression that a line fits, colours left out",
        ),
        WITHIN,
    ],
    ..DriverSchema::EMPTY
};

/// `ready.ssh`
pub const SSH: DriverSchema = DriverSchema {
    name: "ssh",
    fields: &[
        FieldSchema::required(
            "address",
            FieldKind::Address { port: Some(PORT) },
            "where its ssh server answers; nobody logs in",
        ),
        WITHIN,
    ],
    ..DriverSchema::EMPTY
};

/// `ready.command`
pub const COMMAND: DriverSchema = DriverSchema {
    name: "command",
    fields: &[
        FieldSchema::required(
            "run",
            FieldKind::Argv(&[]),
            "run again and again until it ends with exit code 0",
        ),
        TIMEOUT,
        HOST,
        WITHIN,
    ],
    ..DriverSchema::EMPTY
};

/// What is to be seen of a machine that is up.
pub enum Evidence {
    /// A line on a console.
    Line {
        /// The console's name.
        console: String,
        /// What the line fits.
        line: Regex,
    },
    /// Something that is asked until it says so.
    Asked(Arc<dyn Ask>),
}

/// Something that can be asked whether a machine is up.
pub trait Ask: Send + Sync {
    /// Asks once. `None`: not yet.
    fn ask(&self) -> Task<'_, Option<String>>;
}

impl Evidence {
    /// What the machine's `ready` says.
    ///
    /// # Errors
    /// It cannot be; permanent.
    pub fn of(site: &Site) -> Result<Self, DriverError> {
        let spec = &site.spec.ready;
        match spec.driver.as_str() {
            "console" => line(site, spec),
            "ssh" => {
                let given = spec.text("address").unwrap_or_default();
                let target = address::split(given);
                let target = target.ok_or_else(|| wrong(site, format!("`{given}` is no address")))?;
                Ok(Self::Asked(Arc::new(Ssh { machine: site.name().to_owned(), target })))
            }
            "command" => {
                let run = programs::argv(spec, "run");
                let run = run.ok_or_else(|| wrong(site, "`run` names no program".to_owned()))?;
                let programs = Programs::new("ready.command", site, spec)?;
                Ok(Self::Asked(Arc::new(Program { programs, run })))
            }
            other => Err(wrong(site, format!("nothing watches for `ready.{other}`"))),
        }
    }
}

fn wrong(site: &Site, what: String) -> DriverError {
    DriverError::in_inventory("ready", format!("see whether {} is up", site.name()), what)
}

fn line(site: &Site, spec: &DriverSpec) -> Result<Evidence, DriverError> {
    let text = spec.text("line").unwrap_or_default();
    let line = Regex::new(text).map_err(|e| wrong(site, format!("`line` is no regular expression: {e}")))?;
    let consoles = &site.spec.consoles;
    let usual =
        || consoles.get_key_value("main").or_else(|| consoles.first_key_value()).map(|(name, _)| name);
    let console = spec.text("console").map(str::to_owned).or_else(|| usual().cloned());
    let console = console.ok_or_else(|| wrong(site, "it has no console".to_owned()))?;
    Ok(Evidence::Line { console, line })
}

/// Whether an ssh server answers. Who it is cannot matter: a fresh system has
/// a fresh key. That it is this boot's follows from the machine having been
/// off before.
struct Ssh {
    machine: String,
    target: (String, u16),
}

impl Ssh {
    async fn greeting(&self) -> std::io::Result<String> {
        let (host, port) = &self.target;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        let mut line = String::new();
        BufReader::new(stream.take(LONGEST)).read_line(&mut line).await?;
        Ok(line)
    }
}

impl Ask for Ssh {
    fn ask(&self) -> Task<'_, Option<String>> {
        Box::pin(async {
            match tokio::time::timeout(GREETING, self.greeting()).await {
                Ok(Ok(line)) if line.starts_with("SSH-") => {
                    Ok(Some(format!("its ssh server answers: {}", first_line(&line))))
                }
                Ok(Ok(_)) | Err(_) => Ok(None),
                Ok(Err(e)) => {
                    let (host, port) = &self.target;
                    let attempted = format!("reach {} at {host}:{port}", self.machine);
                    Err(DriverError::new("ready.ssh", attempted, e))
                }
            }
        })
    }
}

struct Program {
    programs: Programs,
    run: Vec<String>,
}

impl Ask for Program {
    fn ask(&self) -> Task<'_, Option<String>> {
        Box::pin(async {
            let name = self.run.first().map_or("", String::as_str);
            let ran = self.programs.run(&format!("run {name}"), &self.run).await?;
            Ok(ran.status.success().then(|| format!("{name} says: {}", first_line(&ran.out))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{driver, leg, none, site};
    use pitstop_core::inventory::MachineSpec;
    use serde_json::{Value, json};
    use std::io::Write as _;
    use std::path::Path;

    fn ready(dir: &Path, name: &str, fields: Value, consoles: bool) -> Result<Evidence, DriverError> {
        let console = consoles.then(|| driver("unix", none()));
        let site = site(dir, leg(driver("none", none())), console, driver("power", none()));
        let spec = MachineSpec { ready: driver(name, fields), ..(*site.spec).clone() };
        Evidence::of(&Site { spec: Arc::new(spec), ..site })
    }

    fn asked(evidence: Result<Evidence, DriverError>) -> Arc<dyn Ask> {
        match evidence {
            Ok(Evidence::Asked(asked)) => asked,
            _ => panic!("nothing to ask"),
        }
    }

    #[tokio::test]
    async fn an_ssh_server_is_up_when_it_says_so_and_not_when_something_listens() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ssh = asked(ready(dir.path(), "ssh", json!({"address": listener.local_addr().unwrap()}), false));
        let says = |text: &'static str| {
            let listener = listener.try_clone().unwrap();
            std::thread::spawn(move || listener.accept().unwrap().0.write_all(text.as_bytes()).unwrap())
        };
        let saying = says("HTTP/1.1 400 Bad Request\r\n");
        assert_eq!(ssh.ask().await.unwrap(), None);
        saying.join().unwrap();
        let saying = says("SSH-2.0-OpenSSH_9.2\r\n");
        assert!(ssh.ask().await.unwrap().unwrap().contains("OpenSSH_9.2"));
        saying.join().unwrap();
        drop(listener);
        ssh.ask().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_program_is_asked_until_it_says_yes() {
        let dir = tempfile::tempdir().unwrap();
        let up = dir.path().join("up");
        let fields = json!({"run": ["sh", "-c", "test -e $0 && echo here", up]});
        let program = asked(ready(dir.path(), "command", fields, false));
        assert_eq!(program.ask().await.unwrap(), None);
        std::fs::write(&up, "").unwrap();
        assert!(program.ask().await.unwrap().unwrap().contains("here"));
    }

    #[test]
    fn what_cannot_be_seen_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, fields, consoles) in [
            ("console", json!({"line": "("}), true),
            ("console", json!({"line": "x"}), false),
            ("command", json!({"run": []}), false),
            ("ssh", json!({"address": "x"}), false),
        ] {
            assert!(
                ready(dir.path(), name, fields.clone(), consoles).err().unwrap().permanent,
                "{name} {fields}"
            );
        }
        let Ok(Evidence::Line { console, .. }) = ready(dir.path(), "console", json!({"line": "x"}), true)
        else {
            panic!()
        };
        assert_eq!(console, "main");
    }
}
