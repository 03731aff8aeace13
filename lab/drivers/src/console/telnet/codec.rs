//! Telnet (RFC 854, 855) and its COM port option (RFC 2217), bytes in and
//! bytes out.
//!
//! Options are negotiated so that every byte passes as it is: both sides
//! binary (RFC 856), no go-aheads (RFC 858). What else is offered or asked for
//! is refused. An answer is given only where something changes, so that two
//! machines cannot keep each other busy with them.
//!
//! What a server says to COM port commands is not waited for: a port without
//! modem lines, such as a pty, leaves half of them without an answer.

use std::collections::BTreeSet;

const SE: u8 = 240;
const BRK: u8 = 243;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const IAC: u8 = 255;

const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SGA: u8 = 3;
const COM_PORT: u8 = 44;

/// Longest subnegotiation that is kept; none of those known has more.
const MAX_SUB: usize = 64;

/// What the port at the other end is to be (RFC 2217, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComPort {
    /// Bits per second.
    pub baud: u32,
    /// Hardware flow control.
    pub rtscts: bool,
}

/// A conversation.
#[derive(Debug)]
pub struct Codec {
    com_port: Option<ComPort>,
    state: State,
    /// What the other side does, and what we do, by option.
    theirs: Flags,
    ours: Flags,
    /// What was refused: options of theirs, and of ours.
    refused: (Flags, Flags),
    sub: Vec<u8>,
    /// The last byte of data was a CR, whose NUL is not data.
    after_cr: bool,
    suspended: bool,
    out: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Iac,
    Option(u8),
    Sub,
    SubIac,
}

/// Options that are on.
#[derive(Debug, Default)]
struct Flags(BTreeSet<u8>);

impl Flags {
    fn has(&self, option: u8) -> bool {
        self.0.contains(&option)
    }

    /// Sets it; whether that changed something.
    fn set(&mut self, option: u8, on: bool) -> bool {
        if on { self.0.insert(option) } else { self.0.remove(&option) }
    }
}

impl Codec {
    /// A telnet session, with a COM port at its other end or without.
    pub fn new(com_port: Option<ComPort>) -> Self {
        let mut codec = Self {
            com_port,
            state: State::Data,
            theirs: Flags::default(),
            ours: Flags::default(),
            refused: (Flags::default(), Flags::default()),
            sub: Vec::new(),
            after_cr: false,
            suspended: false,
            out: Vec::new(),
        };
        for option in [BINARY, SGA] {
            codec.say(WILL, option);
            codec.say(DO, option);
        }
        if com_port.is_some() {
            codec.say(WILL, COM_PORT);
        }
        codec
    }

    /// Bytes for the other side that are due now.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Whether the other side asked for silence (RFC 2217, FLOWCONTROL-SUSPEND).
    pub fn suspended(&self) -> bool {
        self.suspended
    }

    /// The bytes that carry `data`.
    pub fn send(&mut self, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(data.len() + 16);
        for byte in data {
            bytes.push(*byte);
            match byte {
                &IAC => bytes.push(IAC),
                // Without binary a CR alone is CR NUL (RFC 854, page 11).
                b'\r' if !self.binary(&self.ours) => bytes.push(0),
                _ => {}
            }
        }
        bytes
    }

    /// Begins a break, or the whole of it where only telnet can send one. Its
    /// end is [`Codec::end_break`].
    pub fn begin_break(&mut self) {
        if self.ours.has(COM_PORT) {
            self.set_control(5);
        } else {
            self.out.extend([IAC, BRK]);
        }
    }

    /// Ends a break.
    pub fn end_break(&mut self) {
        if self.ours.has(COM_PORT) {
            self.set_control(6);
        }
    }

    /// Takes what came and gives the data in it.
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut data = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.take(*byte, &mut data);
        }
        data
    }

    fn take(&mut self, byte: u8, data: &mut Vec<u8>) {
        self.state = match (self.state, byte) {
            (State::Data, IAC) => State::Iac,
            (State::Data, byte) => {
                let padding = byte == 0 && self.after_cr && !self.binary(&self.theirs);
                self.after_cr = byte == b'\r';
                if !padding {
                    data.push(byte);
                }
                State::Data
            }
            (State::Iac, IAC) => {
                self.after_cr = false;
                data.push(IAC);
                State::Data
            }
            (State::Iac, WILL..=DONT) => State::Option(byte),
            (State::Iac, SB) => {
                self.sub.clear();
                State::Sub
            }
            // Go-ahead, data mark, no operation: nothing to do.
            (State::Iac, _) => State::Data,
            (State::Option(verb), option) => {
                self.negotiate(verb, option);
                State::Data
            }
            (State::Sub, IAC) => State::SubIac,
            (State::Sub, byte) => {
                self.keep(byte);
                State::Sub
            }
            (State::SubIac, IAC) => {
                self.keep(IAC);
                State::Sub
            }
            (State::SubIac, SE) => {
                self.subnegotiated();
                State::Data
            }
            // It forgot to end it: the command counts all the same.
            (State::SubIac, WILL..=DONT) => State::Option(byte),
            (State::SubIac, _) => State::Data,
        };
    }

    /// Whether a CR is just a CR. COM port servers carry bytes from the first
    /// one on, whatever was negotiated by then.
    fn binary(&self, side: &Flags) -> bool {
        self.com_port.is_some() || side.has(BINARY)
    }

    fn keep(&mut self, byte: u8) {
        if self.sub.len() < MAX_SUB {
            self.sub.push(byte);
        }
    }

    fn negotiate(&mut self, verb: u8, option: u8) {
        let wanted_of_them = matches!(option, BINARY | ECHO | SGA | COM_PORT);
        let wanted_of_us = matches!(option, BINARY | SGA) || (option == COM_PORT && self.com_port.is_some());
        match verb {
            WILL if wanted_of_them => {
                // For those we asked for, this is the answer.
                if self.theirs.set(option, true) && !matches!(option, BINARY | SGA) {
                    self.say(DO, option);
                }
            }
            WILL => {
                if self.refused.0.set(option, true) {
                    self.say(DONT, option);
                }
            }
            WONT => {
                if self.theirs.set(option, false) {
                    self.say(DONT, option);
                }
            }
            DO if wanted_of_us => {
                if self.ours.set(option, true) && option == COM_PORT {
                    self.set_up_port();
                }
            }
            DO => {
                if self.refused.1.set(option, true) {
                    self.say(WONT, option);
                }
            }
            _ => {
                if self.ours.set(option, false) {
                    self.say(WONT, option);
                }
            }
        }
    }

    fn say(&mut self, verb: u8, option: u8) {
        self.out.extend([IAC, verb, option]);
    }

    fn set_up_port(&mut self) {
        let Some(ComPort { baud, rtscts }) = self.com_port else { return };
        self.command(1, &baud.to_be_bytes());
        // Eight bits, no parity, one stop bit; no flow control, or RTS/CTS.
        self.command(2, &[8]);
        self.command(3, &[1]);
        self.command(4, &[1]);
        self.set_control(if rtscts { 3 } else { 1 });
    }

    fn set_control(&mut self, value: u8) {
        self.command(5, &[value]);
    }

    fn command(&mut self, command: u8, value: &[u8]) {
        self.out.extend([IAC, SB, COM_PORT, command]);
        for byte in value {
            self.out.push(*byte);
            if *byte == IAC {
                self.out.push(IAC);
            }
        }
        self.out.extend([IAC, SE]);
    }

    fn subnegotiated(&mut self) {
        match self.sub.as_slice() {
            // FLOWCONTROL-SUSPEND and -RESUME of a server.
            [COM_PORT, 108, ..] => self.suspended = true,
            [COM_PORT, 109, ..] => self.suspended = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(com_port: Option<ComPort>) -> Codec {
        let mut codec = Codec::new(com_port);
        codec.take_output();
        codec
    }

    const PORT: ComPort = ComPort { baud: 115_200, rtscts: false };

    #[test]
    fn every_byte_passes_in_both_directions_once_both_are_binary() {
        let all: Vec<u8> = (0..=255).collect();
        let mut codec = open(None);
        codec.receive(&[IAC, WILL, BINARY, IAC, DO, BINARY]);
        assert!(codec.take_output().is_empty(), "these are answers to what we asked");
        let sent = codec.send(&all);
        assert_eq!(sent.len(), 257);
        assert_eq!(codec.receive(&sent), all);
        let mut other = open(None);
        assert_eq!(other.send(b"a\r"), b"a\r\0");
        assert_eq!(other.receive(b"a\r\0b\0"), b"a\rb\0");
    }

    #[test]
    fn what_is_not_known_is_refused_once_and_nothing_is_answered_twice() {
        let mut codec = open(None);
        codec.receive(&[
            IAC, WILL, 24, IAC, DO, 31, IAC, DO, 31, IAC, WILL, ECHO, IAC, WILL, ECHO, IAC, DO, COM_PORT,
        ]);
        assert_eq!(codec.take_output(), [IAC, DONT, 24, IAC, WONT, 31, IAC, DO, ECHO, IAC, WONT, COM_PORT]);
        codec.receive(&[IAC, WONT, 24, IAC, DONT, 31, IAC, DONT, 31]);
        assert!(codec.take_output().is_empty());
    }

    #[test]
    fn a_port_is_set_up_when_the_server_takes_the_option() {
        let mut codec = Codec::new(Some(PORT));
        assert!(codec.take_output().ends_with(&[IAC, WILL, COM_PORT]));
        codec.receive(&[IAC, DO, COM_PORT]);
        let set_up = codec.take_output();
        assert!(set_up.starts_with(&[IAC, SB, COM_PORT, 1, 0, 1, 0xc2, 0, IAC, SE]), "{set_up:?}");
        assert!(set_up.ends_with(&[IAC, SB, COM_PORT, 5, 1, IAC, SE]), "{set_up:?}");
        codec.begin_break();
        codec.end_break();
        assert_eq!(codec.take_output(), [IAC, SB, COM_PORT, 5, 5, IAC, SE, IAC, SB, COM_PORT, 5, 6, IAC, SE]);
        assert!(!codec.suspended());
        codec.receive(&[IAC, SB, COM_PORT, 108, IAC, SE]);
        assert!(codec.suspended());
        codec.receive(&[IAC, SB, COM_PORT, 109, IAC, SE]);
        assert!(!codec.suspended());
    }

    #[test]
    fn a_baud_rate_with_an_iac_in_it_is_escaped() {
        let mut codec = open(Some(ComPort { baud: 0x00ff_0000, rtscts: true }));
        codec.receive(&[IAC, DO, COM_PORT]);
        let set_up = codec.take_output();
        assert!(set_up.starts_with(&[IAC, SB, COM_PORT, 1, 0, IAC, IAC, 0, 0, IAC, SE]), "{set_up:?}");
    }

    #[test]
    fn a_break_without_the_option_is_telnets_own() {
        let mut codec = open(Some(PORT));
        codec.begin_break();
        codec.end_break();
        assert_eq!(codec.take_output(), [IAC, BRK]);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let mut whole = open(Some(PORT));
            let expected = whole.receive(&bytes);
            let mut parts = open(Some(PORT));
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut data = parts.receive(first);
            data.extend(parts.receive(second));
            prop_assert_eq!(data, expected);
            prop_assert_eq!(parts.take_output(), whole.take_output());
            prop_assert!(parts.sub.len() <= MAX_SUB);
        }

        #[test]
        fn two_of_us_come_to_rest(seed in prop::collection::vec(any::<u8>(), 0..60)) {
            let (mut a, mut b) = (Codec::new(Some(PORT)), Codec::new(None));
            a.receive(&seed);
            for _ in 0..10 {
                let out = a.take_output();
                b.receive(&out);
                let out = b.take_output();
                a.receive(&out);
            }
            prop_assert!(a.take_output().is_empty());
        }
    }
}
