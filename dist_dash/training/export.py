"""What a finished run hands out: its members, as many as each rank's chain of updates has produced."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import product

from torch import nn

from dist_dash.data.dataset import DataSet
from dist_dash.ensembles.ensemble import FORMAT, StoredEnsemble, save_member
from dist_dash.errors import RunFailed
from dist_dash.files import SEAL, digest_of, replacing
from dist_dash.ranks.exchange import Exchange
from dist_dash.recipe.components import code_named
from dist_dash.recipe.parsing import Command
from dist_dash.runs.owner import OwnedFolder


def export(
    folder: OwnedFolder,
    command: Command,
    exchange: Exchange,
    data: DataSet,
    networks: Sequence[nn.Module],
    members_of_chain: int = 1,
    weights: list[float] | None = None,
    snapshots: Mapping[str, str] | None = None,
) -> StoredEnsemble:
    """Put the members that were trained here into `ensemble/`; on all ranks.

    Member c of the chain that trains member i of the ensemble becomes member `i · members_of_chain + c`. It is what
    lies under that number in `snapshots/`; the last one may also be the present weights, where nothing lies there.

    Args:
        folder: the run's.
        command: has the members' architectures.
        exchange: joined.
        data: shapes, classes, statistics.
        networks: of this rank's members, with their present weights.
        members_of_chain: how many members each rank's chain has produced.
        weights: how much each exported member counts, positive numbers; None: all count equally.
        snapshots: checksums of the files in `snapshots/`, by name, those that are known.

    Returns:
        The exported ensemble, whose `ensemble.json` is not written yet: `write` says that it is complete.

    Raises:
        RunFailed: a member was never saved or is damaged, or a file cannot be written; on all ranks alike.
    """
    layout = exchange.layout
    with exchange.together("export"):
        folder.check_owner()
        if layout.rank == 0:
            folder.ensemble.mkdir(exist_ok=True)
    with exchange.together("export"):
        own: dict[str, str] = {}
        if layout.replica == 0:
            for here, place in product(range(len(networks)), range(members_of_chain)):
                name = folder.weights((layout.identity + here) * members_of_chain + place)
                saved, last = folder.snapshots / name, place == members_of_chain - 1
                if saved.exists():
                    with replacing(folder.ensemble / name) as temporary:
                        shutil.copyfile(saved, temporary)
                        own[name] = digest_of(temporary)
                    if own[name] != (snapshots or {}).get(name, own[name]):
                        raise RunFailed(f"{saved} has changed since it was written; --fresh starts over")
                elif last:
                    own[name] = save_member(folder.ensemble / name, networks[here])
                else:
                    raise RunFailed(f"{saved} is missing; member {place} of {members_of_chain} was never saved")
    checksums = {name: checksum for of_rank in exchange.collect(own) for name, checksum in of_rank.items()}
    architectures = command.resolved["models"] or [command.resolved["model"]] * layout.ensemble_members
    first = layout.first_member * members_of_chain
    members = [
        {"file": name, "architecture": architectures[number // members_of_chain], SEAL: checksums[name]}
        for number in range(first, first + layout.members * members_of_chain)
        for name in [folder.weights(number)]
    ]
    if weights is not None:
        members = [{**member, "weight": weight} for member, weight in zip(members, weights, strict=True)]
    names = {"classes": data.classes, "class_names": data.class_names, "shape": list(data.shape)}
    numbers = {"mean": list(data.mean), "std": list(data.std), "uint8": data.uint8, "values": data.outline.values}
    spec = {"format": FORMAT, "members": members, **names, **numbers, "data": data.facts.as_json()}
    return StoredEnsemble(folder.ensemble, spec, code_named(command.resolved))
