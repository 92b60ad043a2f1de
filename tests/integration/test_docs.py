#!/usr/bin/python3
"""What docs/DURABILITY.md promises has a test, and the test that it names is there."""

import ast
import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDERS = ("broker", "client", "kernel", "plugins", "sdk", "tests")
DOCUMENT = os.path.join(ROOT, "docs", "DURABILITY.md")
NAMED = re.compile(r"`(test_\w+\.(?:py|c)): ([\w.]+)`")
NO_TEST = ("the same", "not offered yet")


def files():
    """Every test program by its name."""
    out = {}
    for top in FOLDERS:
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in names:
                if name.startswith("test_") and name.endswith((".py", ".c")):
                    out.setdefault(name, []).append(os.path.join(folder, name))
    return out


def tests_of(path):
    """Names of the tests of a program, "Class.test" or "test". Inherited ones count for each class."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if path.endswith(".c"):
        bodies = re.findall(r"^static void (\w+)\(void \*\*\w+\)$", text, re.M)
        return {name for name in bodies if len(re.findall(rf"\b{name}\b", text)) > 1 or f"({name.removeprefix('test_')})" in text}
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}

    def methods(node):
        own = {item.name for item in node.body if isinstance(item, ast.FunctionDef) and item.name.startswith("test")}
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                own |= methods(classes[base.id])
        return own

    return {f"{name}.{method}" for name, node in classes.items() for method in methods(node)}


class Durability(unittest.TestCase):
    def setUp(self):
        with open(DOCUMENT, encoding="utf-8") as file:
            self.text = file.read()
        self.files = files()

    def test_every_test_that_is_named_exists(self):
        named = NAMED.findall(self.text)
        self.assertGreater(len(named), 40)
        for file, test in named:
            paths = self.files.get(file, [])
            self.assertTrue(paths, f"{file} is named, and there is none")
            self.assertTrue(any(test in tests_of(path) for path in paths), f"{file} has no {test}")

    def test_whatever_looks_like_a_test_is_one(self):
        """A name that the pattern above misses would go unchecked."""
        for word in re.findall(r"`([^`]*test_[^`]*)`", self.text):
            self.assertTrue(NAMED.fullmatch(f"`{word}`") or word == "tests/integration/test_docs.py", word)

    def test_every_cell_has_a_proof(self):
        rows = [line for line in self.text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
        cells = 0
        for row in rows:
            parts = [part.strip() for part in row.strip("|").split(" | ")]
            if parts[0] in ("event", "what is harmed"):
                width = len(parts)
                continue
            self.assertEqual(len(parts), width, row)
            for cell in parts[2:]:
                cells += 1
                self.assertTrue(NAMED.search(cell) or any(word in cell for word in NO_TEST), f"no proof: {cell}")
            self.assertTrue(NAMED.search(row), row)
        self.assertGreater(cells, 40)


class Operations(unittest.TestCase):
    """docs/OPERATIONS.md: each failure names the test that checks its row, and the test does."""

    def test_every_row_is_checked_by_its_test(self):
        with open(os.path.join(ROOT, "docs", "OPERATIONS.md"), encoding="utf-8") as file:
            rows = [line.strip().strip("|").split(" | ") for line in file if line.startswith("| ") and "test_" in line]
        self.assertGreater(len(rows), 20)
        known = files()
        for row in rows:
            self.assertEqual(len(row), 5, row)
            (file, test), = NAMED.findall(row[4])
            self.assertEqual(len(known.get(file, [])), 1, file)
            self.assertIn(test, tests_of(known[file][0]), row)
            with open(known[file][0], encoding="utf-8") as source:
                self.assertIn(row[0].strip(), source.read(), f"{file} does not look at this row")


class Tuning(unittest.TestCase):
    """docs/guides/tuning.md speaks of options, settings and metrics that there are."""

    def test_what_it_names_is_there(self):
        texts = {}
        for name in ("guides/tuning.md", "METRICS.md", "CONFIGURATION.md"):
            with open(os.path.join(ROOT, "docs", name), encoding="utf-8") as file:
                texts[name] = file.read()
        words = re.findall(r"`([^`\n]+)`", texts["guides/tuning.md"])
        metrics = {word for word in words if re.match(r"(streamit|process)_\w+$", word)}
        self.assertGreater(len(metrics), 15)
        self.assertEqual({name for name in metrics if f"| `{name}` |" not in texts["METRICS.md"]}, set())
        options = {re.split("[= ]", word)[0] for word in words if re.match(r"(broker|node|plugins\.\w+)\.\w+", word)}
        self.assertGreater(len(options), 8)
        for option in options:
            section, _, name = option.rpartition(".")
            self.assertRegex(texts["CONFIGURATION.md"], rf"(?s)## `{section}`.*?\n\| `{name}` \|", option)
        for setting in {word.partition("=")[0] for word in words if re.fullmatch(r"[a-z]+(\.[a-z]+)+(=\w+)?", word)} - options:
            self.assertIn(f"| `{setting}` |", texts["CONFIGURATION.md"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
