#!/usr/bin/env bash
# The same, behind a BMC with Redfish that fetches the boot agent as a CD; and somebody who knows where that is.
# needs: python3=python3 openssl=openssl ser2net=/usr/sbin/ser2net qemu-system-x86=qemu-system-x86_64 busybox-static=busybox cpio=cpio dosfstools=mkfs.fat dpkg=dpkg-deb e2fsprogs=mke2fs fdisk=sfdisk kmod=depmod mtools=mcopy syslinux=syslinux syslinux-common=/usr/lib/syslinux/mbr/mbr.bin xz-utils=xz grub-common=grub-mkrescue grub-pc-bin=/usr/lib/grub/i386-pc/linux.mod grub-efi-amd64-bin=/usr/lib/grub/x86_64-efi/linux.mod xorriso=xorriso
# limit: 1500
exec tests/qemu/run media
