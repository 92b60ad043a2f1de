#!/bin/bash
# Run the fuzzers over their kept corpora, two at a time.
#
#   tests/fuzz/run.sh BUILD [SECONDS] [NAME]...      SECONDS each, 60 by default; all fuzzers without a name
#   tests/fuzz/run.sh --same BUILD [INPUTS] [NAME]...  that many inputs each, 5000 by default, from FUZZ_SEED or 1, twice:
#                                                      do both runs go the same way?
#
# What a fuzzer finds interesting stays in BUILD/fuzz-corpus/NAME and is gone on with in the next run. An input that
# crashes, hangs or leaks is left as BUILD/fuzz-found/NAME-..., named in the last line, and the status is 1.
#
# FUZZ_SEED=N begins with the kept corpus alone, and goes the same way again whenever and wherever the same sources are built
# by the same compiler: a longer run without a finding is one for every shorter run too. CI sets it. Such a run learns nothing
# from the operands of comparisons, of which some are addresses. Without FUZZ_SEED every run goes another way.
set -u
here=$(cd "$(dirname "$0")" && pwd) || exit 1
same=
if [ "${1-}" = --same ]; then
    same=1
    shift
fi
build=$(cd "$1" && pwd) || exit 1
amount=${2:-$([ -n "$same" ] && echo 5000 || echo 60)}
shift $(($# > 2 ? 2 : $#))
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(batch files storage metadata config wire answer)
found=$build/fuzz-found
mkdir -p "$found"
work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" streamit-fuzz-run-XXXXXX) || exit 1
export STREAMIT_FUZZ_DIR=$work
trap 'rm -rf "$work"' EXIT

# fuzz NAME LOG OPTION...
fuzz()
{
    local name=$1 log=$2
    shift 2
    [ -e "$here/dict/$name.dict" ] && set -- "$@" "-dict=$here/dict/$name.dict"
    LSAN_OPTIONS="suppressions=$here/lsan.supp:print_suppressions=0" \
        ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
        "$build/tests/fuzz_$name" -timeout=20 -rss_limit_mb=1500 -max_len=16384 -print_final_stats=1 \
        -artifact_prefix="$found/$name-" "$@" > "$log" 2>&1
}

# The same, from a seed: fuzz_from SEED NAME LOG OPTION...
fuzz_from()
{
    local seed=$1 name=$2 log=$3 kept
    shift 3
    kept=$(cd "$here/corpus/$name" && printf '%s\n' "$PWD"/* | LC_ALL=C sort | paste -sd,)
    printf '%s' "$kept" > "$work/$name.seeds"
    rm -rf "$work/$name.corpus"
    mkdir "$work/$name.corpus"
    fuzz "$name" "$log" -seed="$seed" -use_cmp=0 -reload=0 -seed_inputs="@$work/$name.seeds" "$@" "$work/$name.corpus"
}

one()
{
    local name=$1 log=$build/fuzz-$1.log
    if [ -n "${FUZZ_SEED-}" ]; then
        fuzz_from "$FUZZ_SEED" "$name" "$log" -max_total_time="$amount"
    else
        mkdir -p "$build/fuzz-corpus/$name"
        fuzz "$name" "$log" -max_total_time="$amount" "$build/fuzz-corpus/$name" "$here/corpus/$name"
    fi
    local status=$?
    if [ $status -ne 0 ]; then
        grep -a -m 3 -E 'expected|ERROR|runtime error' "$log"
        tail -60 "$log"
        echo "fuzz $name: FAILED, the input is $(grep -ao "$found/[^ ]*" "$log" | tail -1)"
        return 1
    fi
    echo "fuzz $name: ok, $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
}

# The way of a run: each input that was kept, how many had been tried, and what was done to make it.
way()
{
    sed -nE '/pulse/d;/^#[0-9]+/{s/ exec.s: [0-9]+//;s/ rss: [0-9]+Mb//;p}' "$1"
}

twice()
{
    local name=$1 log=$build/fuzz-$1.log
    for run in first second; do
        fuzz_from "${FUZZ_SEED:-1}" "$name" "$log" -runs="$amount" || {
            tail -60 "$log"
            return 1
        }
        way "$log" > "$work/$name.$run"
        (cd "$work/$name.corpus" && printf '%s\n' *) >> "$work/$name.$run"
    done
    if ! diff "$work/$name.first" "$work/$name.second" > "$work/$name.diff"; then
        head -3 "$work/$name.first" "$work/$name.second"
        head -20 "$work/$name.diff"
        echo "fuzz $name: FAILED, two runs from the same seed went different ways"
        return 1
    fi
    echo "fuzz $name: the same way twice, $amount inputs, $(sha1sum < "$work/$name.first" | cut -c 1-12)"
}

pids=() failed=0
for name in "${names[@]}"; do
    if [ -n "$same" ]; then twice "$name" & else one "$name" & fi
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
