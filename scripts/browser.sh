#!/bin/sh
# The report's test opens it in a real browser: install Debian's Chromium where it is missing.
set -eu
command -v chromium >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium
else
    echo "browser: no chromium found; 'apt-get install chromium' as root (the report's browser test fails without it)." >&2
fi
