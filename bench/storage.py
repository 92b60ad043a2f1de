#!/usr/bin/python3
"""Figures of the storage engine alone, each beside the bare loop that it cannot beat: bench/storage.py BUILD [OPTIONS].

The program bench/storage makes one round; its sides take turns within it. Ratios are taken round by round, then their
median, so that the state of the disk cancels out. With --write the table goes into docs/benchmarks.md, between its marks.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import measure
import table

ROUND_S = 120
BEGIN, END = "<!-- storage engine: written by bench/storage.py -->", "<!-- end of the storage engine -->"
ONE = "at the interface, called on one thread as on the strand"

# Figure, its name, unit, target; the limit's name and text; how the target is to be read ("ratio" of figure to limit,
# "less" limit in the figure's unit, or the plain "value"); settings.
ROWS = (
    ("append 1 MiB batches", "append_mb", "MB/s", (">=", 0.85), ("append_bare_mb", "bare pwritev of 1 MiB"), "ratio",
     f"onroll, segments of 128 MiB, index each 4 KiB; {ONE}; turns of 8"),
    ("append 1 MiB, 99th percentile", "append_p99_ms", "ms", None, ("append_bare_p99_ms", "the same, 99th percentile"), "ratio",
     "the same; rolls and their syncs in the background included"),
    ("append 1 MiB, slowest of 1000", "append_p999_ms", "ms", None, ("append_bare_p999_ms", "the same, slowest of 1000"), "ratio",
     "the same"),
    ("commit, 16 waiters", "commit16_per_s", "appends/s", (">=", 0.80),
     ("commit16_bare_per_s", "bare pwritev of 16 KiB and fdatasync"), "ratio", f"commit, 1 KiB each, one in flight each; {ONE}"),
    ("commit, 1 KiB alone, median", "commit1_us", "us", ("<=", 60), ("commit1_bare_us", "bare pwritev of 1 KiB and fdatasync"), "less",
     f"commit, from the call to the synced end; {ONE}"),
    ("warm read by slices", "read_mb", "MB/s", None, None, "value", "1 MiB a read, mapped memory, the second time over"),
    ("copied by it, of a million bytes", "read_copied_per_million", "bytes", ("<=", 2000), None, "value",
     "counter of all bytes that the engine read into memory of its own; they are batch headers, no payload"),
    ("idle partitions: open files", "idle_open_files", "", ("<=", 0), None, "value", "10,000 with a record each, after idle_close_ms"),
    ("idle partitions: maps", "idle_maps", "", ("<=", 0), None, "value", "the same"),
    ("idle partitions: anonymous memory of each", "idle_anon_each", "bytes", ("<=", 2048), None, "value", "the same; growth of RssAnon"),
    ("open of 5,000 segments", "open_ms", "ms", ("<=", 50), None, "value", "after an orderly end"),
    ("log bytes read by it", "open_bytes", "bytes", ("<=", 0), None, "value", "the same"),
)


def judged(one, row):
    """What the target is held against, in one round."""
    _, name, _, _, limit, how, _ = row
    if how == "ratio":
        return one[name] / one[limit[0]]
    return one[name] - one[limit[0]] if how == "less" else one[name]


def figures(rounds):
    """The rows as lists of texts, and the titles of those that missed."""
    out, missed = [], []
    for row in ROWS:
        title, name, unit, target, limit, how, _ = row
        value = statistics.median(judged(one, row) for one in rounds)
        if target is not None and not table.meets(value, target):
            missed.append(title)
        relation = {"ratio": f"{value:.2f}", "less": f"{value:+.0f} {unit}", "value": ""}[how]
        wanted = ""
        if target is not None:
            wanted = f"{target[0]} " + {"ratio": f"{target[1]:.2f} of it", "less": f"it + {target[1]} {unit}",
                                        "value": f"{target[1]:,} {unit}".strip()}[how]
        out.append([title, f"{table.number(table.median(rounds, name))} {unit}".strip(), table.spread(rounds, name),
                    "" if limit is None else limit[1], "" if limit is None else table.number(table.median(rounds, limit[0])),
                    relation, wanted, "" if target is None else "NO" if title in missed else "yes"])
    return out, missed


HEAD = ["figure", "median", "lowest .. highest", "limit, same round", "its median", "against it", "target", "met"]


def section(rounds, facts):
    rows, _ = figures(rounds)
    parts = [BEGIN, "## The storage engine alone", "Written by `make bench-storage`, which is `bench/storage.py build --write`.",
             table.markdown([list(fact) for fact in facts], ["", ""]), table.markdown(rows, HEAD),
             table.markdown([[row[0], row[6]] for row in ROWS], ["figure", "settings"]), END]
    return "\n\n".join(parts) + "\n"


def put(text, new):
    """The document with the section replaced, or added at its end."""
    before, mark, rest = text.partition(BEGIN)
    after = rest.partition(END)[2].lstrip("\n") if mark else ""
    return before.rstrip("\n") + "\n\n" + new + ("\n" + after if after else "")


def one_round(build, folder, counts, sets):
    place = tempfile.mkdtemp(dir=folder)
    try:
        done = subprocess.run([os.path.join(build, "bench", "storage"), os.path.join(build, "lib", "streamit", "storage_mmap.so"),
                               place, *map(str, counts), *sets], capture_output=True, text=True, timeout=ROUND_S, check=False)
        if done.returncode != 0:
            raise measure.Failure(done.stderr.strip() or f"exit status {done.returncode}")
        return json.loads(done.stdout)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description="Figures of the storage engine beside bare loops.")
    parser.add_argument("build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", help="folder on the disk in question")
    parser.add_argument("--quick", action="store_true", help="small numbers, which mean nothing")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of storage_mmap")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--require", action="store_true", help="exit 1 when a target is missed")
    options = parser.parse_args()
    counts = (16, 16, 20) if options.quick else (512, 400, 10000)
    folder = tempfile.mkdtemp(prefix="streamit-bench-", dir=options.dir)
    facts, before, own, begin = measure.machine(folder), measure.busy_s(), os.times(), time.monotonic()
    try:
        rounds = []
        for turn in range(options.rounds):
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
            # The figures that do not depend on the machine's state are taken once.
            rounds.append(one_round(options.build, folder, counts if turn == 0 else (*counts[:2], 0), options.set))
            rounds[-1] = {**rounds[0], **rounds[-1]}
    except (measure.Failure, OSError, ValueError, subprocess.TimeoutExpired) as error:
        sys.exit(f"bench: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    others, stolen = measure.others_share(before, sum(os.times()[:4]) - sum(own[:4]), time.monotonic() - begin)
    facts += [("rounds", str(len(rounds))),
              ("noise", f"others used {others:.0f} % of the cores meanwhile, the hypervisor took {stolen:.0f} %")]
    rows, missed = figures(rounds)
    print("\n".join(f"{name}: {text}" for name, text in facts) + "\n")
    widths = [max(len(line[i]) for line in [HEAD] + rows) for i in range(len(HEAD))]
    for line in [HEAD] + rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    if options.write:
        path = os.path.join(measure.ROOT, "docs", "benchmarks.md")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(put(text, section(rounds, facts)))
    if missed and options.require:
        sys.exit("bench: missed: " + ", ".join(missed))


if __name__ == "__main__":
    main()
