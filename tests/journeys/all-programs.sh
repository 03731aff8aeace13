#!/usr/bin/env bash
# The same as programs.sh, with daemons that are killed meanwhile: what may act
# behind them is waited for, a minute each time.
# needs: python3=/usr/bin/python3 openssh-server=/usr/sbin/sshd openssh-client=ssh-keygen
# limit: 900
exec python3 tests/lab/programs.py --kill
