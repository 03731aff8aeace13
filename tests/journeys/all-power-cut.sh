#!/usr/bin/env bash
# The power of the daemon's own host is cut: a virtual machine with the database on its disk.
# needs: python3=python3 qemu-system-x86=qemu-system-x86_64 busybox-static=busybox cpio=cpio dpkg=dpkg-deb e2fsprogs=mke2fs kmod=depmod xz-utils=xz
# limit: 900
exec python3 tests/qemu/power_cut.py "$@"
