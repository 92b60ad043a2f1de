"""Figures as a table: medians of rounds, the spread, the target and whether it is met, the limits of the same round."""

import dataclasses
import statistics
from typing import Callable, Optional, Tuple, Union

HEAD = ["figure", "median", "lowest .. highest", "target", "met", "limit, same round", "its median", "ratio"]


@dataclasses.dataclass(frozen=True)
class Limit:
    """What the figure stands beside: a bare loop, or a peer. A name that no round has was skipped."""
    text: str
    name: str
    factor: float = 1.0  # into the figure's unit


@dataclasses.dataclass(frozen=True)
class Row:
    group: str
    title: str
    unit: str
    value: Union[str, Callable]  # a name in the round's values, or a function of them
    settings: str
    sense: str = ""  # ">=", "<=", or none: reported only
    goal: Union[float, Callable, None] = None
    goal_text: Optional[str] = None  # what the goal is made of, if it is no plain number
    limits: Tuple[Limit, ...] = ()

    def of(self, values):
        """The figure in one round; None when the round has it not."""
        try:
            return self.value(values) if callable(self.value) else values[self.value]
        except KeyError:
            return None

    def goal_of(self, values):
        return self.goal(values) if callable(self.goal) else self.goal


def number(value):
    """Three significant digits, without exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.3f}"


def shown(value, unit):
    """A figure: shares of a hundred with a tenth, as their targets have."""
    return f"{value:.1f}" if unit.startswith("%") and value >= 10 else number(value)


def meets(value, target):
    """target: (sense, number)."""
    return value >= target[1] if target[0] == ">=" else value <= target[1]


def median(rounds, name):
    return statistics.median(r[name] for r in rounds)


def spread(rounds, name):
    values = [r[name] for r in rounds]
    return f"{number(min(values))} .. {number(max(values))}"


class Figure:
    """One row over all rounds that have it."""

    def __init__(self, row, rounds):
        self.row = row
        self.rounds = [r for r in rounds if row.of(r) is not None]
        self.values = [row.of(r) for r in self.rounds]
        self.measured = bool(self.values)
        self.median = statistics.median(self.values) if self.values else 0.0
        self.goal = self.share = None
        self.met = True
        if self.measured and row.sense:
            # The goal may move with the round's limits: it is held against the figure round by round.
            goals = [row.goal_of(r) for r in self.rounds]
            self.goal = statistics.median(goals)
            self.share = statistics.median(v / g if g else float(v > 0) for v, g in zip(self.values, goals))
            self.met = meets(self.share, (row.sense, 1.0)) if callable(row.goal) else meets(self.median, (row.sense, self.goal))

    def cells(self):
        row = self.row
        if not self.measured:
            return [row.title, "not measured", "", self.target(), "NO" if row.sense else ""]
        low, high = shown(min(self.values), row.unit), shown(max(self.values), row.unit)
        return [row.title, f"{shown(self.median, row.unit)} {row.unit}", f"{low} .. {high}", self.target(), self.verdict()]

    def target(self):
        row = self.row
        if not row.sense:
            return ""
        if row.goal_text is None:
            return f"{row.sense} {number(row.goal)}"
        return f"{row.sense} {row.goal_text}" + (f" = {number(self.goal)}" if callable(row.goal) and self.goal is not None else "")

    def verdict(self):
        if not self.row.sense:
            return ""
        return "yes" if self.met else f"MISSED, {self.share:.2f} of it"

    def limit_cells(self, limit, skipped):
        pairs = [(v, r[limit.name] * limit.factor) for v, r in zip(self.values, self.rounds) if limit.name in r]
        if not pairs:
            return [limit.text, "skipped: " + skipped.get(limit.name, "not measured"), ""]
        top = statistics.median(b for _, b in pairs)
        # Ratios are taken round by round: the machine's state cancels out of them.
        # A share has been taken of its limit already.
        ratios = [v / b for v, b in pairs if b > 0 and self.row.unit != "%"]
        return [limit.text, number(top), f"{statistics.median(ratios):.2f}" if ratios else ""]


def lines(figures, skipped):
    """The table's rows as lists of texts, one line for each limit of a figure."""
    out = []
    for figure in figures:
        cells = figure.cells()
        if not figure.row.limits or not figure.measured:
            out.append(cells + [""] * 3)
            continue
        for limit in figure.row.limits:
            out.append(cells + figure.limit_cells(limit, skipped))
            cells = [""] * 5
    return out


def plain(rows, head=None):
    """For a terminal."""
    head = head or HEAD
    widths = [max(len(row[i]) for row in [head] + rows) for i in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head] + rows]
    return "\n".join([text[0], "-" * max(map(len, text))] + text[1:])


def markdown(rows, head):
    text = ["| " + " | ".join(row) + " |" for row in [head] + rows]
    return "\n".join([text[0], "|" + " --- |" * len(head)] + text[1:])
