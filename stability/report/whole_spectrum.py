"""The singular values of the whole network at its first points, all or the leading ones, as the budget allows."""

from __future__ import annotations

import itertools
import math

from stability.foundation.formats import Format, coarsest
from stability.jacobians.leading_values import leading_spectrum
from stability.jacobians.of_networks import states_of
from stability.jacobians.products import PrefixProducts
from stability.reading.derivatives import derivatives
from stability.reading.network import Network
from stability.reading.refusals import normalises_by_batch
from stability.report.case import Case
from stability.report.finding import reason

#: States of up to so many numbers may have all their singular values.
ALL_VALUES = 1000
#: The cubes of the widths of all layers, summed: a QR factorisation a layer. So many take half a second, or ten times
#: as long where all cores are busy.
ALL_WORK = 5e8
#: How many points, and how many leading values.
POINTS, LEADING = 2, 4
#: Seconds that leading values may take.
LEAST_TIME = 6.0


def spectrum_of(case: Case) -> tuple[float, ...]:
    """Return logs of the singular values at the first points, the largest first; none where they cannot be had.

    Of states of more than 1,000 numbers, or where all would take too long, these are the leading values at one point,
    of the network as one layer.
    """
    if not case.seen.is_cut or case.seen.random or normalises_by_batch(case.net):
        causes = {
            "no state separates its layers": not case.seen.is_cut,
            "it draws random numbers": case.seen.random,
            "a batch normalisation takes the statistics of the batch": normalises_by_batch(case.net),
        }
        case.notes.append(f"there is no spectrum: {', '.join(words for words, holds in causes.items() if holds)}")
        return ()
    if case.late:
        case.notes.append("the spectrum was left out: the budget does not allow it")
        return ()
    part = case.reading.part(0, min(POINTS, case.reading.inputs.points))
    try:
        with part.forward() as found:
            widths = [state.width for state in found.states("a state")]
        work = POINTS * math.fsum(max(width, 1) ** 3 for width in widths)
        every = max(widths[0], widths[-1]) <= ALL_VALUES and work <= ALL_WORK
        products = [a * b for a, b in itertools.pairwise(widths)]
        every = every and 8 * POINTS * 7 * max(*products, widths[0] ** 2) <= case.memory * 2**30
        if case.left < case.lasts + (1.0 if every else LEAST_TIME):
            case.notes.append("the spectrum was left out: the budget does not allow it")
            return ()
        if every:
            logs = _all(case, part)
        else:
            logs = _leading(case, case.reading.part(0, 1))
            case.notes.append(f"the spectrum has the {len(logs)} leading values of {min(widths[0], widths[-1])}")
    except TimeoutError:
        case.notes.append("the spectrum was left out: it was not done when the budget was spent")
        return ()
    except (ValueError, TypeError, RuntimeError) as error:
        case.notes.append(f"there is no spectrum: {reason(error)}")
        return ()
    return tuple(sorted((log for log in logs if log > -math.inf), reverse=True))


def _all(case: Case, part: Network) -> list[float]:
    with states_of(part) as (names, states):
        products = PrefixProducts(states[0].size, states[0].width)
        layers = derivatives(names, states)
        spacing = Format(coarsest([layer.dtype for layer in layers])).spacing
        for layer in layers:
            if case.left < 0:
                raise TimeoutError
            products.multiply(layer.jacobian(), spacing)
        logs: list[float] = products.log_values()[:, : min(state.width for state in states)].flatten().tolist()
    return logs


def _leading(case: Case, part: Network) -> list[float]:
    with part.forward(math_attention=True) as found:
        states = found.states("a state")
        few = min(LEADING, states[0].width, states[-1].width)
        values = leading_spectrum(
            ("the network",), [states[0], states[-1]], few, progress=False, apart=True, until=case.until
        )
    logs: list[float] = values.log_values[-1].flatten().tolist()
    return logs
