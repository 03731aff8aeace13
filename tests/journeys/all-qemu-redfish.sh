#!/usr/bin/env bash
# The same, behind a BMC with Redfish and a port of a console server.
# needs: python3=python3 openssl=openssl ser2net=/usr/sbin/ser2net qemu-system-x86=qemu-system-x86_64 ipxe-qemu=/usr/lib/ipxe/qemu/efi-virtio.rom busybox-static=busybox cpio=cpio dosfstools=mkfs.fat dpkg=dpkg-deb e2fsprogs=mke2fs fdisk=sfdisk kmod=depmod mtools=mcopy syslinux=syslinux syslinux-common=/usr/lib/syslinux/mbr/mbr.bin xz-utils=xz
# limit: 900
exec tests/qemu/run redfish
