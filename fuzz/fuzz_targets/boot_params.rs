//! Boot parameters: on the kernel command line, and in a seed record that a tenant may have written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, assert_one_line, within};
use pitstop_wire::agent::AgentParams;

#[allow(dead_code, reason = "taken in whole")]
#[path = "../../lab/agent/src/params.rs"]
mod params;

use params::{ParamsError, check, from_cmdline};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match within(text.len(), Room::default(), || from_cmdline(text)) {
        Ok(params) => {
            is_sound(&params);
            assert!(matches!(
                from_cmdline(&format!("{text} pitstop.token=x")),
                Err(ParamsError::Twice("token"))
            ));
        }
        Err(error) => assert_one_line(&error.to_string()),
    }
    if let Ok(params) = serde_json::from_str::<AgentParams>(text)
        && check(&params).is_ok()
    {
        is_sound(&params);
    }
});

/// What is accepted can be said on a command line, and is the same then.
fn is_sound(params: &AgentParams) {
    let AgentParams { server, ca, machine, nonce, token } = params;
    let line = format!(
        "quiet pitstop.server={server} pitstop.ca={ca} pitstop.machine={machine} pitstop.nonce={nonce} \
         pitstop.token={} panic=10",
        token.0
    );
    assert_eq!(from_cmdline(&line).as_ref(), Ok(params));
    for text in [server, ca, nonce, &token.0] {
        assert!(!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()), "{text:?}");
    }
    assert!(server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)));
}
