"""The rule that says which stretches of a network are its layers, and what they are called.

1. The elements of a Sequential, ModuleList or ModuleDict are layers, each with all stretches that its call covers. An
   element that holds two or more of one class in stretches of their own is opened, so that its blocks are the layers.
   So is one that is itself a container, unless its neighbour in the list is of its class.
2. In stretches that no element covers the outermost module called there is a layer.
3. What has no module belongs to the layer before it.
4. Calls that share a stretch are one layer, called as the module that holds just them, else "first ... last".
5. A module that is called again is "cell#2"; a container that is called again is one layer a call.
6. With no module at all each cut is a layer, called as its operation; with no cut the whole is one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from stability.foundation.checks import check_name
from stability.reading.cuts import Path
from stability.reading.forward_recording import Call

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

#: What `layers=` may be: a container's name, names of modules, "every", or nothing.
Choice = str | tuple[str, ...] | None


@dataclass
class Span:
    """A call, and the first and the last stretch that it covers."""

    call: Call
    first: int
    last: int

    @property
    def parent(self) -> str:
        return self.call.base.rpartition(".")[0]


@dataclass
class LayerRun:
    """A layer: its name, the class of what it is, and the first and the last of its stretches.

    Attributes:
        calls: the names of the calls that it was named after.
        between: the names of calls after it and before the next layer that belong to neither.
    """

    name: str
    kind: str
    first: int
    last: int
    calls: list[str] = field(default_factory=list)
    between: tuple[str, ...] = ()


def check_choice(layers: object) -> Choice:
    """Return what `layers=` says, once it is known to be a string, a sequence of strings or None."""
    if layers is None or (isinstance(layers, str) and layers):
        return layers
    names = tuple(layers) if isinstance(layers, Iterable) else ()
    if not isinstance(layers, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"layers is {layers!r}: expected the name of a Sequential, ModuleList or ModuleDict, a list of modules' "
            'names, "every", or what st.layers returns'
        )
    if not names:
        raise ValueError("layers names nothing: expected at least one module")
    return names


def spans_of(path: Path, calls: Iterable[Call]) -> list[Span]:
    """Return the calls that cover stretches of a path."""
    spans = []
    for call in calls:
        made = [edge for edge in call.gave if edge in path]
        if not path.cuts or set(made) <= set(call.took):
            continue  # it is on no path, or hands on what it takes
        last = min(max(path.stretch(node) for node, _ in made), len(path.cuts) - 1)
        first = path.after(call.took, last)
        first = 0 if first is None else first  # the source is made inside it
        if first <= last:
            spans.append(Span(call, first, last))
    return spans


def name_runs(net: nn.Module, path: Path, calls: Sequence[Call], choice: Choice) -> list[LayerRun]:
    """Return the layers of a path with cuts, in order."""
    spans = spans_of(path, calls)
    parts = dict(net.named_modules())
    if choice is None:
        chosen = _by_rule(spans, parts)
    elif choice == "every":
        chosen = _innermost(spans, parts)
    else:
        chosen = _named(spans, parts, choice)
    if not chosen:
        return _by_operation(path)
    order = {id(call): number for number, call in enumerate(calls)}
    chosen.sort(key=lambda span: (span.first, span.last, order[id(span.call)]))
    groups: list[list[Span]] = []
    for span in chosen:
        if groups and span.first <= max(other.last for other in groups[-1]):
            groups[-1].append(span)
        else:
            groups.append([span])
    names = [span.call.name for group in groups for span in group]
    runs = []
    for group in groups:
        own = [span.call.name for span in group]
        first, last = group[0].call, max(reversed(group), key=lambda span: span.last).call
        holder = None if len(group) == 1 else _holder(own, [name for name in names if name not in own], parts)
        name = first.name if len(group) == 1 else holder or f"{first.name} ... {last.name}"
        kind = type(first.module if holder is None else parts[holder]).__name__
        if len(group) > 1 and holder is None:
            kind = f"{kind} ... {type(last.module).__name__}"
        runs.append(LayerRun(name, kind, group[0].first, max(span.last for span in group), own))
    _close_gaps(runs, spans, len(path.cuts), whole=choice is None or choice == "every")
    return runs


def _close_gaps(runs: list[LayerRun], spans: list[Span], stretches: int, whole: bool) -> None:
    """Let what no layer covers belong to the layer before it, but what other modules do where layers are named."""
    for run, following in itertools.pairwise(runs):
        inside = [] if whole else [s.call.name for s in spans if s.first > run.last and s.last < following.first]
        if inside:
            run.between = tuple(dict.fromkeys(inside))
        else:
            run.last = following.first - 1
    if whole:
        runs[0].first, runs[-1].last = 0, stretches - 1


def _by_rule(spans: list[Span], parts: Mapping[str, nn.Module]) -> list[Span]:
    times = Counter(span.call.base for span in spans)
    again = {name for name, count in times.items() if count > 1 and isinstance(parts[name], CONTAINERS)}
    elements = _elements(spans, parts, again)
    lists: dict[str, list[Span]] = {}
    for span in elements:
        lists.setdefault(span.parent, []).append(span)
    opened = {name for name, inside in lists.items() if _is_stack(inside)} - again
    # What holds an opened list, or is one, is no layer itself.
    holders = {holder for name in opened for holder in (name, *_holders(name))}
    kept = [span for span in elements if span.call.base in again or span.call.base not in holders]
    names = {span.call.base for span in kept}
    kept = [span for span in kept if names.isdisjoint(_holders(span.call.base))]
    covered = {k for span in kept for k in range(span.first, span.last + 1)}
    rest = [span for span in spans if not covered.intersection(range(span.first, span.last + 1))]
    return kept + _outermost(rest)


def _elements(spans: list[Span], parts: Mapping[str, nn.Module], again: set[str]) -> list[Span]:
    """Return the calls of what containers hold, and of containers that are called again."""
    held: dict[str, list[Span]] = {}
    for span in spans:
        if isinstance(parts.get(span.parent), CONTAINERS):
            held.setdefault(span.parent, []).append(span)
    found: list[Span] = []
    for inside in held.values():
        kinds = [type(span.call.module) for span in inside]
        for number, span in enumerate(inside):
            alike = kinds[number] in kinds[max(0, number - 1) : number] + kinds[number + 1 : number + 2]
            if not isinstance(span.call.module, CONTAINERS) or (alike and len(list(span.call.module.children())) > 1):
                found.append(span)
    return found + [span for span in spans if span.call.base in again and span not in found]


def _is_stack(inside: list[Span]) -> bool:
    """Whether these are two or more of one class in stretches of their own."""
    ends = {span.last for span in inside}
    return len(inside) > 1 and len({type(span.call.module) for span in inside}) == 1 and len(ends) == len(inside)


def _innermost(spans: list[Span], parts: Mapping[str, nn.Module]) -> list[Span]:
    """Return the calls of modules that hold no module."""
    return [span for span in spans if not list(parts[span.call.base].children())]


def _outermost(spans: list[Span]) -> list[Span]:
    names = {span.call.base for span in spans}
    return [span for span in spans if names.isdisjoint(_holders(span.call.base))]


def check_names(parts: Mapping[str, nn.Module], choice: Choice) -> None:
    """Raise where what `layers=` names is not in a network, whose modules by name are `parts`."""
    if choice is None or choice == "every":
        return
    if isinstance(choice, str):
        containers = [name for name, part in parts.items() if isinstance(part, CONTAINERS) and len(part) > 0]
        if choice not in containers:
            outer = [name for name in containers if set(containers).isdisjoint(_holders(name))]
            known = ", ".join(map(repr, outer[:10])) + (", ..." if len(outer) > 10 else "") or "none there are"
            raise ValueError(
                f"layers is {choice!r}: expected the name of a Sequential, ModuleList or ModuleDict, one of {known}, "
                'or "every"' + (f"; one module is named in a list, layers=[{choice!r}]" if choice in parts else "")
            )
        return
    for name in choice:
        if not name or name.partition("#")[0] not in parts:
            check_name("module in layers=", name, [part for part in parts if part])


def _named(spans: list[Span], parts: Mapping[str, nn.Module], choice: str | tuple[str, ...]) -> list[Span]:
    """Return the calls of the modules that were named, or of those that a container holds."""
    if isinstance(choice, str):
        wanted = {f"{choice}.{name}" if choice else name for name, _ in parts[choice].named_children()}
        what = f"what {choice!r} holds"
    else:
        wanted = set(choice)
        what = f"the layers {list(choice)}"
    found = [span for span in spans if span.call.name in wanted or span.call.base in wanted]
    names = {name for span in found for name in (span.call.name, span.call.base)}
    if isinstance(choice, tuple) and wanted - names:
        raise ValueError(
            f"the layers {sorted(wanted - names)} are not called on the way from the source to the output: leave them "
            "out, or name another source="
        )
    if not found:
        raise ValueError(f"{what} is not called on the way from the source to the output: name other layers=")
    return found


def _by_operation(path: Path) -> list[LayerRun]:
    """Return each cut as a layer, called as the operation of its node."""
    runs: list[LayerRun] = []
    counts: dict[str, int] = {}
    for number, cut in enumerate(path.cuts):
        if number == 0 and len(path.cuts) > 1:
            continue  # the source itself
        kind = cut.lead[0].name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")
        counts[kind] = counts.get(kind, 0) + 1
        name = kind.lower() if counts[kind] == 1 else f"{kind.lower()}#{counts[kind]}"
        runs.append(LayerRun(name, kind, number, number))
    runs[0].first = 0
    return runs


def _holder(own: list[str], others: list[str], parts: Mapping[str, nn.Module]) -> str | None:
    """Return the innermost module that holds all of these calls and no other layer, or None."""
    common: Callable[[tuple[str, ...]], bool] = lambda level: len(set(level)) == 1  # noqa: E731
    levels = itertools.takewhile(common, zip(*(name.partition("#")[0].split(".") for name in own), strict=False))
    name = ".".join(level[0] for level in levels)
    while name and name not in parts:
        name = name.rpartition(".")[0]
    bases = [other.partition("#")[0] for other in others]
    if not name or any(name in (base, *_holders(base)) for base in bases):
        return None
    return name


def _holders(name: str) -> list[str]:
    """Return the names of the modules that hold a module, the innermost first, the network itself not among them."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
