#!/usr/bin/python3
"""The layer check: who may include whom.

The rule is the picture in README.md: arrows point down only. Each folder has a row in LAYERS that names the folders
whose headers it may include; everything else is an error that names file, line, both folders and the rule. Tests of a
folder may use what the folder may, and the stand-in host of tests/lib.

    tools/check_layers.py             check the tree
    tools/check_layers.py --self-test prove that the check finds what it looks for
"""

import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# `plugins/*` stands for one plugin: itself, never a sibling, but for plugins/common, which is no plugin and is compiled
# into each that uses it. `proto/internal` holds the cluster commands, which are a format at rest and no wire: the broker
# writes them, and never sees the public API. The command line reaches down to the kernel for `plugin check`, which must
# refuse a plugin in the very words of the daemon.
LAYERS = {
    "sdk/include": {"sdk/include"},
    "sdk": {"sdk/include", "sdk"},
    "proto": {"sdk/include", "proto"},
    "proto/internal": {"proto/internal"},
    "kernel": {"sdk/include", "sdk", "kernel"},
    "broker": {"sdk/include", "sdk", "kernel", "broker", "proto/internal"},
    "plugins/*": {"sdk/include", "sdk", "proto", "plugins/*"},
    "daemon": {"sdk/include", "kernel", "broker", "daemon"},
    "client": {"sdk/include", "sdk", "proto", "client"},
    "cli": {"sdk/include", "sdk", "kernel", "proto", "client", "cli"},
    "bench": {"sdk/include", "sdk", "proto", "client", "cli", "bench"},
    "tools": {"sdk/include", "sdk", "kernel", "broker", "tools"},
    "tests": {"sdk/include", "sdk", "kernel", "broker", "proto", "proto/internal", "client", "tests"},
}

# Single files that reach further than their folder, each by a decision. The driver of streamit-conform runs a plugin in
# the daemon's own kernel (docs/decisions/0007-conformance.md); the suites beside it keep to the SDK.
EXCEPTIONS = {
    "sdk/conformance/host.c": {"kernel"},
    "bench/storage.c": {"tests"},  # the stand-in for the kernel: an engine is measured alone
}

# Libraries whose types must not appear outside the folders named.
LIBRARIES = [
    (re.compile(r"^libconfig\.h"), ("kernel", "tools", "tests")),
    (re.compile(r"^apr[_a-z]*\.h|^apr-1"), ("kernel", "plugins/*", "client", "cli", "daemon", "tests")),
    (re.compile(r"^grpc/"), ("plugins/*", "client", "bench")),  # bench: a bare server, as a limit
    (re.compile(r"^microhttpd\.h"), ("plugins/*",)),
    (re.compile(r"^google/protobuf"), ("proto", "plugins/*", "client")),
]

C_STANDARD = {
    "assert.h", "complex.h", "ctype.h", "errno.h", "fenv.h", "float.h", "inttypes.h", "iso646.h", "limits.h",
    "locale.h", "math.h", "setjmp.h", "signal.h", "stdalign.h", "stdarg.h", "stdatomic.h", "stdbool.h", "stddef.h",
    "stdint.h", "stdio.h", "stdlib.h", "stdnoreturn.h", "string.h", "tgmath.h", "threads.h", "time.h", "uchar.h",
    "wchar.h", "wctype.h",
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
# Where compile commands let a quoted include start, besides the including file's own folder.
SEARCH = ["", "sdk/include", "sdk/batch", "tests/lib", "client/include", "client"]


def sources(root):
    """Tracked and new C files, without what .gitignore leaves out."""
    try:
        out = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"], capture_output=True,
                             text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        out = []
        for folder, names, files in os.walk(root):
            names[:] = [n for n in names if not n.startswith((".", "build"))]
            out += [os.path.relpath(os.path.join(folder, f), root) for f in files]
    return sorted(p for p in set(out) if p.endswith((".c", ".h", ".cc", ".cpp", ".hpp"))
                  and os.path.exists(os.path.join(root, p)))


def layer_of(path):
    """The row of LAYERS that a file belongs to, and the plugin's name where there is one."""
    parts = path.split("/")
    if parts[0] == "plugins" and len(parts) > 2:
        return "plugins/*", parts[1]
    if path.startswith("sdk/include/"):
        return "sdk/include", None
    if path.startswith("proto/streamit/internal/"):
        return "proto/internal", None
    return (parts[0], None) if parts[0] in LAYERS else (None, None)


def resolve(root, path, name):
    """The project file that an include means, or None: a system header."""
    here = os.path.normpath(os.path.join(os.path.dirname(path), name))
    if not here.startswith("..") and os.path.exists(os.path.join(root, here)):
        return here
    if name.endswith(".pb-c.h") or name.endswith(".pb.h"):
        return "proto/" + name
    for start in SEARCH + ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 1)]:
        candidate = os.path.normpath(os.path.join(start, name))
        if os.path.exists(os.path.join(root, candidate)):
            return candidate
    return None


def check_include(root, path, kind, name):
    """One sentence why the include is not allowed, or None."""
    layer, plugin = layer_of(path)
    if layer is None:
        return None
    in_tests = "/tests/" in path
    target = resolve(root, path, name)
    if target is None:
        if layer == "sdk/include" and name not in C_STANDARD:
            return f"sdk/include uses C standard headers and itself only, not <{name}>"
        first = name.split("/")[0]
        if kind == '"' and (first in LAYERS or first == "plugins") and "/" in name:
            target = name
        else:
            for pattern, allowed in LIBRARIES:
                if pattern.match(name) and layer not in allowed and not in_tests:
                    return f"{layer} may not use <{name}>: only {', '.join(allowed)}"
            return None
    their_layer, their_plugin = layer_of(target)
    if their_layer is None or (in_tests and target.startswith("tests/lib/")):
        return None
    if their_layer in EXCEPTIONS.get(path, ()):
        return None
    if their_layer not in LAYERS[layer]:
        return f"{layer} may not include {target}: only {', '.join(sorted(LAYERS[layer]))}"
    if their_layer == "plugins/*" and their_plugin not in (plugin, "common"):
        return f"plugin {plugin} may not include {target}: plugins meet through interfaces of the SDK"
    return None


def check(root):
    errors = []
    for path in sources(root):
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                match = INCLUDE.match(line)
                why = match and check_include(root, path, match.group(1), match.group(2))
                if why:
                    errors.append(f"{path}:{number}: {why}")
    return errors


def self_test():
    """A tree with one violation of each rule, and one clean file: all of the first, none of the second."""
    bad = {
        "sdk/include/streamit/x.h": "#include <apr_pools.h>\n",
        "kernel/a.c": '#include "broker/b.h"\n',
        "broker/b.h": "",
        "broker/c.c": '#include "plugins/one/one.h"\n',
        "broker/g.c": "#include <grpc/grpc.h>\n",
        "plugins/one/one.h": "",
        "plugins/two/two.c": '#include "../one/one.h"\n',
        "plugins/two/kern.c": '#include "kernel/k.h"\n',
        "plugins/common/c.c": '#include "../one/one.h"\n',
        "plugins/common/c.h": "",
        "kernel/k.h": "",
        "sdk/conformance/runner.c": '#include "kernel/k.h"\n',
        "client/c.c": '#include "broker/b.h"\n',
        "broker/wire.c": '#include "streamit/v1/streamit.pb-c.h"\n',
    }
    good = {"sdk/conformance/host.c": '#include "kernel/k.h"\n',
            "broker/commands.c": '#include "streamit/internal/cluster.pb-c.h"\n',
            "plugins/one/common.c": '#include "../common/c.h"\n',
            "plugins/one/plugin.c": '#include "one.h"\n#include "streamit/x.h"\n#include <stdio.h>\n'}
    with tempfile.TemporaryDirectory() as root:
        for path, text in {**bad, **good}.items():
            os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
        found = {line.split(":")[0] for line in check(root)}
    wanted = {path for path, text in bad.items() if text}
    if found != wanted:
        print(f"check_layers: self test failed: missed {sorted(wanted - found)}, wrongly found {sorted(found - wanted)}")
        return 1
    return 0


def main():
    if "--self-test" in sys.argv[1:]:
        return self_test()
    errors = check(ROOT)
    for line in errors:
        print(line)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
