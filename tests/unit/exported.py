import json
from pathlib import Path

import torch

from dist_dash.ensembles.ensemble import save_member, save_spec
from dist_dash.files import SEAL
from dist_dash.models import MLP, SmallCNN
from dist_dash.models.network import seeded_network

SHAPE, CLASSES, MEAN, STD = (1, 8, 8), 5, (0.4,), (0.3,)
SPECS = [
    {"class_path": "dist_dash.models.MLP", "init_args": {"hidden": 12, "norm": "batch"}},
    {"class_path": "dist_dash.models.SmallCNN", "init_args": {"width": 4}},
    {"class_path": "dist_dash.models.SmallCNN"},
]
ARCHITECTURES = [MLP(hidden=12, norm="batch"), SmallCNN(width=4), SmallCNN()]


def export(folder: Path, uint8: bool = True) -> list[torch.nn.Module]:
    """Export three trained members (batch-norm statistics have moved) and return them."""
    networks, members = [], []
    for index, architecture in enumerate(ARCHITECTURES):
        network = seeded_network(index, architecture, SHAPE, CLASSES, MEAN, STD, uint8)
        network(images(50, seed=index))
        file = f"member_{index:02d}.safetensors"
        save_member(folder / file, network)
        networks.append(network.eval())
        members.append({"file": file, "architecture": SPECS[index]})
    names = {"shape": list(SHAPE), "classes": CLASSES, "class_names": list("abcde")}
    save_spec(folder, members, **names, mean=list(MEAN), std=list(STD), uint8=uint8)
    return networks


def unsealed(folder: Path, **fields: object) -> None:
    """Other fields in an exported ensemble, and no checksums: as an earlier version would have written it."""
    file = folder / "ensemble.json"
    spec = {**json.loads(file.read_text()), **fields}
    if isinstance(members := spec["members"], list):
        spec["members"] = [{k: v for k, v in dict(one).items() if k != SEAL} for one in members]
    file.write_text(json.dumps({k: v for k, v in spec.items() if k != SEAL}))


def images(n: int, seed: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=generator)
