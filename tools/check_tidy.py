#!/usr/bin/python3
"""House rules that no compiler knows: one line for each breach, exit 1 if there is one.

    tools/check_tidy.py [BUILD]       with BUILD also the exported symbols of its plugins
    tools/check_tidy.py --self-test   prove that each rule finds its breach

Rules: no banned call; no note for later without an issue number; files up to 1,000 lines, opened by their story; unit
tests that assert something; a README.md with the fixed headings in every folder of source; one exported symbol a
plugin; no path of somebody's machine.
"""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILE_LINES_MAX = 1000

BANNED = re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|strtok|gets|atoi|atol|atof)\s*\(")
# `time` and `rand` make runs differ from each other: plugins and broker take both from their host.
BANNED_BELOW = re.compile(r"(?<![\w.>])(time|rand|random|srand)\s*\(")
LATER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!\s*\(#\d+\))")
MACHINE = re.compile(r"(?<![\w.])/(home|work|root|Users)/[a-z]")
HEADINGS = ["Purpose", "Not here", "Invariants", "Files in reading order", "Threads and locks", "Formats",
            "Crash points and recovery", "How to test"]
NEEDED = ["Purpose", "How to test"]
SOURCE = (".c", ".h")
TEXT = (".c", ".h", ".py", ".sh", ".md", ".txt", ".cmake", ".yml", ".cfg", ".proto")


def tracked(root):
    out = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True,
                         check=True).stdout.splitlines()
    return sorted(p for p in set(out) if os.path.isfile(os.path.join(root, p)))


def strip_comments(text):
    """Blank out comments and strings, so that prose may name what code may not; keeps line numbers."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def line_of(text, pos):
    return text.count("\n", 0, pos) + 1


def check_c(path, text):
    errors = []
    code = strip_comments(text)
    for match in BANNED.finditer(code):
        errors.append(f"{path}:{line_of(code, match.start())}: {match.group(1)} is banned")
    if path.startswith(("plugins/", "broker/", "sdk/")) and "/tests/" not in path:
        for match in BANNED_BELOW.finditer(code):
            errors.append(f"{path}:{line_of(code, match.start())}: {match.group(1)}(): take time and randomness from the host")
    if not text.lstrip().startswith("/*"):
        errors.append(f"{path}:1: a file opens with its story, a comment that says what it is for")
    if os.path.basename(path).startswith("test_"):
        for match in re.finditer(r"static void (test_\w+)\s*\(void \*\*\w+\)\s*\{(.*?)\n\}", text, re.S):
            if not re.search(r"assert_|fail_msg|fail\(|expect_|check_|require_|verify_", match.group(2)):
                errors.append(f"{path}:{line_of(text, match.start())}: {match.group(1)} asserts nothing")
    return errors


def check_text(path, text):
    errors = []
    if text.count("\n") > FILE_LINES_MAX and path.endswith((".c", ".h", ".py", ".sh")):
        errors.append(f"{path}: {text.count(chr(10))} lines, at most {FILE_LINES_MAX}")
    if not path.startswith("tools/check_"):
        for match in LATER.finditer(text):
            errors.append(f"{path}:{line_of(text, match.start())}: {match.group(1)} without an issue number: {match.group(1)}(#12)")
        for match in MACHINE.finditer(text):
            errors.append(f"{path}:{line_of(text, match.start())}: a path of somebody's machine")
    return errors


def check_readme(folder, text):
    errors = []
    found = [h.strip() for h in re.findall(r"^##+ (.+)$", text, re.M)]
    for heading in NEEDED:
        if heading not in found:
            errors.append(f"{folder}/README.md: no heading '{heading}'")
    ours = [h for h in found if h in HEADINGS]
    if ours != [h for h in HEADINGS if h in ours]:
        errors.append(f"{folder}/README.md: headings out of order, expected {', '.join(HEADINGS)}")
    if text.count("\n") > 90:
        errors.append(f"{folder}/README.md: {text.count(chr(10))} lines; a screen, at most two")
    return errors


def check_readmes(root, paths):
    """Every folder that holds source has a README.md, except `tests` folders and headers inside one component."""
    folders = {os.path.dirname(p) for p in paths if p.endswith(SOURCE + (".py", ".proto"))}
    folders |= {"docs", "tests", "tools", "etc", "tests/integration"}
    errors = []
    for folder in sorted(f for f in folders if f and not re.search(r"(^|/)(tests|include|wrong)(/|$)|^proto/", f)
                         or f in ("tests", "tests/integration")):
        readme = os.path.join(root, folder, "README.md")
        if not os.path.isdir(os.path.join(root, folder)):
            continue
        if not os.path.exists(readme):
            errors.append(f"{folder}: no README.md")
            continue
        with open(readme, encoding="utf-8") as file:
            errors += check_readme(folder, file.read())
    return errors


def check_symbols(build):
    """A plugin exports `sti_plugin` and nothing else."""
    errors = []
    folder = os.path.join(build, "lib", "streamit")
    names = sorted(n for n in os.listdir(folder) if n.endswith(".so")) if os.path.isdir(folder) else []
    for name in names:
        out = subprocess.run(["nm", "-D", "--defined-only", os.path.join(folder, name)], capture_output=True, text=True,
                             check=True).stdout
        symbols = sorted(line.split()[-1] for line in out.splitlines() if line.strip())
        if symbols != ["sti_plugin"]:
            errors.append(f"{name}: exports {', '.join(symbols) or 'nothing'}; a plugin exports sti_plugin alone")
    return errors


def check(root, build):
    errors = []
    paths = tracked(root)
    for path in paths:
        if not path.endswith(TEXT):
            continue
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            text = file.read()
        errors += check_text(path, text)
        if path.endswith(SOURCE):
            errors += check_c(path, text)
    errors += check_readmes(root, paths)
    if build:
        errors += check_symbols(build)
    return errors


def self_test():
    story = "/* Why. */\n"
    cases = [
        (check_c("broker/a.c", story + "int f(void) { return atoi(x); }\n"), "atoi is banned"),
        (check_c("broker/a.c", story + "long f(void) { return time(0); }\n"), "from the host"),
        (check_c("broker/a.c", "int x;\n"), "story"),
        (check_c("x/tests/test_a.c", story + "static void test_a(void **state)\n{\n    (void)state;\n}\n"), "asserts nothing"),
        (check_text("a.c", "/* TODO later */\n"), "without an issue number"),
        (check_text("a.c", "\n" * 1001), "at most 1000"),
        (check_text("a.md", "see /home/joe\n"), "machine"),
        (check_readme("x", "# x\n## How to test\n"), "no heading 'Purpose'"),
        (check_readme("x", "## How to test\n## Purpose\n"), "out of order"),
    ]
    clean = check_c("broker/a.c", story + 'int f(void) { return my_time(1) + s->time(2); } /* atoi( */ char *s = "gets(";\n')
    clean += check_text("a.c", "TODO(#7)\n") + check_readme("x", "## Purpose\n## How to test\n")
    bad = [want for got, want in cases if not any(want in line for line in got)]
    if bad or clean:
        print(f"check_tidy: self test failed: missed {bad}, wrongly found {clean}")
        return 1
    return 0


def main():
    if "--self-test" in sys.argv[1:]:
        return self_test()
    errors = check(ROOT, sys.argv[1] if len(sys.argv) > 1 else None)
    for line in errors:
        print(line)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
