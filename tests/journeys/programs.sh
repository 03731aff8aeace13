#!/usr/bin/env bash
# Hooks, and boards that a program on a bench host writes and reads back.
# needs: python3=/usr/bin/python3 openssh-server=/usr/sbin/sshd openssh-client=ssh-keygen
# limit: 900
exec python3 tests/lab/programs.py
