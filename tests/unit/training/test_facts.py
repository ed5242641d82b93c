"""A method that takes differences of nearly equal gradients can ask for kernels that round less."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dist_dash.errors import BadInput, require
from dist_dash.member.facts import RunFacts
from dist_dash.methods import SAM
from dist_dash.ranks.layout import Layout
from dist_dash.recipe.parsing import parse_command
from dist_dash.training.build import check_facts

SAMPLE = Path(__file__).parent.parent / "sample.yaml"


class Differences(SAM):
    def check(self, facts: RunFacts) -> None:
        require(facts.unit_roundoff < 1e-3 * self.rho, "engine.precision", facts.precision, "fp32 with Differences")


@pytest.mark.parametrize("engine", ["Torch", "DeepSpeed"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_is_told_the_precision(engine: str, precision: str) -> None:
    words = ["--config", str(SAMPLE), "--engine", engine, "--engine.precision", precision]
    recipe = parse_command(words).recipe
    recipe.method = Differences(rho=0.05)
    asked = recipe, SimpleNamespace(classes=4, heads=(4,)), Layout(0, 1, 1), 10, 5
    if precision == "fp32":
        assert check_facts(*asked).precision == precision  # type: ignore[arg-type]
    else:
        with pytest.raises(BadInput, match=f"engine.precision: '{precision}' is not allowed; it must be fp32 with"):
            check_facts(*asked)  # type: ignore[arg-type]
