#!/usr/bin/env bash
# The browser client in headless Chromium: 1,000,000 messages, 10,000 rooms, 100,000 listeners and 1,000 reconnects leave the heap within
# 10 % of where it was, and no listener behind.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
need node nodejs || exit 3
need chromium chromium || exit 3
timeout 300 node tests/web/memory.mjs chromium </dev/null
