#!/bin/sh
# The tests of the cluster run on a real SLURM: install Debian's packages where they are missing.
set -eu
PATH=$PATH:/usr/sbin:/sbin
packages="slurm-wlm slurmdbd munge mariadb-server-core"
missing=
for program in slurmctld slurmd slurmdbd munged mariadbd; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
else
    echo "slurm: no$missing found; 'apt-get install --no-install-recommends $packages' as root (tests/slurm is left out without them)." >&2
fi
