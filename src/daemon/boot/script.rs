//! iPXE scripts (ipxe.org/scripting).

use crate::daemon::hands::Rig;
use pitstop_drivers::boot::{DEFAULT_APPEND, kernel_words};
use pitstop_wire::MachineName;
use pitstop_wire::agent::AgentParams;

/// Boots the agent. The paths are relative to the script's own address, so
/// that the same script is right however the machine reaches the daemon.
pub fn agent(rig: &Rig, params: &AgentParams) -> String {
    let append = rig.spec.boot.text("append").unwrap_or(DEFAULT_APPEND);
    let words = kernel_words(params).0;
    // `initrd=` is needed under UEFI, where the kernel looks for the file by
    // name, and does no harm under BIOS.
    format!("#!ipxe\nkernel ../kernel initrd=initrd {append} {words}\ninitrd --name initrd ../initrd\nboot\n")
}

/// Hands back to the firmware, whose next boot device is the disk.
pub fn disk() -> String {
    "#!ipxe\nexit\n".to_owned()
}

/// Asks again: the daemon cannot say now.
pub fn again() -> String {
    "#!ipxe\nsleep 3\nchain --replace script\n".to_owned()
}

/// Boots nothing: going on to the disk would run whatever is on it.
pub fn refused(machine: &MachineName, why: &str) -> String {
    // One line of harmless characters: `why` may quote what a machine said,
    // and iPXE expands `${}`.
    let why: String = why
        .chars()
        .map(|c| if c.is_ascii_graphic() && !"$;&|#\\\"'".contains(c) { c } else { ' ' })
        .take(200)
        .collect();
    format!("#!ipxe\necho pitstop boots nothing on {machine}: {why}\nsleep 10\npoweroff || sleep 86400\n")
}
