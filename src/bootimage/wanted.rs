//! The modules that a boot agent needs on the machines labs have.

/// Loaded in this order, what each needs before it. Those a kernel does not have are left out and listed in
/// the manifest.
///
/// No modules for graphics, sound or file systems: the agent reads and writes whole disks.
pub const DEFAULT_MODULES: &[&str] = &[
    // Entropy first: the agent's first key waits for it.
    "virtio_pci",
    "virtio_mmio",
    "virtio_rng",
    // Network cards: the address is waited for, so they come before the disks.
    "virtio_net",
    "e1000",
    "e1000e",
    "igb",
    "igc",
    "ixgbe",
    "i40e",
    "r8169",
    "tg3",
    "bnxt_en",
    "atlantic",
    // Disks.
    "virtio_blk",
    "virtio_scsi",
    "nvme",
    "ahci",
    "ata_piix",
    "sd_mod",
    "mmc_block",
    "sdhci_pci",
    "sdhci_acpi",
    "megaraid_sas",
    "mpt3sas",
    // USB: disks that would else be missed in a proof, and the network cards of small boards.
    "xhci_pci",
    "ehci_pci",
    "usb_storage",
    "uas",
    "r8152",
    "cdc_ether",
    "ax88179_178a",
];
