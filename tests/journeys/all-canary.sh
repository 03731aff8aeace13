#!/usr/bin/env bash
# Secrets of every driver that takes one are in no argument, environment, log, answer, journal or database.
# needs: python3=/usr/bin/python3 openipmi=ipmi_sim ipmitool=ipmitool snmpd=/usr/sbin/snmpd openssl=openssl openssh-server=/usr/sbin/sshd openssh-client=ssh-keygen
# limit: 900
set -euo pipefail
tests/lab/sushy >/dev/null
exec python3 tests/lab/canary.py
