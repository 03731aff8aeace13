//! What an agent is told at boot, and the checks it must pass: it may come from a disk that a tenant wrote.

use pitstop_wire::agent::{AgentParams, Secret};

/// Why parameters cannot be used. Values are not repeated: one of them is a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// A parameter is not there.
    #[error("the kernel command line has no pitstop.{0}=; was this kernel started by pitstop?")]
    Missing(&'static str),
    /// A parameter is there more than once, so somebody added to the command line.
    #[error("the kernel command line has pitstop.{0}= more than once")]
    Twice(&'static str),
    /// A value is not of its form.
    #[error("pitstop.{name} is not {expected}")]
    Bad {
        /// The parameter.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

const MAX_VALUE: usize = 512;

/// Reads `pitstop.server= ca= machine= nonce= token=` from a kernel command line.
///
/// # Errors
/// One is missing, doubled or malformed.
pub fn from_cmdline(line: &str) -> Result<AgentParams, ParamsError> {
    let get = |name: &'static str| {
        let prefix = format!("pitstop.{name}=");
        let mut values = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix(prefix.as_str()));
        let value = values.next().ok_or(ParamsError::Missing(name))?;
        if values.next().is_some() { Err(ParamsError::Twice(name)) } else { Ok(value.to_owned()) }
    };
    let machine = get("machine")?;
    let params = AgentParams {
        server: get("server")?,
        ca: get("ca")?,
        machine: machine
            .parse()
            .map_err(|_| ParamsError::Bad { name: "machine", expected: "the name of a machine" })?,
        nonce: get("nonce")?,
        token: Secret(get("token")?),
    };
    check(&params)?;
    Ok(params)
}

/// Checks the form of every parameter.
///
/// # Errors
/// One is malformed.
pub fn check(params: &AgentParams) -> Result<(), ParamsError> {
    let bad = |name, expected| Err(ParamsError::Bad { name, expected });
    let plain = |text: &str| {
        !text.is_empty() && text.len() <= MAX_VALUE && text.bytes().all(|b| b.is_ascii_graphic())
    };
    let port = params.server.rsplit_once(':').and_then(|(host, port)| {
        (!host.is_empty()).then(|| port.parse::<u16>().ok()).flatten().filter(|&port| port > 0)
    });
    if !plain(&params.server) || port.is_none() {
        return bad("server", "HOST:PORT");
    }
    if fingerprint(&params.ca).is_none() {
        return bad("ca", "a SHA-256 in 64 hexadecimal digits");
    }
    if !plain(&params.nonce) {
        return bad("nonce", "1 to 512 printable characters");
    }
    if !plain(&params.token.0) {
        return bad("token", "1 to 512 printable characters");
    }
    Ok(())
}

/// The bytes of a fingerprint in hexadecimal.
pub(crate) fn fingerprint(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(hex, &mut bytes).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(change: impl Fn(String) -> String) -> String {
        change(format!(
            "console=ttyS0 quiet pitstop.server=10.0.2.2:7443 pitstop.ca={} pitstop.machine=imx8-01 \
             pitstop.nonce=n-1 pitstop.token=s3cr3t panic=10\n",
            "ab".repeat(32)
        ))
    }

    #[test]
    fn a_whole_command_line_is_read() {
        let params = from_cmdline(&line(|l| l)).unwrap();
        assert_eq!(params.server, "10.0.2.2:7443");
        assert_eq!(params.machine.as_str(), "imx8-01");
        assert_eq!(params.token, Secret("s3cr3t".into()));
    }

    #[test]
    fn missing_doubled_and_malformed_parameters_are_refused_without_showing_the_token() {
        let cases = [
            (line(|l| l.replace("pitstop.nonce=n-1", "")), ParamsError::Missing("nonce")),
            (line(|l| l + " pitstop.server=evil:1"), ParamsError::Twice("server")),
            (line(|l| l.replace(":7443", "")), ParamsError::Bad { name: "server", expected: "HOST:PORT" }),
            (
                line(|l| l.replace("abab", "xyz")),
                ParamsError::Bad { name: "ca", expected: "a SHA-256 in 64 hexadecimal digits" },
            ),
            (
                line(|l| l.replace("imx8-01", "../etc")),
                ParamsError::Bad { name: "machine", expected: "the name of a machine" },
            ),
        ];
        for (line, expected) in cases {
            let error = from_cmdline(&line).unwrap_err();
            assert_eq!(error, expected, "{line}");
            assert!(!error.to_string().contains("s3cr3t"));
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_can_be_said_again_and_is_the_same(
            server in "[a-z.]{0,4}:[1-9][0-9]{0,4}",
            machine in "[a-z0-9][a-z0-9./-]{0,3}",
            nonce in "[!-~]{0,6}",
            token in "[!-~ä]{0,6}",
            more in "(pitstop\\.[a-z]{2,6}=x|quiet| )?",
        ) {
            let say = |server: &str, machine: &str, nonce: &str, token: &str| format!(
                "{more} pitstop.server={server} pitstop.ca={} pitstop.machine={machine} pitstop.nonce={nonce} \
                 pitstop.token={token}",
                "ab".repeat(32)
            );
            if let Ok(p) = from_cmdline(&say(&server, &machine, &nonce, &token)) {
                prop_assert_eq!(check(&p), Ok(()));
                prop_assert_eq!(from_cmdline(&say(&p.server, &p.machine, &p.nonce, &p.token.0)), Ok(p));
            }
        }
    }
}
