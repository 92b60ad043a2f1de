#!/usr/bin/python3
"""Every planted bug is caught, by a case that is about it; the control without a bug passes.

Quick: each mutant meets the cases named here. With STREAMIT_TEST_FULL=1 it meets the whole suite, until the first case
fails. A bug of bugs.h that is not listed here fails the test.
"""

import os
import re
import subprocess
import sys
import unittest

BUILD = os.environ["STREAMIT_BUILD"]
FULL = os.environ.get("STREAMIT_TEST_FULL") == "1"
TOOL = os.path.join(BUILD, "bin", "streamit-conform")
MUTANTS = os.path.join(BUILD, "tests", "mutants")
BUGS_H = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bugs.h")

# The cases that must catch it, and what the reason must say. A bug that shows as a hang has a short limit.
CAUGHT_BY = {
    "answer_lost_on_error": (["append_refusals"], r"`done` was not called within 3 s", 3),
    "answer_twice": (["append_and_read"], r"`done` of append was called twice", None),
    "blob_not_replaced": (["blobs"], r"blob leader-epoch-checkpoint has 10 bytes", None),
    "blob_put_in_two_steps": (["crash", "beside_appends"], r"blob", None),
    "close_loses_tail": (["reopen"], r"written_end is \d+, expected \d+", None),
    "configure_ignored": (["configure", "rolls_by_age"], r"expected", None),
    "epoch_stays": (["truncate"], r"last_epoch is 4, expected 3", None),
    "event_after_close": (["random_reopens", "random_ops"], r"a `synced` event came after close", None),
    "gap_accepted": (["append_refusals"], r"append", None),
    "list_visits_twice": (["list"], r"twice", None),
    "lock_across_done": (["callbacks_hold_no_lock"], r"did not end within .*while a callback is under way", 3),
    "no_wait_waits": (["no_wait_needs_nobody"], r"did not end within .*while the executor is busy", 3),
    "read_skips_batch": (["append_and_read"], r"a read at \d+ begins with the batch at \d+", None),
    "recovery_cuts_more": (["crash"], r"the log ends at \d+ after a crash", None),
    "refusal_appends_part": (["append_refusals"], r"written_end is 2, expected 1", None),
    "remove_by_name": (["remove_other"], r"is IN_USE, expected OK", None),
    "remove_keeps_data": (["remove"], r"remove", None),
    "segment_too_long": (["rolls_by_size"], r"expected", None),
    "short_read": (["read_bounds"], r"a read ends inside the batch", None),
    "slice_reused": (["slices_outlive"], r"slice", None),
    "status_undocumented": (["append_and_read"], r"INTERNAL, which storage.h does not name", None),
    "sync_answers_old_end": (["sync"], r"synced is -?\d+, expected", None),
    "synced_too_far": (["append_and_read"], r"synced_end", None),
    "time_one_batch_late": (["time"], r"offset is \d+, expected \d+", None),
    "topic_id_ignored": (["topic_id"], r"is OK, expected NOT_FOUND", None),
    "trim_too_much": (["trim"], r"expected", None),
    "truncate_leaves_batch": (["truncate"], r"truncate|written_end", None),
    "would_block_always": (["append_and_read"], r"a read that may wait ended with WOULD_BLOCK", None),
    "peer_answer_short": (["sizes"], r"came back as \d+, or others", None),
    "peer_cancel_ignored": (["cancel"], r"`done` was not called within 3 s", 3),
    "peer_cluster_ignored": (["other_cluster"], r"is OK, expected PERMISSION_DENIED", None),
    "peer_done_after_hang_up": (["hang_up"], r"hang_up returned before a `done`", None),
    "peer_done_twice": (["call"], r"`done` of a call was called twice", None),
    "peer_down_untold": (["sever"], r"`state` was not told that it broke", 3),
    "peer_lost_as_unavailable": (["sever"], r"is UNAVAILABLE, expected CONNECTION_LOST", None),
    "peer_node_ignored": (["other_node"], r"is OK, expected PRECONDITION", None),
    "peer_order_swapped": (["order"], r"handlers began out of order", None),
    "peer_reference_dropped": (["released"], r"reference", None),
    "peer_reference_kept": (["released"], r"references are still held", None),
    "peer_sentence_lost": (["call"], r"the handler's sentence is lost", None),
    "peer_timeout_early": (["timeout"], r"a timeout of 150 ms came after \d+ us", None),
    "peer_timeout_ignored": (["timeout"], r"`done` was not called within 3 s", 3),
    "peer_withdraw_early": (["withdraw_waits"], r"withdraw returned while a handler ran", None),
}


def run(name, *args):
    return subprocess.run([TOOL, os.path.join(MUTANTS, name + ".so"), "--seed", "1", *args], capture_output=True,
                          text=True, timeout=500, check=False)


class Mutants(unittest.TestCase):
    def test_list(self):
        with open(BUGS_H, encoding="utf-8") as file:
            bugs = set(re.findall(r"^    BUG_(\w+)", file.read(), re.M)) - {"none"}
        self.assertEqual(bugs, set(CAUGHT_BY), "bugs.h and this test list the same bugs")
        self.assertGreaterEqual(len(bugs), 10)

    def test_control(self):
        for name in ("none", "none_memory", "none_peer"):
            done = run(name)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertRegex(done.stdout, r"\n\d\d passed, 0 failed, \d+ skipped\n$")

    def check(self, name):
        cases, reason, limit = CAUGHT_BY[name]
        args = ["--fail-fast"]
        if not FULL:
            args += [arg for case in cases for arg in ("--case", case)]
        if limit is not None:
            args += ["--timeout-s", str(limit)]
        done = run(name, *args)
        self.assertEqual(done.returncode, 1, f"{name} is caught\n" + done.stdout + done.stderr)
        failed = re.search(r"^FAIL \w+\.(\w+): (.*)$", done.stdout, re.M)
        self.assertIsNotNone(failed, done.stdout)
        if not FULL:
            self.assertIn(failed.group(1), cases)
            self.assertRegex(failed.group(2), reason)
            self.assertRegex(failed.group(2), r" at \w+\.c:\d+$|did not end within")


def add_tests():
    for name in CAUGHT_BY:
        setattr(Mutants, "test_" + name, lambda self, name=name: self.check(name))


add_tests()

if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]], verbosity=2)
