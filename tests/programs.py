"""Programs in pages of Markdown, and what is printed against what the page shows."""

import re

#: A program, and the fence of `text` right after it, which is what it prints.
PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")
_SECONDS = re.compile(r"\b[\d.]+ s\b")


def differs(printed, shown):
    """Return the first line of what was printed that is not as shown, None where all are.

    Numbers may differ from machine to machine: those with decimals are held to 3 % or 3 of their last digit, whole
    ones to themselves, and seconds to nothing.
    """
    lines, wanted = (_SECONDS.sub("# s", text).strip().splitlines() for text in (printed, shown))
    if len(lines) != len(wanted):
        return f"{len(lines)} lines for {len(wanted)}:\n{printed}"
    for line, other in zip(lines, wanted, strict=True):
        if _words(line) != _words(other):
            return f"{line!r} for {other!r}"
        for one, two in zip(_NUMBER.findall(line), _NUMBER.findall(other), strict=True):
            mantissa, _, exponent = two.partition("e")
            decimals = len(mantissa.partition(".")[2])
            whole = not decimals and not exponent
            allowed = 0.0 if whole else max(3 * 10.0 ** (int(exponent or 0) - decimals), 0.03 * abs(float(two)))
            if abs(float(one) - float(two)) > allowed:
                return f"{line!r} for {other!r}"
    return None


def _words(line):
    return _NUMBER.sub("#", " ".join(line.split()))
