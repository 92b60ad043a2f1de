#!/bin/sh
# One node's whole promise in a minute: produce a real file, kill -9 the daemon, restart it, consume, compare.
#
#   tools/demo.sh [BUILD] [MEGABYTES]      100 MB of text from /usr/share unless told otherwise
#
# Uses a folder and ports of its own, so it disturbs no other daemon; removes everything at the end. Exit status 0
# with "demo: PASSED", or 1 with "demo: FAILED: why".
set -eu

build=${1:-build}
megabytes=${2:-100}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
case $build in
/*) ;;
*) build=$root/$build ;;
esac
cd "$root"
place=$(mktemp -d "${TMPDIR:-/tmp}/streamit-demo.XXXXXX")
pid=

clean_up()
{
    if [ -n "$pid" ]; then
        kill -9 "$pid" 2> /dev/null || true
    fi
    rm -rf "$place"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

fail()
{
    echo "demo: FAILED: $1"
    echo "---- the daemon's log"
    tail -n 20 "$place/streamitd.log" 2> /dev/null || true
    exit 1
}

# Start the daemon on free ports and wait for the line that says that all listeners accept.
start()
{
    : > "$place/streamitd.log"
    "$build/bin/streamitd" --config etc/standalone.cfg --log-format json --set node.data_dir="$place/data" \
        --set plugins.transport_grpc.port=0 --set plugins.metrics_prom.port=0 2> "$place/streamitd.log" &
    pid=$!
    waited=0
    while ! grep -q '"event": *"ready"' "$place/streamitd.log"; do
        kill -0 "$pid" 2> /dev/null || fail "the daemon did not start"
        [ $waited -lt 1500 ] || fail "the daemon is not ready after 30 s"
        waited=$((waited + 1))
        sleep 0.02
    done
    port=$(sed -n 's/.*"transport_grpc": *"[^"]*:\([0-9]*\)".*/\1/p' "$place/streamitd.log" | head -n 1)
    server=127.0.0.1:$port
}

streamit()
{
    "$build/bin/streamit" --server "$server" "$@"
}

# Real text: the documentation and licences that every Debian machine has, repeated up to the size wanted.
gather()
{
    find /usr/share/common-licenses /usr/share/doc /usr/share/perl /usr/share/cmake-* /usr/include -type f \
        \( -name '*.txt' -o -name copyright -o -name '*.h' -o -name '*.pm' -o -name '*.cmake' -o -path '*licenses*' \) \
        2> /dev/null | LC_ALL=C sort | xargs cat 2> /dev/null |
        awk 'length($0) < 100000' | head -c $((megabytes * 1000000)) > "$place/once.txt"
    [ -s "$place/once.txt" ] || fail "no text under /usr/share"
    : > "$place/input.txt"
    while [ "$(wc -c < "$place/input.txt")" -lt $((megabytes * 1000000)) ]; do
        cat "$place/once.txt" >> "$place/input.txt"
    done
    head -c $((megabytes * 1000000)) "$place/input.txt" > "$place/cut.txt"
    echo >> "$place/cut.txt"
    mv "$place/cut.txt" "$place/input.txt"
}

echo "demo: gathering $megabytes MB of real text"
gather
echo "demo: $(wc -l < "$place/input.txt") lines, $(wc -c < "$place/input.txt") bytes"

start
echo "demo: node on $server, process $pid"
streamit create-topic --name demo > /dev/null || fail "create-topic"
echo "demo: produce"
streamit produce --topic demo --file "$place/input.txt" || fail "produce"

echo "demo: kill -9 $pid"
kill -9 "$pid"
wait "$pid" 2> /dev/null || true
start
echo "demo: restarted, process $pid"

echo "demo: consume"
streamit consume --topic demo --from beginning --until-end > "$place/output.txt" || fail "consume"
cmp "$place/input.txt" "$place/output.txt" || fail "what came back differs"

kill -TERM "$pid"
wait "$pid" || fail "the daemon did not stop cleanly"
pid=
echo "demo: PASSED: $(wc -c < "$place/input.txt") bytes in, kill -9, the same bytes out"
