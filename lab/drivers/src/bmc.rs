//! A BMC over the network, asked by `ipmitool` (IPMI 2.0, RMCP+).
//!
//! What the BMC says goes by exit codes: ipmitool writes notes about optional
//! commands to its standard error even when all is well. Only when a command
//! failed is that text read, and only to explain it.

use crate::address;
use crate::child::{Program, Ran, RunError, first_line, shown};
use crate::error::DriverError;
use crate::secret::Place;
use crate::site::Site;
use pitstop_core::inventory::DriverSpec;
use pitstop_core::inventory::catalogue::{FieldKind, FieldSchema};
use pitstop_wire::agent::Secret;
use std::time::Duration;

/// Where BMCs listen (IPMI 2.0, section 13.1.2).
const PORT: u16 = 623;
/// The variable ipmitool's `-E` reads first: the daemon may have another one in its own environment.
pub const PASSWORD: &str = "IPMITOOL_PASSWORD";
/// How long one call may take: more than ipmitool needs to give up on a BMC
/// that does not answer, so that it says why.
const LIMIT: Duration = Duration::from_secs(13);

/// The fields that name a BMC and who asks it.
pub const ADDRESS: FieldSchema = FieldSchema::required(
    "address",
    ADDRESS_KIND,
    "the BMC: `srv1-bmc.lab`, or `srv1-bmc.lab:624` where it listens elsewhere",
);
/// See [`ADDRESS`].
pub const ADDRESS_KIND: FieldKind = FieldKind::Address { port: Some(PORT) };
/// See [`ADDRESS`].
pub const USER: FieldSchema =
    FieldSchema::optional("user", FieldKind::Text, "user of the BMC; the nameless one unless said");
/// See [`ADDRESS`].
pub const PASSWORD_FIELD: FieldSchema =
    FieldSchema::optional("password", FieldKind::Secret, "the user's password");
/// See [`ADDRESS`].
pub const CIPHER: FieldSchema = FieldSchema::optional(
    "cipher",
    FieldKind::Int { min: 0, max: 17 },
    "cipher suite, 3 or 17 as a rule; ipmitool asks the BMC unless said, which some never answer",
);
/// See [`ADDRESS`].
pub const PRIVILEGE: FieldSchema = FieldSchema::optional(
    "privilege",
    FieldKind::OneOf(&["user", "operator", "administrator"]),
    "privilege level that is asked for; administrator unless said",
);

/// A BMC, and as whom it is asked.
#[derive(Debug, Clone)]
pub struct Bmc {
    driver: &'static str,
    machine: String,
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<Place>,
    cipher: Option<i64>,
    privilege: Option<String>,
}

impl Bmc {
    /// The BMC that `spec` names.
    ///
    /// # Errors
    /// The address is none; permanent.
    pub fn of(driver: &'static str, site: &Site, spec: &DriverSpec) -> Result<Self, DriverError> {
        let wrong = |what: String| {
            DriverError::in_inventory(driver, format!("reach the BMC of {}", site.name()), what)
        };
        let address = spec.text("address").unwrap_or_default();
        let (host, port) =
            address::split(address).ok_or_else(|| wrong(format!("`{address}` is no address")))?;
        Ok(Self {
            driver,
            machine: site.name().to_owned(),
            host,
            port,
            user: spec.text("user").map(str::to_owned),
            password: Place::of(spec, "password"),
            cipher: spec.int("cipher"),
            privilege: spec.text("privilege").map(str::to_uppercase),
        })
    }

    /// How a failure about this machine begins.
    pub fn failed(&self, what: &str, answer: impl ToString) -> DriverError {
        DriverError::new(self.driver, format!("{what} {}", self.machine), answer)
    }

    /// ipmitool's arguments, up to the command itself.
    fn argv(&self, command: &[&str]) -> Vec<String> {
        let mut argv: Vec<String> = ["ipmitool", "-I", "lanplus", "-H"].map(str::to_owned).to_vec();
        let mut say = |words: &[&str]| argv.extend(words.iter().map(|w| (*w).to_owned()));
        // Three tries of a second: a session that does not come about is
        // begun anew by whoever waits for the result. `-v` tells why it did
        // not.
        say(&[&self.host, "-p", &self.port.to_string(), "-E", "-v", "-N", "1", "-R", "3"]);
        if let Some(user) = &self.user {
            say(&["-U", user]);
        }
        if let Some(cipher) = self.cipher {
            say(&["-C", &cipher.to_string()]);
        }
        if let Some(level) = &self.privilege {
            say(&["-L", level]);
        }
        say(command);
        argv
    }

    /// The program for a command, and the password it needs.
    ///
    /// # Errors
    /// The password cannot be read.
    pub async fn program(&self, what: &str, command: &[&str]) -> Result<(Vec<String>, Secret), DriverError> {
        let attempted = format!("{what} {}", self.machine);
        let password = match &self.password {
            Some(place) => place.read(self.driver, &attempted).await?,
            None => Secret(String::new()),
        };
        Ok((self.argv(command), password))
    }

    /// Runs one command in a session of its own. `what` is what it is for, as
    /// in "could not `switch on` srv1".
    ///
    /// # Errors
    /// It failed: with the BMC's reason where ipmitool gives one.
    pub async fn ask(&self, what: &str, command: &[&str]) -> Result<String, DriverError> {
        let (argv, password) = self.program(what, command).await?;
        let program = Program { argv: &argv, secret: Some((PASSWORD, &password)), limit: LIMIT };
        let ran = program.run().await.map_err(|e| self.not_run(what, &e))?;
        if ran.status.success() { Ok(ran.out) } else { Err(self.explain(what, &ran)) }
    }

    /// ipmitool did not come to an end.
    pub fn not_run(&self, what: &str, error: &RunError) -> DriverError {
        match error {
            RunError::Start(e) => {
                let error = self.failed(what, format!("ipmitool cannot be started: {e}"));
                if crate::child::never_starts(e) { error.permanent().next("install ipmitool") } else { error }
            }
            RunError::Late(_) => self.failed(what, format!("ipmitool was {error}")).next(self.look()),
            RunError::Wait(_)
            | RunError::Busy(_)
            | RunError::Host(_)
            | RunError::Source(_)
            | RunError::Store(_) => self.failed(what, error),
        }
    }

    fn look(&self) -> String {
        format!("is the BMC {} up, and reachable at UDP port {}?", self.host, self.port)
    }

    fn explain(&self, what: &str, ran: &Ran) -> DriverError {
        self.said(what, &format!("{}\n{}", ran.err, ran.out))
    }

    /// A failure in ipmitool's words, and what it means.
    pub fn said(&self, what: &str, words: &str) -> DriverError {
        let lower = words.to_lowercase();
        let fault = FAULTS.iter().find(|fault| lower.contains(fault.says));
        let Some(fault) = fault else {
            let line = words.lines().map(str::trim).rfind(|line| !noise(line));
            return self.failed(what, line.map_or_else(|| first_line(words), shown)).next(self.look());
        };
        let error = self.failed(what, fault.means);
        let error = match fault.next {
            Some(next) => error.next(next),
            None => error.next(self.look()),
        };
        if fault.permanent { error.permanent() } else { error }
    }
}

/// Lines that ipmitool writes whether or not something is wrong.
fn noise(line: &str) -> bool {
    const NOISE: [&str; 6] = [
        "Loading IANA",
        "Running Get",
        "Get HPM.x",
        "Discovered IPMB",
        "tcgetattr",
        "Invalid completion code",
    ];
    line.is_empty() || NOISE.iter().any(|start| line.starts_with(start))
}

/// What ipmitool says in lower case, and what it means.
struct Fault {
    says: &'static str,
    means: &'static str,
    /// `None`: look whether it is there at all.
    next: Option<&'static str>,
    permanent: bool,
}

/// In the order of what explains most: the general "unable to establish" follows each of the others.
const FAULTS: &[Fault] = &[
    Fault {
        says: "rakp 2 hmac is invalid",
        means: "the BMC does not take the password",
        next: Some("is the password the one set in the BMC? some keep only its first 16 or 20 bytes"),
        permanent: true,
    },
    Fault {
        says: "unauthorized name",
        means: "the BMC has no such user, or not with this privilege",
        next: Some("`user` and `privilege` in the inventory must be what the BMC has"),
        permanent: true,
    },
    Fault {
        says: "insufficient privilege level",
        means: "the BMC's user may not do that",
        next: Some("give the user operator privilege in the BMC"),
        permanent: true,
    },
    Fault {
        says: "invalid authentication algorithm",
        means: "the BMC does not know this cipher suite",
        next: Some("set `cipher`: 17 on newer BMCs, 3 on older ones"),
        permanent: true,
    },
    Fault {
        says: "insufficient resources",
        means: "the BMC has no session left",
        next: Some("who else is logged in? a BMC has few sessions, and drops idle ones after a minute or so"),
        permanent: false,
    },
    Fault {
        says: "already active on another session",
        means: "somebody else has the BMC's serial line",
        next: Some("one session at a time has it; `steal = true` takes it"),
        permanent: false,
    },
    Fault {
        says: "no response to keepalive",
        means: "the BMC does not answer any more, or somebody else took its serial line",
        next: None,
        permanent: false,
    },
    Fault {
        says: "sol payload disabled",
        means: "the BMC gives no serial line now",
        next: Some("some give one only while the machine is on; otherwise: `ipmitool sol set enabled true`"),
        permanent: false,
    },
    Fault {
        says: "address lookup for",
        means: "the BMC's name is not known",
        next: Some("is `address` right, and in the DNS?"),
        permanent: false,
    },
    Fault {
        says: "get auth capabilities error",
        means: "the BMC does not answer",
        next: None,
        permanent: false,
    },
    Fault {
        says: "unable to get channel cipher suites",
        means: "the BMC does not tell which cipher suites it knows",
        next: Some("set `cipher`: 17 on newer BMCs, 3 on older ones"),
        permanent: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{driver, leg, none, site};
    use serde_json::json;

    fn bmc(fields: serde_json::Value) -> Bmc {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path(), leg(driver("none", none())), None, driver("power", none()));
        Bmc::of("power.ipmi", &site, &driver("ipmi", fields)).unwrap()
    }

    #[tokio::test]
    async fn the_password_is_in_no_argument() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("word");
        std::fs::write(&file, "hunter2\n").unwrap();
        let bmc = bmc(json!({
            "address": "b:1", "user": "u", "password": {"file": file}, "cipher": 3, "privilege": "operator"
        }));
        let (argv, Secret(password)) = bmc.program("read", &["chassis", "power", "status"]).await.unwrap();
        assert_eq!(password, "hunter2");
        assert!(!argv.iter().any(|a| a.contains("hunter2")));
        assert_eq!(
            argv.join(" "),
            "ipmitool -I lanplus -H b -p 1 -E -v -N 1 -R 3 -U u -C 3 -L OPERATOR chassis power status"
        );
    }

    #[test]
    fn what_ipmitool_says_is_explained() {
        let bmc = bmc(json!({"address": "b:623"}));
        let wrong = bmc.said("read", "Loading IANA PEN Registry...\n> RAKP 2 HMAC is invalid\nError: Unable to establish IPMI v2 / RMCP+ session\n");
        assert!(wrong.permanent && wrong.answer.contains("password"), "{wrong}");
        let silent = bmc.said("read", "Get Auth Capabilities error\nError issuing Get Channel Authentication Capabilities request\nError: Unable to establish IPMI v2 / RMCP+ session\n");
        assert!(!silent.permanent && silent.answer.contains("does not answer"), "{silent}");
        assert!(silent.to_string().contains("UDP port 623"), "{silent}");
        let other = bmc.said(
            "switch on",
            "Loading IANA PEN Registry...\nSet Chassis Power Control to Up/On failed: Unspecified error\n",
        );
        assert!(!other.permanent && other.answer.contains("Unspecified error"), "{other}");
    }
}
