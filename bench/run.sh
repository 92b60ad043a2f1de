#!/bin/sh
# The figures of this machine, each beside its target and beside a limit measured in the same run.
#
#   bench/run.sh BUILD [OPTIONS of run.py]      BUILD: a built folder, as `make build` leaves it
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
    echo "usage: bench/run.sh BUILD [--write] [--require] [--rounds N] [--dir FOLDER] ..." >&2
    exit 2
fi
build=$1
shift
if [ ! -x /usr/bin/python3 ]; then
    echo "bench/run.sh: needs python3: apt-get install python3" >&2
    exit 1
fi
STREAMIT_BUILD=$build PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 "$here/run.py" "$@"
