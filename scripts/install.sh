#!/bin/sh
# Make the virtual environment (first argument) with the versions of constraints.txt.
set -eu
venv=$1
python=${PYTHON:-python3.11}
[ -n "$python" ] || { echo "install: no Python found; install Python 3.11 and run make again." >&2; exit 1; }

# Debian ships `venv` without ensurepip unless python3-venv is installed.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3-venv
    else
        echo "install: $python has no ensurepip; run 'apt-get install python3-venv' as root, then make again." >&2
        exit 1
    fi
fi

"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
