#!/usr/bin/env bash
# A magic packet goes out through the interface it should, and wakes a machine; in a network namespace of its own.
# needs: python3=/usr/bin/python3 iproute2=ip util-linux=unshare
# limit: 300
set -euo pipefail
as=()
# Root needs no users of its own, which a changed root directory does not allow anyway.
if [ "$(id -u)" != 0 ]; then as=(--map-root-user); fi
exec unshare --net "${as[@]}" python3 tests/lab/wake.py
