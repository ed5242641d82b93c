"""The environment that produced a result: versions, devices, layout, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from dist_dash.ranks.layout import Layout

PACKAGES = ("dist-dash", "torch", "deepspeed", "numpy", "jsonargparse", "safetensors", "scikit-learn", "pillow")


def describe_environment(layout: Layout) -> dict[str, Any]:
    """The content of `environment.json`."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(layout.device) if cuda else platform.processor() or "cpu",
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "layout": {
            "world": layout.world,
            "members": layout.members,
            "replicas": layout.replicas,
            "members_per_rank": layout.members_per_rank,
            "first_member": layout.first_member,
            "ranks_on_first_host": layout.local_world,
            "backend": layout.backend,
        },
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any] | None:
    """The commit of the installed source, and whether files have changed since; None outside a git checkout."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run(
            [*here, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"hash": head.stdout.strip(), "changed": bool(status.stdout.strip())}
