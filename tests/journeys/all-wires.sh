#!/usr/bin/env bash
# A lab with a machine of each driver: `admin check` names every part that is broken.
# needs: python3=/usr/bin/python3 openipmi=ipmi_sim ipmitool=ipmitool snmpd=/usr/sbin/snmpd ser2net=/usr/sbin/ser2net openssh-server=/usr/sbin/sshd openssh-client=ssh-keygen openssl=openssl libvirt-daemon=/usr/sbin/libvirtd libvirt-clients=virsh python3-pip=/usr/lib/python3/dist-packages/pip/__init__.py
# limit: 600
tests/lab/sushy >/dev/null
exec python3 tests/lab/check.py
