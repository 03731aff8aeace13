#!/usr/bin/env bash
# A lab with a machine of each driver: `admin check` names every part that is broken.
# needs: python3=/usr/bin/python3 openipmi=ipmi_sim ipmitool=ipmitool snmpd=/usr/sbin/snmpd ser2net=/usr/sbin/ser2net openssl=openssl
# limit: 600
tests/lab/sushy >/dev/null
exec python3 tests/lab/check.py
