"""Whether data that are read again are the data of a run, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHOWN = 3  # classes in a message
OTHERWISE = "samples of other values, names or labels, or in another order"
KINDS = ("per_class", "names")  # fields of `SplitFacts` with one value per class


def what_differs(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what data differ from those that a run was trained on, in words; empty where they are the same.

    The names of the classes count only where both sides have them.

    Args:
        then: `DataFacts.as_json` as it was kept; only `class_names` by versions that knew no more.
        now: the same of the data as they are.
    """
    if then.get("digest") == now["digest"]:
        return ""
    found = [*_classes(*([str(name) for name in _listed(facts, "class_names")] for facts in (then, now)))]
    if "digest" in then:
        found += _splits(then, now, named=not found)
    return "; ".join(found)


def _splits(then: Mapping[str, Any], now: Mapping[str, Any], named: bool) -> Iterator[str]:
    """In what the splits differ; in the names and values of samples only where the classes are `named` alike."""
    before, after = _table(then, "splits"), _table(now, "splits")
    counts, counts_now = _table(then, "counts"), _table(now, "counts")
    for name in dict.fromkeys([*counts, *counts_now]):
        details = _details(then, now, name)
        if name not in counts or name not in counts_now:
            yield f"the {name} split is {'missing' if name in counts else 'added'}"
        elif counts[name] != counts_now[name]:
            yield f"{name}: {counts_now[name]} samples instead of {counts[name]}{details and f' ({details})'}"
        elif named and name in before and _table(before, name).get("digest") != after[name]["digest"]:
            yield f"{name}: {details or OTHERWISE}"
    if named and not before and counts == counts_now:
        yield OTHERWISE


def _classes(then: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    """In what two lists of names differ, where both are known."""
    if not then or not now or then == now:
        return
    gone, new = ([name for name in one if name not in other] for one, other in ((then, {*now}), (now, {*then})))
    if gone:
        yield f"{some_classes(gone)} missing"
    if new:
        yield f"{some_classes(new)} added"
    if not gone and not new:
        number = next((i for i, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), 0)
        yield f"classes in another order: number {number} is {now[number]!r} instead of {then[number]!r}"


def _details(then: Mapping[str, Any], now: Mapping[str, Any], split: str) -> str:
    """Which classes of a split have another number of samples, or samples of other names; empty where unknown."""
    before, after = (_table(_table(facts, "splits"), split) for facts in (then, now))
    counts, names = ([_by_class(facts, of, kind) for facts, of in ((then, before), (now, after))] for kind in KINDS)
    found = [f"{key}: {counts[1][key]} instead of {n}" for key, n in counts[0].items() if counts[1].get(key, n) != n]
    found = found or [f"{key}: samples of other names" for key, n in names[0].items() if names[1].get(key, n) != n]
    more = f"; {len(found) - SHOWN} more classes" if len(found) > SHOWN else ""
    return f"{'; '.join(found[:SHOWN])}{more}"


def _by_class(facts: Mapping[str, Any], split: Mapping[str, Any], kind: str) -> dict[str, Any]:
    values = _listed(split, kind)
    names = _listed(facts, "class_names") or range(len(values))
    return {f"class {name!r}": value for name, value in zip(names, values, strict=False)}


def some_classes(names: Sequence[str]) -> str:
    """A few names of classes with a verb: `class 'a' is`, `classes 'a', 'b', 'c' and 2 more are`."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    shown = ", ".join(map(repr, names[:SHOWN]))
    return f"class {shown} is" if len(names) == 1 else f"classes {shown}{more} are"


def _table(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = facts.get(name)
    return found if isinstance(found, Mapping) else {}


def _listed(facts: Mapping[str, Any], name: str) -> list[Any]:
    found = facts.get(name)
    return found if isinstance(found, list) else []
