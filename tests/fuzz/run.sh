#!/bin/bash
# Run the fuzzers over their kept corpora, two at a time.
#
#   tests/fuzz/run.sh BUILD [SECONDS] [NAME]...      SECONDS each, 60 by default; all fuzzers without a name
#
# What a fuzzer finds interesting stays in BUILD/fuzz-corpus/NAME and is gone on with in the next run. An input that
# crashes, hangs or leaks is left as BUILD/fuzz-found/NAME-..., named in the last line, and the status is 1.
#
# FUZZ_SEED=N makes a run over a fresh BUILD go the same way again, as far as its time takes it; CI sets it, so that what it
# finds is found again. Without it every run goes another way.
set -u
here=$(cd "$(dirname "$0")" && pwd) || exit 1
build=$(cd "$1" && pwd) || exit 1
seconds=${2:-60}
shift $(($# > 2 ? 2 : $#))
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(batch files storage metadata config)
found=$build/fuzz-found
mkdir -p "$found"
STREAMIT_FUZZ_DIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" streamit-fuzz-run-XXXXXX) || exit 1
export STREAMIT_FUZZ_DIR
trap 'rm -rf "$STREAMIT_FUZZ_DIR"' EXIT

one()
{
    local name=$1 dict=()
    mkdir -p "$build/fuzz-corpus/$name"
    [ -e "$here/dict/$name.dict" ] && dict=("-dict=$here/dict/$name.dict")
    LSAN_OPTIONS="suppressions=$here/lsan.supp:print_suppressions=0" \
        ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
        "$build/tests/fuzz_$name" -seed="${FUZZ_SEED:-0}" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1500 -max_len=16384 \
        -print_final_stats=1 -artifact_prefix="$found/$name-" "${dict[@]}" \
        "$build/fuzz-corpus/$name" "$here/corpus/$name" > "$build/fuzz-$name.log" 2>&1
    local status=$?
    if [ $status -ne 0 ]; then
        tail -60 "$build/fuzz-$name.log"
        echo "fuzz $name: FAILED, the input is $(grep -o "$found/[^ ]*" "$build/fuzz-$name.log" | tail -1)"
        return 1
    fi
    echo "fuzz $name: ok, $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/fuzz-$name.log") inputs"
}

pids=() failed=0
for name in "${names[@]}"; do
    one "$name" &
    pids+=($!)
    if [ ${#pids[@]} -eq 2 ]; then
        wait "${pids[0]}" || failed=1
        pids=("${pids[1]}")
    fi
done
for pid in "${pids[@]}"; do
    wait "$pid" || failed=1
done
exit $failed
