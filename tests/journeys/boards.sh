#!/usr/bin/env bash
# Boards that run no agent: what shows that they are up, and their switches.
# needs: python3=/usr/bin/python3
# limit: 300
exec python3 tests/lab/boards.py
