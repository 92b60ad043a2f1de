#!/usr/bin/python3
"""The fault points of a fault build, one a line: the file that holds it and the point's name.

    tools/fault_points.py [BUILD]     default: build-faults

A build without fault points lists nothing. The points stand in the ELF section `sti_fault_points` of each program and
plugin (see sdk/include/streamit/fault.h).
"""

import os
import struct
import sys

SECTION = "sti_fault_points"


def section(path, name=SECTION):
    """The bytes of a section of a 64-bit ELF file; empty when it has none of that name."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:6] not in (b"\x7fELF\x02\x01", b"\x7fELF\x02\x02"):
        raise ValueError(f"{path}: no 64-bit ELF file")
    order = "<" if data[5] == 1 else ">"
    (table,) = struct.unpack_from(order + "Q", data, 0x28)
    size, count, names = struct.unpack_from(order + "HHH", data, 0x3A)
    rows = [struct.unpack_from(order + "IIQQQQ", data, table + size * i) for i in range(count)]
    strings = rows[names][4]
    for name_at, _, _, _, at, length in rows:
        begin = strings + name_at
        if data[begin : data.index(b"\0", begin)] == name.encode():
            return data[at : at + length]
    return b""


def files(build):
    """What a node consists of: the daemon and its plugins."""
    plugins = os.path.join(build, "lib", "streamit")
    return [os.path.join(build, "bin", "streamitd")] + [os.path.join(plugins, n) for n in sorted(os.listdir(plugins))]


def points(build):
    """{name of a file: sorted names of its points}, without files that have none."""
    out = {}
    for path in files(build):
        found = sorted(p.decode() for p in section(path).split(b"\0") if p)
        if found:
            out[os.path.basename(path)] = found
    return out


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "build-faults"
    for name, found in points(build).items():
        for point in found:
            print(name, point)


if __name__ == "__main__":
    main()
