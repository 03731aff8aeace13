//! DHCP answers: whoever is on the machine's network may send one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, within};

#[allow(dead_code, reason = "taken in whole")]
#[path = "../../lab/agent/src/pid1/dhcp_packet.rs"]
mod dhcp_packet;

use dhcp_packet::{Ask, Kind, Mac, decode, encode};

const MAC: Mac = [0x52, 0x54, 0, 1, 2, 3];
const XID: u32 = 7;

fuzz_target!(|data: &[u8]| {
    let Some(answer) = within(data.len(), Room::default(), || decode(data, MAC, XID)) else { return };
    assert!(data.len() > 240, "the fixed part alone says nothing");
    assert!(answer.prefix <= 32 && answer.dns.len() <= 3);
    assert!(answer.kind == Kind::Nak || !answer.address.is_unspecified());
    assert!(answer.gateway.is_none_or(|gateway| !gateway.is_unspecified()));
    assert_eq!(decode(data, MAC, XID + 1), None, "another transaction's");
    assert_eq!(decode(data, [9; 6], XID), None, "another card's");
    // What is behind the end is nobody's.
    let longer = [data, &[0]].concat();
    assert!(decode(&longer, MAC, XID).is_none_or(|same| same == answer));
    if let Some(server) = answer.server {
        let taken = encode(Ask::Request { address: answer.address, server }, MAC, XID, 0);
        assert!(taken.len() >= 300);
        assert_eq!(decode(&taken, MAC, XID), None, "a client's message is no answer");
    }
});
