#!/usr/bin/env python3
"""Sums up runs of `meson test`: count_tests.py (TESTLOG.json EXIT_CODE_OF_MESON)...

A doctest program counts by its test cases, less those that said SKIPPED; another program by its own last line
`N passed, N failed[, N skipped]` if it prints one, else as one test. A program that crashed, timed out or exited non-zero counts at
least one failure whatever it printed. Exits 1 if anything failed or nothing ran."""
import json
import re
import sys

DOCTEST = re.compile(r"\[doctest\] test cases:\s*(\d+)\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed")
OWN = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$", re.M)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def count(result, text):
    """(passed, failed, skipped) of one test program."""
    text = ANSI.sub("", text)
    doctest, own = DOCTEST.findall(text), OWN.findall(text)
    if doctest:
        passed, failed = int(doctest[-1][1]), int(doctest[-1][2])
        skipped = min(passed, len(set(re.findall(r"SKIPPED: .*", text))))
        passed -= skipped
    elif own:
        passed, failed, skipped = (int(n or 0) for n in own[-1])
    else:
        passed, failed, skipped = 0, 0, 0
        if result in ("OK", "EXPECTEDFAIL"):
            passed = 1
        elif result == "SKIP":
            skipped = 1
    if result not in ("OK", "EXPECTEDFAIL", "SKIP") and failed == 0:
        failed = 1
    return passed, failed, skipped


def main():
    totals, bad = [0, 0, 0], []
    for path, meson_exit in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
        run, run_bad, began, ended = [0, 0, 0], [], [], []
        try:
            lines = open(path, encoding="utf-8", errors="replace").read().splitlines()
        except OSError:
            lines = []
        for line in filter(None, lines):
            test = json.loads(line)
            numbers = count(test["result"], test.get("stdout", "") + test.get("stderr", ""))
            run = [a + b for a, b in zip(run, numbers)]
            if test.get("starttime"):
                began.append(test["starttime"])
                ended.append(test["starttime"] + test["duration"])
            if numbers[1]:
                run_bad.append(f"{test['name']} ({test['result']})")
        if run[1] == 0 and (meson_exit != 0 or run[0] == 0):
            run[1], run_bad = 1, [f"meson test exited with {meson_exit}, {run[0]} tests passed"]
        if len(sys.argv) > 3:  # several runs: say which
            label = re.sub(r".*/([^/]+)/meson-logs/testlog-?(.*)\.json$", r"\1 \2", path).strip()
            seconds = max(ended, default=0) - min(began, default=0)
            print(f"{label}: {run[0]} passed, {run[1]} failed, {run[2]} skipped in {seconds:.0f} s")
            run_bad = [f"{label}: {name}" for name in run_bad]
        totals = [a + b for a, b in zip(totals, run)]
        bad += run_bad
    passed, failed, skipped = totals
    if bad:
        print("failed:", ", ".join(bad))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


sys.exit(main())
