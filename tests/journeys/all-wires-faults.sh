#!/usr/bin/env bash
# Devices fail as real ones do (BMC, PDU, console server, serial port): their machines do not pass for well, and others go on.
# needs: python3=/usr/bin/python3 openipmi=ipmi_sim ipmitool=ipmitool snmpd=/usr/sbin/snmpd ser2net=/usr/sbin/ser2net openssl=openssl qemu-system-x86=qemu-system-x86_64 ipxe-qemu=/usr/lib/ipxe/qemu/efi-virtio.rom busybox-static=busybox cpio=cpio dosfstools=mkfs.fat dpkg=dpkg-deb e2fsprogs=mke2fs fdisk=sfdisk kmod=depmod mtools=mcopy syslinux=syslinux syslinux-common=/usr/lib/syslinux/mbr/mbr.bin xz-utils=xz
# limit: 1800
set -euo pipefail
tests/lab/sushy >/dev/null
PITSTOP_QEMU_ASSETS=$(tests/qemu/assets)
export PITSTOP_QEMU_ASSETS
python3 tests/lab/faults.py boards
exec python3 tests/lab/faults.py turns
