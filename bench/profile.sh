#!/bin/sh
# Where the time of a row goes: the row measured once under perf, then the symbols with the most samples on either side.
#
#   bench/profile.sh GROUP [BUILD]      GROUP: as `bench/run.py --rows list` names it; BUILD defaults to build
#
# Without perf (apt-get install linux-perf) the CPU of both sides is all there is. The recordings are not kept: for more than
# the top of them, run perf by hand on a `streamit bench` of your own.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
    echo "usage: bench/profile.sh GROUP [BUILD]" >&2
    exit 2
fi
exec "$here/run.py" "${2:-$here/../build}" --rows "$1" --rounds 1 --profile-all
