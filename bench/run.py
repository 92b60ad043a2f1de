#!/usr/bin/python3
"""The benchmark: a real node, a real client, the machine's own limits and its peers, in turns.

    bench/run.py BUILD [--rows GROUP,...] [--rounds N] [--write] [--require] [--profile] [--dir FOLDER] [--quick] [--json FILE]

In each round a figure is measured right beside the limits that belong to it, so that both meet the machine in the same state. A
figure is the median over the rounds, with the lowest and the highest beside it. `--rows list` names the groups; what each row
is held against stands in rows.py, how to read the table and what is done about noise in README.md.

Everything is bounded: no group begins that would pass the time budget, and the table says in how many rounds each was made.
Processes die with this one, the folder is removed however it ends.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
if __name__ == "__main__" and len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
    os.environ["STREAMIT_BUILD"] = sys.argv.pop(1)  # what is imported below looks for the programs there

import measure  # noqa: E402
import rows  # noqa: E402
import table  # noqa: E402
from measure import Failure, harness  # noqa: E402

RESULTS = os.path.join(HERE, "results")
SYMBOLS = 10  # of a profile
PROFILE_S = 80  # beyond the budget, for what was missed


def measure_all(bench, groups, options):
    """All rounds that fit the budget. Returns the values of each, and the longest time of each group."""
    rounds, took, begin = [], {}, time.monotonic()
    for turn in range(options.rounds):
        bench.begin(turn)
        for name, function, most in groups:
            if most and turn >= most:
                continue
            left = options.budget_s - (time.monotonic() - begin)
            if took.get(name, 0) > left or (turn > 0 and left < 0):
                print(f"bench: no time left for {name} in round {turn + 1}", file=sys.stderr, flush=True)
                continue
            print(f"round {turn + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            started = time.monotonic()
            function(bench)
            took[name] = max(took.get(name, 0), time.monotonic() - started)
        bench.finish()
        rounds.append(bench.values)
    return rounds, took


# ---- profiles


def top_symbols(path):
    """The symbols with the most samples of a recording, as "12.3% name"; [k] stands before those of the kernel."""
    done = subprocess.run(["perf", "report", "-i", path, "--stdio", "--no-children", "-g", "none", "--sort", "symbol"],
                          capture_output=True, text=True, errors="replace", check=False, timeout=120)
    found = re.findall(r"^ *([\d.]+%) +(\[[k.]\]) (.*?)(?:  .*)?$", done.stdout, re.M)
    return [f"{percent} {'[k] ' if where == '[k]' else ''}{symbol}" for percent, where, symbol in found[:SYMBOLS]]


def profile(bench, groups, wanted, until):
    """Measure groups once more under perf. Returns {(figure, side): [symbol]}; figures of such a run count nowhere,
    and none begins after `until`."""
    out = {}
    if shutil.which("perf") is None:
        print("bench: no perf here: a missed target stands with its CPU only (apt-get install linux-perf)", file=sys.stderr)
        return out
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        under = rows.Bench(bench.folder, bench.plan, perf=folder)
        under.begin(1000)
        try:
            for name, function, _ in groups:
                if name in wanted and time.monotonic() < until:
                    print(f"profile: {name}", file=sys.stderr, flush=True)
                    function(under)
            under.finish()
        finally:
            under.close()
        for path in sorted(os.listdir(folder)):
            figure, side, _ = path.rsplit(".", 2)
            out[(figure, side)] = top_symbols(os.path.join(folder, path))
    return out


# ---- the report


def cores(rounds, groups):
    """Per figure: cores busy on either side, and milliseconds of CPU for a MB, which the noise of others hardly moves."""
    out = []
    for title, name, group in rows.CORES:
        have = [r for r in rounds if name + "_mb" in r]
        if group in groups and have:
            line = [title]
            for side in ("_node_cpu", "_client_cpu"):
                cost = statistics.median(r[name + side] / r[name + "_mb"] for r in have) * 1e3
                line += [f"{table.median(have, name + side):.2f}", f"{cost:.2f}"]
            out.append(line)
    return out


def rates(rounds):
    have = [r for r in rounds if "crc_mb" in r]
    return [[title, f"{table.number(table.median(have, name))} {unit}", table.spread(have, name)]
            for title, name, unit in rows.RATES if have]


def histograms(found):
    """The latencies of all rounds as one, for each load."""
    out = []
    for name, what, title in rows.HISTOGRAMS:
        if (name, what) in found:
            whole = measure.merge(found[(name, what)])
            out.append([title, f"{whole['count']:,}"] + [table.number(measure.percentile_ms(whole, q))
                                                        for q in (0.5, 0.9, 0.99, 0.999, 0.9999)] + [table.number(whole["max"] / 1000)])
    return out


CORES_HEAD = ["figure", "node, cores", "node, ms/MB", "client, cores", "client, ms/MB"]
RATES_HEAD = ["what", "median", "lowest .. highest"]
HISTOGRAM_HEAD = ["load", "records", "p50", "p90", "p99", "p99.9", "p99.99", "max, ms"]


class Report:
    def __init__(self, rounds, groups, facts, bench, profiles=None):
        self.rounds, self.groups, self.facts = rounds, groups, facts
        self.skipped, self.found, self.profiles = bench.skipped, bench.histograms, profiles or {}
        self.figures = [table.Figure(row, rounds) for row in rows.ROWS if row.group in groups]
        self.missed = [f for f in self.figures if not f.measured or not f.met]

    def missed_groups(self):
        return {figure.row.group for figure in self.missed}

    def settings(self):
        return [[f.row.title, f.row.settings] for f in self.figures] + [list(pair) for pair in rows.BESIDE]

    def profile_lines(self):
        return [[figure, side, ", ".join(symbols)]
                for (figure, side), symbols in sorted(self.profiles.items())]

    def text(self):
        """For a terminal."""
        parts = ["\n".join(f"{name}: {text}" for name, text in self.facts), table.plain(table.lines(self.figures, self.skipped)),
                 "settings\n" + "\n".join(f"  {title}: {text}" for title, text in self.settings())]
        if lines := cores(self.rounds, self.groups):
            parts.append(table.plain(lines, CORES_HEAD))
        if lines := histograms(self.found):
            parts.append(table.plain(lines, HISTOGRAM_HEAD))
        if lines := rates(self.rounds):
            parts.append(table.plain(lines, RATES_HEAD))
        if self.profiles:
            parts.append("profiles of missed targets, % of the samples\n" + "\n".join(f"  {figure}, {side}: {symbols}"
                                                                                 for figure, side, symbols in self.profile_lines()))
        parts.append(f"{len(self.figures) - len(self.missed)} of {len(self.figures)} rows met or without a target; missed: "
                     + ("; ".join(f.row.title for f in self.missed) or "none"))
        return "\n\n".join(parts)

    def document(self):
        """docs/benchmarks.md."""
        parts = ["# Benchmarks", "Written by `make bench`, which is `bench/run.py build --write --profile`. How to read it: "
                 "`bench/README.md`. 1 KB is 1,024 bytes, 1 MB of a rate a million.",
                 table.markdown([list(row) for row in self.facts], ["", ""]),
                 table.markdown(table.lines(self.figures, self.skipped), table.HEAD),
                 "## Under which settings", table.markdown(self.settings(), ["figure", "settings"]),
                 "## Where the time goes", "Cores that each side kept busy, and its CPU for a MB of values; medians.",
                 table.markdown(cores(self.rounds, self.groups), CORES_HEAD),
                 "## Latencies of all rounds together", "Milliseconds, from the histograms of every round, at most 1/64 too high.",
                 table.markdown(histograms(self.found), HISTOGRAM_HEAD),
                 "## One core of this machine", table.markdown(rates(self.rounds), RATES_HEAD)]
        if self.profiles:
            parts += ["## Profiles of missed targets", "Samples of a run of its own under `perf record -e cpu-clock`, whose figures "
                      "count nowhere: the symbols with the most.",
                      table.markdown([[a, b, c.replace("|", "/")] for a, b, c in self.profile_lines()], ["figure", "side", "symbols"])]
        return "\n\n".join(parts) + "\n"


def others_sections(text):
    """What other programs have written behind ours, from the first of their marks on."""
    at = text.find("<!-- ")
    return "" if at < 0 else "\n" + text[at:]


def write_document(report):
    path = os.path.join(measure.ROOT, "docs", "benchmarks.md")
    with open(path, encoding="utf-8") as file:
        kept = others_sections(file.read())
    with open(path, "w", encoding="utf-8") as file:
        file.write(report.document() + kept)


# ---- the whole


def chosen(text):
    """The groups of --rows, in their own order."""
    names = [name for name, _, _ in rows.GROUPS]
    if text == "list":
        for name in names:
            print(f"{name:14}" + "; ".join(row.title for row in rows.ROWS if row.group == name))
        sys.exit(0)
    wanted = names if text is None else text.split(",")
    unknown = [name for name in wanted if name not in names]
    if unknown:
        sys.exit(f"bench: --rows: no group {unknown[0]!r}; there are {', '.join(names)}")
    return [group for group in rows.GROUPS if group[0] in wanted]


def arguments():
    parser = argparse.ArgumentParser(prog="bench/run.py BUILD", description="Figures of this machine beside its limits.")
    parser.add_argument("--rows", default=None, metavar="GROUP,...", help="only these; `list` names them")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each figure (default 5)")
    parser.add_argument("--budget-s", type=float, default=570, help="begin no group that would pass it (default 570)")
    parser.add_argument("--dir", default=None, help="make the data folder here: which disk is measured")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md, and keep the histograms in bench/results")
    parser.add_argument("--json", default=None, metavar="FILE", help="write every value of every round")
    parser.add_argument("--require", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--profile", action="store_true", help="measure what was missed once more under perf")
    parser.add_argument("--profile-all", action="store_true", help="the same, missed or not")
    parser.add_argument("--priority", action="store_true", help="on a busy machine: go before others (root)")
    parser.add_argument("--quick", action="store_true", default=os.environ.get("BENCH_QUICK") == "1",
                        help="prove that it works (BENCH_QUICK=1); the figures mean nothing")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    if options.quick:
        options.rounds, options.write, options.profile = 1, False, False
    if options.write and options.rows is not None:
        parser.error("--write: the document holds all rows")
    return options


def results_folder():
    path = os.path.join(RESULTS, time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + measure.commit()[:12])
    os.makedirs(path)
    return path


def whole(folder, groups, options):
    """Measure everything. Returns the report."""
    plan = rows.Plan(options.quick)
    measure.need_disk(folder, (12.5e9 if any(name == "memory" for name, _, _ in groups) else 4e9) if not options.quick else 1e9)
    bench = rows.Bench(folder, plan, results_folder() if options.write else None)
    facts, before, own, begin = measure.machine(folder), measure.busy_s(), measure.own_s(), time.monotonic()
    try:
        rounds, took = measure_all(bench, groups, options)
    finally:
        bench.close()
    elapsed = time.monotonic() - begin
    others, stolen = measure.others_share(before, measure.own_s() - own, elapsed)
    facts += [("rounds", f"{len(rounds)}, partitions 3, disk-use and memory 1" if len(rounds) > 1 else "1"),
              ("noise", f"others used {others:.0f} % of the cores meanwhile, the hypervisor took {stolen:.0f} %"
                        f"{'; the benchmark went first' if options.priority else ''}"),
              ("time", f"{elapsed:.0f} s: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items()) + " s a round")]
    if options.quick:
        facts.append(("quick", "yes: so little was measured that no figure here means anything"))
    names = [name for name, _, _ in groups]
    report = Report(rounds, names, facts, bench)
    wanted = set(names) - set(rows.NO_PROFILE) if options.profile_all else report.missed_groups() - set(rows.NO_PROFILE)
    if (options.profile or options.profile_all) and wanted:
        report.profiles = profile(bench, groups, wanted, begin + options.budget_s + PROFILE_S)
    values = {"facts": dict(facts), "rounds": rounds, "skipped": bench.skipped}
    for path in [options.json] + ([os.path.join(bench.results, "values.json")] if bench.results else []):
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                json.dump(values, file, indent=1)
    return report


def main():
    options = arguments()
    groups = chosen(options.rows)
    missing = [p for p in (harness.DAEMON, harness.CLI, os.path.join(harness.BUILD, "bench", "raw_tcp"))
               if not os.access(p, os.X_OK)]
    if missing:
        sys.exit(f"bench: not built: {missing[0]}")
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, lambda which, _: sys.exit(128 + which))
    if options.priority:
        measure.go_first()
    folder = tempfile.mkdtemp(prefix="streamit-bench-", dir=options.dir)
    try:
        report = whole(folder, groups, options)
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failure, AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        sys.exit(f"bench: {error}")
    finally:
        harness._kill_all()
        shutil.rmtree(folder, ignore_errors=True)
    print(report.text())
    if options.write:
        write_document(report)
    if report.missed and options.require:
        sys.exit("bench: missed: " + ", ".join(f.row.title for f in report.missed))


if __name__ == "__main__":
    main()
