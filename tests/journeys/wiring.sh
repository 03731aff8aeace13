#!/usr/bin/env bash
# Swapped cables: `admin check --wiring` finds out which.
# needs: python3=/usr/bin/python3
# limit: 600
exec python3 tests/lab/wiring.py
