#!/usr/bin/env bash
# A magic packet goes out through the interface it should, and wakes a machine; in a network namespace of its own.
# needs: python3=/usr/bin/python3 iproute2=ip util-linux=unshare
# limit: 300
exec unshare --net --map-root-user python3 tests/lab/wake.py
