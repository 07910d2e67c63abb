"""What becomes of many random networks, counted on the command line: how many, and from which seed on."""

import collections
import sys


def count_outcomes(outcome):
    """Print the outcomes that are wrong or refused, by seed, and how often each kind comes."""
    count, start = (*map(int, sys.argv[1:]), 0)[:2]
    counts = collections.Counter()
    for seed in range(start, start + count):
        what = outcome(seed)
        counts[what.partition(":")[0]] += 1
        if what.startswith(("wrong", "refused")):
            print(seed, what, flush=True)
    print(dict(counts))
