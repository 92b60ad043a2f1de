"""The fault layer from Python: a node under it, and its rules. See faultfs/README.md.

    layer = faultfs.Layer(folder, root=data_dir, journal=True)
    node.prefix = layer.prefix()            # the daemon then runs under the layer
    rule = layer.rule("write", path="storage_mmap/t-0/*.log", error=errno.EIO, after=3, times=1)
    ...
    rule.hits                               # was it reached?
    rule.clear()
"""

import mmap
import os
import struct

import harness

LIBRARY = os.path.join(harness.BUILD, "tests", "libfaultfs.so")
CALLS = {"open": 1, "read": 2, "write": 4, "sync": 8, "mmap": 16, "rename": 32, "unlink": 64, "fallocate": 128,
         "truncate": 256, "mkdir": 512, "close": 1024, "advise": 2048}
SHORT = -1

_HEADER = struct.Struct("=QQ")
_RULE = struct.Struct("=IIiIIIQQQQQ128s")
_RULES = 16
_MAGIC = 0x314C52544353464F
assert _RULE.size == 192


class Rule:
    """One rule of a running layer."""

    def __init__(self, layer, index):
        self._layer, self._at = layer, _HEADER.size + index * _RULE.size

    def _get(self, offset):
        return struct.unpack_from("=Q", self._layer.map, self._at + offset)[0]

    @property
    def seen(self):
        """Calls that matched."""
        return self._get(40)

    @property
    def hits(self):
        """Calls that were failed, shortened or delayed."""
        return self._get(48)

    def clear(self):
        struct.pack_into("=I", self._layer.map, self._at, 0)


class Layer:
    """The files that a layer works with, and the environment that puts a daemon under it."""

    def __init__(self, folder, root, journal=False, journal_bytes=512 << 20, boot_id=None, real_sync=True, name="layer"):
        self.root = os.path.realpath(root)
        self.control = os.path.join(folder, f"{name}.control")
        self.journal = os.path.join(folder, f"{name}.journal") if journal else None
        self.boot_id = os.path.join(folder, f"{name}.boot_id") if boot_id else None
        self.real_sync = real_sync
        with open(self.control, "wb") as file:
            file.write(_HEADER.pack(_MAGIC, _RULES) + bytes(_RULE.size * _RULES))
        with open(self.control, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        if self.journal:
            with open(self.journal, "wb") as file:
                file.truncate(journal_bytes)
        if self.boot_id:
            with open(self.boot_id, "w", encoding="ascii") as file:
                file.write(boot_id + "\n")

    def prefix(self):
        """What stands before the daemon's own command line."""
        sets = [f"LD_PRELOAD={LIBRARY}", f"FAULTFS_ROOT={self.root}", f"FAULTFS_CONTROL={self.control}"]
        sets += [f"FAULTFS_JOURNAL={self.journal}"] if self.journal else []
        sets += [f"FAULTFS_BOOT_ID={self.boot_id}"] if self.boot_id else []
        sets += [] if self.real_sync else ["FAULTFS_NOSYNC=1"]
        return ["/usr/bin/env", *sets]

    def rule(self, *calls, path="", error=0, delay_us=0, per_million=0, kill=False, after=0, times=0, seed=1):
        """Arm a rule; the first that is free. Calls by the names of CALLS; path as a shell pattern below the root."""
        for index in range(_RULES):
            at = _HEADER.size + index * _RULE.size
            if struct.unpack_from("=I", self.map, at)[0] == 0:
                bits = sum(CALLS[c] for c in calls)
                _RULE.pack_into(self.map, at, 0, bits, error, delay_us, per_million, int(kill), after, times, 0, 0, seed,
                                path.encode())
                struct.pack_into("=I", self.map, at, 1)
                return Rule(self, index)
        raise AssertionError("all rules are in use")

    def clear(self):
        for index in range(_RULES):
            Rule(self, index).clear()

    def close(self):
        self.map.close()
        for path in (self.control, self.journal, self.boot_id):
            if path and os.path.exists(path):
                os.unlink(path)


def available():
    """Is there a layer in this build? Sanitizer builds have none."""
    return os.access(LIBRARY, os.R_OK)
