//! Kernel modules and programs: from packages that others made.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, assert_one_line, within};

#[allow(dead_code, reason = "taken in whole")]
#[path = "../../src/bootimage/elf.rs"]
mod elf;
#[allow(dead_code, reason = "taken in whole")]
#[path = "../../src/bootimage/modinfo.rs"]
mod modinfo;

use elf::{Elf, kernel_machine};
use modinfo::{name_of, needs};

fuzz_target!(|data: &[u8]| {
    within(data.len(), Room::default(), || {
        let _kind = kernel_machine(data);
        // Sections are hard to hit; what is in one is tried by itself as well.
        modules(data);
        let Some(elf) = Elf::parse(data) else { return };
        let _either = (elf.machine(), elf.wants_interpreter());
        if let Some(info) = elf.section(".modinfo") {
            assert!(info.len() <= data.len());
            modules(info);
        }
    });
});

fn modules(info: &[u8]) {
    match needs(info) {
        Ok((depends, hopes)) => {
            assert!(depends.len() + hopes.len() <= 256);
            for name in depends.iter().chain(&hopes) {
                assert_eq!(name_of(name).as_ref(), Some(name), "not in the kernel's spelling");
            }
        }
        Err(why) => assert_one_line(&why),
    }
}
