"""What a loss of power leaves of a folder: a model of the disk, fed with the journal of the fault layer.

    disk = Disk.of(base_tree)                  what survived the last time: {path: bytes, or None for a folder}
    records = read_journal(path)
    disk.replay(records, count)                the first `count` records have happened
    tree = disk.crash(random.Random(seed))     one of the folders that may be found afterwards
    write_tree(tree, folder)

The rules, as nasty as POSIX lets ext4 and xfs be, and no nastier:
- The data and size of a file last once a sync of that file that began after them has ended well. Its name does not.
- Names last once their folder was synced. Of the changes of one folder since then a prefix lasts, since both file systems
  journal names in order; different folders are cut at different places.
- Data written since the last sync lasts sector by sector (512 or 4096 bytes), each as of any moment since; a sector is
  never torn inside, and bytes that a write does not touch never change ("powersafe overwrite").
- The size is that of any moment since. Below it, what did not last reads as before; where there was nothing as zeros, or
  with `stale` as the bytes of some older file, unless the space was allocated ahead.
- A cut of the file that did not last may come undone; one that lasted takes what stood behind it with it for good.
- A sync that failed saves nothing, then or later: the kernel has dropped the pages.
"""

import os
import shutil
import struct

(INIT_DIR, INIT_FILE, CREATE, MKDIR, UNLINK, RMDIR, RENAME, WRITE, TRUNC, FALLOC, SYNC, SYNCED) = range(1, 13)
_HEADER = struct.Struct("=QQQQ")
_RECORD = struct.Struct("=IBBHQQQQqIHH")
_MAGIC = 0x314C4E524A534646
assert _RECORD.size == 56


class Record:
    __slots__ = ("number", "op", "done", "time_ns", "id", "other", "pos", "result", "name", "name2", "data")

    def __repr__(self):
        return f"#{self.number} op {self.op} id {self.id} other {self.other} pos {self.pos} {self.name}->{self.name2} {len(self.data)} bytes = {self.result}"


def read_journal(path):
    """All records of a run, oldest first."""
    with open(path, "rb") as file:
        magic, _, used, count = _HEADER.unpack(file.read(_HEADER.size))
        assert magic == _MAGIC, "the layer was not loaded"
        data = file.read(used - _HEADER.size)
    out, at = [], 0
    while at < len(data):
        record = Record()
        (length, record.op, state, name_len, record.time_ns, record.id, record.other, record.pos, record.result, data_len,
         name2_len, _) = _RECORD.unpack_from(data, at)
        record.number, record.done = len(out), state == 1
        pos = at + _RECORD.size
        record.name = data[pos : pos + name_len].decode()
        record.name2 = data[pos + name_len : pos + name_len + name2_len].decode()
        pos += name_len + name2_len
        record.data = data[pos : pos + data_len]
        if record.op == WRITE and record.done and record.result >= 0:
            record.data = record.data[: record.result]
        out.append(record)
        at += length
    assert len(out) in (count, count - 1), (len(out), count)  # it may have been killed between the two
    return out


class File:
    """`data` is what is known to last; `pending` are changes since, oldest first: (number, "write", pos, bytes) or
    (number, "size", n). Those below `dropped` were lost by a sync that failed."""

    def __init__(self, data=b""):
        self.data = bytearray(data)
        self.pending = []
        self.allocated = 0  # space was reserved below this position
        self.dropped = -1

    def _apply(self, data, change):
        if change[1] == "write":
            _, _, pos, new = change
            if len(data) < pos:
                data.extend(bytes(pos - len(data)))
            data[pos : pos + len(new)] = new
        else:
            size = change[2]
            if size < len(data):
                del data[size:]
            else:
                data.extend(bytes(size - len(data)))

    def synced(self, before):
        rest = []
        for change in self.pending:
            if change[0] < before and change[0] > self.dropped:
                self._apply(self.data, change)
            else:
                rest.append(change)
        self.pending = rest

    def now(self):
        """As a reader sees it while the power is on."""
        data = bytearray(self.data)
        for change in self.pending:
            self._apply(data, change)
        return bytes(data)

    def crash(self, rng, mood, sector, stale):
        count = len(self.pending)
        if count == 0 or mood == "nothing":
            return bytes(self.data)
        if mood == "everything":
            return self.now()
        moment = rng.choice([0, count, rng.randint(0, count), rng.randint(0, count)])  # of the size
        if rng.random() < 0.3:  # everything up to a moment, in order
            data = bytearray(self.data)
            for change in self.pending[:moment]:
                self._apply(data, change)
            return bytes(data)
        return self._scattered(rng, moment, sector, stale)

    def _scattered(self, rng, moment, sector, stale):
        sizes, cuts = self._sizes()
        size = sizes[moment]
        last_cut = max((i for i in cuts if i <= moment), default=0)
        next_cut = min((i for i in cuts if i > moment), default=None)
        data = bytearray(self.data)
        chosen = {}

        def moment_of(index):
            if index not in chosen:
                low, high = 0, len(self.pending)
                if last_cut and (index + 1) * sector > sizes[last_cut]:
                    low = last_cut
                if next_cut is not None and (index + 1) * sector > sizes[next_cut]:
                    high = next_cut - 1
                chosen[index] = rng.choice([low, high, rng.randint(low, high)])
            return chosen[index]

        for i, change in enumerate(self.pending):
            if change[1] == "size":
                if i + 1 in cuts and i + 1 <= last_cut:
                    del data[change[2] :]
                continue
            _, _, pos, new = change
            at = pos
            while at < pos + len(new):
                index = at // sector
                end = min((index + 1) * sector, pos + len(new))
                if moment_of(index) > i:
                    self._apply(data, (0, "write", at, new[at - pos : end - pos]))
                elif stale and at >= max(len(self.data), self.allocated):
                    self._apply(data, (0, "write", at, rng.randbytes(end - at)))
                at = end
        del data[size:]
        data.extend(bytes(size - len(data)))
        return bytes(data)

    def _sizes(self):
        """The size before each change and after the last one, and after how many changes the file had been cut."""
        sizes, cuts = [len(self.data)], set()
        for i, change in enumerate(self.pending):
            if change[1] == "write":
                sizes.append(max(sizes[-1], change[2] + len(change[3])))
            else:
                if change[2] < sizes[-1]:
                    cuts.add(i + 1)
                sizes.append(change[2])
        return sizes, cuts


class Folder:
    """`entries` are the names that last; `pending` changes since: (number, removed name or None, added name or None, object)."""

    def __init__(self):
        self.entries = {}
        self.pending = []
        self.dropped = -1

    @staticmethod
    def _apply(entries, change):
        _, removed, added, obj = change
        if removed is not None:
            entries.pop(removed, None)
        if added is not None:
            entries[added] = obj

    def synced(self, before):
        # A name that lasts makes those before it last, too: the prefix rule.
        while self.pending and self.pending[0][0] < before and self.pending[0][0] > self.dropped:
            self._apply(self.entries, self.pending.pop(0))

    def cut(self, count):
        entries = dict(self.entries)
        for change in self.pending[:count]:
            self._apply(entries, change)
        return entries


class Disk:
    def __init__(self):
        self.root = Folder()
        self.objects = {}

    @classmethod
    def of(cls, tree):
        disk = cls()
        for path in sorted(tree):
            folder = disk.root
            parts = path.split("/")
            for part in parts[:-1]:
                folder = folder.entries[part]
            folder.entries[parts[-1]] = Folder() if tree[path] is None else File(tree[path])
        return disk

    def replay(self, records, start, count):
        """Let records[start:count] happen."""
        for record in records[start:count]:
            if record.done and record.result < 0 and record.op != SYNCED:
                continue
            self._step(record, records)

    def _step(self, r, records):
        number, op = r.number, r.op
        if op == INIT_DIR and r.other == 0:
            self.objects[r.id] = self.root
        elif op in (INIT_DIR, INIT_FILE):
            self.objects[r.id] = self.objects[r.other].entries[r.name]
        elif op in (CREATE, MKDIR):
            self.objects[r.id] = Folder() if op == MKDIR else File()
            self.objects[r.other].pending.append((number, None, r.name, self.objects[r.id]))
        elif op in (UNLINK, RMDIR):
            self.objects[r.other].pending.append((number, r.name, None, None))
        elif op == RENAME:
            self.objects[r.other].pending.append((number, r.name, r.name2, self.objects[r.id]))
        elif op == WRITE:
            self.objects[r.id].pending.append((number, "write", r.pos, r.data))
        elif op == TRUNC:
            obj = self.objects[r.id]
            obj.pending.append((number, "size", r.pos))
            obj.allocated = min(obj.allocated, r.pos)
        elif op == FALLOC:
            self.objects[r.id].allocated = max(self.objects[r.id].allocated, r.pos + r.other)
        elif op == SYNCED and r.result == 0:
            self.objects[r.id].synced(r.other)
        elif op == SYNCED:
            self.objects[r.id].dropped = r.other

    def _tree(self, entries_of, data_of):
        tree = {}

        def walk(folder, prefix):
            for name, obj in sorted(entries_of(folder).items()):
                if isinstance(obj, Folder):
                    tree[prefix + name] = None
                    walk(obj, prefix + name + "/")
                else:
                    tree[prefix + name] = data_of(obj)

        walk(self.root, "")
        return tree

    def now(self):
        """The folder as the running process sees it."""
        return self._tree(lambda f: f.cut(len(f.pending)), lambda f: f.now())

    def least(self):
        """What lasts whatever happens."""
        return self._tree(lambda f: f.entries, lambda f: bytes(f.data))

    def crash(self, rng):
        """One of the folders that the next start may find."""
        mood = rng.choice(["nothing", "everything", "mixed", "mixed", "mixed", "mixed", "mixed", "mixed"])
        sector, stale = rng.choice([512, 512, 4096]), rng.random() < 0.25

        def entries_of(folder):
            count = len(folder.pending)
            return folder.cut({"nothing": 0, "everything": count}.get(mood, rng.choice([0, count, rng.randint(0, count)])))

        return self._tree(entries_of, lambda f: f.crash(rng, rng.choice(["nothing", "everything", "mixed", "mixed"])
                                                        if mood == "mixed" else mood, sector, stale))


def settle(records, base, folder):
    """The process may have been killed within its last call: make the last record say what that call has done. Returns the
    disk after all records, and how it differs from the folder."""
    tree = read_tree(folder)
    last = records[-1]
    full = last.data
    cuts = [len(full)]
    if not last.done:
        cuts += [0] + [n for n in range(1, len(full)) if (last.pos + n) % 4096 == 0] if last.op == WRITE else [None]
    for cut in cuts:
        last.data = full if cut is None else full[:cut]
        disk = Disk.of(base)
        disk.replay(records, 0, len(records) - (1 if cut is None else 0))
        wrong = difference(disk.now(), tree)
        if not wrong:
            break
    return disk, wrong


def read_tree(folder):
    """What stands in a folder: {path: bytes, or None for a folder}."""
    tree = {}
    for here, folders, files in os.walk(folder):
        prefix = os.path.relpath(here, folder)
        prefix = "" if prefix == "." else prefix + "/"
        for name in folders:
            tree[prefix + name] = None
        for name in files:
            with open(os.path.join(here, name), "rb") as file:
                tree[prefix + name] = file.read()
    return tree


def write_tree(tree, folder):
    """Make `folder` hold exactly that."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for path in sorted(tree):
        full = os.path.join(folder, path)
        if tree[path] is None:
            os.mkdir(full)
        else:
            with open(full, "wb") as file:
                file.write(tree[path])


def difference(a, b):
    """The first paths in which two trees differ, for a message."""
    out = [f"only in the first: {p}" for p in sorted(set(a) - set(b))]
    out += [f"only in the second: {p}" for p in sorted(set(b) - set(a))]
    for path in sorted(set(a) & set(b)):
        if a[path] != b[path]:
            x, y = a[path] or b"", b[path] or b""
            at = next((i for i in range(min(len(x), len(y))) if x[i] != y[i]), min(len(x), len(y)))
            out.append(f"{path}: {len(x)} and {len(y)} bytes, differ from {at} on")
    return out[:10]
