"""Ensembles of flat, diverse networks, trained side by side: one member per rank (DASH)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dist_dash.ensembles.ensemble import Ensemble as Ensemble
    from dist_dash.ensembles.ensemble import load_ensemble as load_ensemble

__version__ = "0.1.0"
__all__ = ["Ensemble", "__version__", "load_ensemble"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `dist-dash --help` must not wait for torch.
    if name in {"Ensemble", "load_ensemble"}:
        from dist_dash.ensembles import ensemble

        return getattr(ensemble, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
