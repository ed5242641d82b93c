"""What several members of one rank cannot do is refused in one line that names the field."""

import pytest

from dist_dash.cluster.memory import estimate
from dist_dash.errors import BadInput
from dist_dash.methods import SGD
from dist_dash.recipe.parsing import parse_command

FOUR = ["--data=Digits", "--model=MLP", "--optimizer=SGD", "--optimizer.lr=0.1", "--engine=Torch", "--members=4"]
FOUR += ["--members_per_rank=4"]


class ForOne(SGD):
    """A method that was not made for several members."""

    stacked = False


REFUSED = [
    (["--members_per_rank=3"], "members_per_rank: 3 is not allowed; it must be a divisor of the 4 members"),
    (["--members_per_rank=0"], "members_per_rank: 0 is not allowed; it must be a whole number ≥ 1"),
    (["--engine=DeepSpeed"], "engine: 'DeepSpeed' is not allowed; it must be Torch with members_per_rank: 4"),
    (["--models=[MLP, MLP, MLP, MLP]"], "models: 4 is not allowed; it must be null with members_per_rank: 4"),
    (["--method=SGD", "--loader.order=own"], "loader.order: 'own' is not allowed; it must be shared with members_per"),
    (
        ["--sparsity=tests.distributed.proofs.RandomMask"],
        "sparsity: 'RandomMask' is not allowed; it must be Dense with",
    ),
    ([f"--method={__name__}.ForOne"], "method: 'ForOne' is not allowed; it must be SGD, SAM, DASH or one that is made"),
    (["--replicas=2"], "replicas: 2 is not allowed; it must be 1 with members_per_rank: 4"),
    (
        ["--method=SGD", "--member=1"],
        "members_per_rank: 4 is not allowed; it must be 1 with --member, which trains one",
    ),
]


@pytest.mark.parametrize(("words", "text"), REFUSED)
def test_what_several_members_of_a_rank_cannot_do(words, text):
    with pytest.raises(BadInput) as raised:
        parse_command([*FOUR, *words])
    assert str(raised.value).startswith(text)
    assert "\n" not in str(raised.value)


def test_the_memory_of_a_rank_is_that_of_its_members():
    one, four = (parse_command([*FOUR[:-1], f"--members_per_rank={k}"]).recipe for k in (1, 4))
    found = [estimate(recipe, 1, (1, 8, 8), 10, False) for recipe in (one, four)]
    assert found[1].total == 4 * found[0].total
