#!/usr/bin/env bash
# Who may watch a held machine: nobody else sees a byte of it, and no tenant one of the last.
# needs: python3=/usr/bin/python3
# limit: 300
exec /usr/bin/python3 tests/lab/watching.py # other users must be able to run it
