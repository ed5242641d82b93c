"""Files changed by chance: each function draws one change and says in words which."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

PLANTED = "planted_by_somebody"
"""A module in the folder that the commands run in: nobody may import it."""
TARGETS = (
    PLANTED,
    f"{PLANTED}.Net",
    f"{PLANTED}:net",
    "torch.hub:load",
    "os:system",
    "os.system",
    "antigravity:geohash",
    "builtins:exec",
    "torch.optim.SGD",
    "torch.nn.Linear",
    "subprocess.Popen",
    "dist_dash.models.custom.importlib",
    f"dist_dash.models.{PLANTED}.Net",
)
PATHS = ("/etc/passwd", "/dev/zero", "../recipe.yaml", "..", ".", "", "a/../member_00.safetensors", "x" * 5000, "a\0b")
NUMBERS = (0, -1, 1.5, 10**9, 2**63, 10**30, -(10**400), 1e308, float("nan"), float("inf"), -float("inf"), 5e-324)
OTHERS = (None, True, False, "", "1", "nan", [], {}, [[]], [None], {"class_path": PLANTED})
DEEP = "@@deep"
Change = tuple[bytes, str]


class Pickled:
    """Unpickling it imports the planted module."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return __import__, (PLANTED,)


def of_bytes(draw: random.Random, content: bytes) -> Change:
    """Flipped bits, a shorter or longer file, zeros in the middle."""
    kind = draw.choice(["flip", "flip", "flip", "truncate", "append", "zeros", "empty"])
    if kind == "flip":
        changed, places = bytearray(content), [draw.randrange(len(content)) for _ in range(draw.choice([1, 1, 3]))]
        for place in places:
            changed[place] ^= 1 << draw.randrange(8)
        return bytes(changed), f"bits flipped in bytes {places}"
    place = draw.randrange(len(content))
    if kind == "truncate":
        return content[:place], f"truncated to {place} of {len(content)} bytes"
    if kind == "append":
        return content + draw.randbytes(9), "nine bytes more"
    if kind == "zeros":
        return content[:place] + bytes(len(content) - place), f"zeros from byte {place} on"
    return b"", "empty"


def of_json(draw: random.Random, content: bytes) -> Change:
    """One value of a JSON file replaced, removed, renamed, doubled, moved; or its bytes."""
    if draw.random() < 0.25:
        return of_bytes(draw, content)
    nested = json.loads(content)
    owner, key = draw.choice(list(_places(nested)))
    where, value = f"{key!r}", owner[key]
    kind = draw.choice(["type", "number", "remove", "rename", "double", "deep", "target", "target", "path", "swap"])
    if kind == "swap" and isinstance(value, list) and len(value) > 1:
        owner[key] = draw.choice([value[::-1], value[:-1], value + value[:1]])
    elif kind == "remove":
        del owner[key]
    elif kind in ("rename", "double") and isinstance(owner, dict):
        other = f"{key}_" if kind == "rename" else "@@double"
        owner[other] = owner.pop(key) if kind == "rename" else draw.choice([*OTHERS, *NUMBERS])
        text = json.dumps(nested).replace('"@@double"', json.dumps(key))
        return text.encode(), f"{where} {kind}d"
    elif kind == "deep":
        owner[key] = DEEP
        depth = draw.choice([50, 2000, 100_000])
        return json.dumps(nested).replace(f'"{DEEP}"', "[" * depth + "]" * depth).encode(), f"{where} {depth} deep"
    elif kind == "target":
        target = draw.choice(TARGETS)
        custom = {"class_path": "Custom", "init_args": {"target": target, "kwargs": {"model": "net"}}}
        owner[key] = draw.choice([target, custom, {"class_path": target, "init_args": {}}])
    else:
        choices: dict[str, Any] = {"number": NUMBERS, "path": PATHS}
        owner[key] = draw.choice(choices.get(kind, OTHERS))
    after = owner[key] if kind != "remove" else "nothing"
    return json.dumps(nested).encode(), f"{where} becomes {str(after)[:80]!r}"


def of_weights(draw: random.Random, content: bytes) -> Change:
    """A `.safetensors` file: its header's JSON, its length, or its bytes."""
    length = struct.unpack("<Q", content[:8])[0]
    kind = draw.choice(["bytes", "bytes", "header", "header", "tensor", "length"])
    if kind == "bytes":
        return of_bytes(draw, content)
    if kind == "length":
        other = draw.choice([0, 2**63, 2**40, length - 1, length + 1])
        return struct.pack("<Q", other) + content[8:], f"header of {other} bytes"
    if kind == "header":
        header, what = of_json(draw, content[8 : 8 + length])
    else:
        described = json.loads(content[8 : 8 + length])
        name = draw.choice([name for name in described if name != "__metadata__"])
        field = draw.choice(["dtype", "shape", "data_offsets"])
        other = {"dtype": ["I32", "U32", "F16", "BF16", "F64", "X"], "shape": [[], [-1], [2**62, 4], [0]]}
        value = draw.choice(other.get(field, [[0, 4], [0, 2**60], [-4, 0], [8, 0]]))
        described[name][field] = value
        header, what = json.dumps(described).encode(), f"{name} {field} becomes {value}"
    return struct.pack("<Q", len(header)) + header + content[8 + length :], f"header: {what}"


def of_arrays(draw: random.Random, content: bytes) -> Change:
    """An `.npz` file: an array of another type, shape or range, with another name, twice, pickled; or its bytes."""
    if draw.random() < 0.4:
        return of_bytes(draw, content)
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file.files}
    name = draw.choice(list(arrays))
    kind = draw.choice(["type", "shape", "value", "remove", "rename", "double", "pickle", "header"])
    given, what = arrays[name], f"{name}: {kind}"
    if kind == "type":
        kinds = ["complex128", "S8", "U8", "M8[s]", "bool"] + (["float64"] if given.dtype.kind in "iu" else ["int64"])
        dtype = draw.choice(kinds)
        with np.errstate(all="ignore"):
            arrays[name], what = given.astype(dtype), f"{name} as {dtype}"
    elif kind == "shape":
        arrays[name] = draw.choice(
            [given[None], given[:0], given[:-1], given.reshape(-1), np.zeros(()), given[..., :1]]
        )
    elif kind == "value":
        value = draw.choice([-1, -5, 10**6, 2**40] if given.dtype.kind in "iu" else [np.nan, np.inf, 1e30, 3.0])
        wide = given.astype(np.int64 if given.dtype.kind in "iu" else np.float64)
        wide.flat[draw.randrange(wide.size)] = value
        arrays[name], what = wide, f"{name} holds {value}"
    elif kind == "remove":
        del arrays[name]
    elif kind == "rename":
        arrays[f"{name}_"] = arrays.pop(name)
    elif kind == "pickle":
        arrays[name] = np.array([Pickled()], dtype=object)
    changed = io.BytesIO()
    np.savez(changed, allow_pickle=True, **arrays)
    if kind in ("double", "header"):
        with zipfile.ZipFile(changed, "a") as archive:
            body = archive.read(f"{name}.npy")
            if kind == "header":
                body, what = _other_header(draw, body)
            with np.testing.suppress_warnings() as quiet:
                quiet.filter(UserWarning)
                archive.writestr(f"{name}.npy", body if kind == "header" else body[:-4] + b"\1\2\3\4")
    return changed.getvalue(), what


def _other_header(draw: random.Random, body: bytes) -> Change:
    text = draw.choice(["{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000), }", "(" * 3000])
    text = draw.choice([text, "__import__('os')", "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "{}"])
    encoded = text.encode() + b"\n"
    return body[:8] + struct.pack("<H", len(encoded)) + encoded + body[128:], f"header {text[:60]}"


def _places(nested: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in nested JSON, as its container and its key or index."""
    for key in list(nested) if isinstance(nested, dict) else range(len(nested)):
        yield nested, key
        if isinstance(nested[key], dict | list):
            yield from _places(nested[key])
