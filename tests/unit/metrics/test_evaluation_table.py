from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from dist_dash.metrics.summary import evaluate, table


def predictions(members: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(members)
    log_probs = np.log(generator.dirichlet(np.ones(classes), size=(members, 50)))
    return log_probs, generator.integers(classes, size=50)


def rendered(evaluation: dict, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(table(evaluation))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("members", [1, 3, 12])
def test_the_table_shows_every_row_and_figure(members, width):
    evaluation = evaluate(*predictions(members), "validation", 0, weight_cosines=np.full((members, members), 0.25))
    lines = rendered(evaluation, width)
    assert "validation split, 50 samples" in lines[0]
    assert not any("…" in line for line in lines)
    shown = {name: next(line for line in lines if name in line) for name in ("member mean", "ensemble")}
    shown |= {f"member {i}": next(line for line in lines if f"member {i} " in line) for i in range(members)}
    found = {"member mean": evaluation["member_mean"], "ensemble": evaluation["ensemble"]}
    found |= {f"member {i}": member for i, member in enumerate(evaluation["members"])}
    assert len(shown) == len(found) == members + 2
    for name, line in shown.items():
        own = found[name]
        cells = [f"{own[key]:.2%}" for key in ("accuracy", "top5")]
        cells += [f"{own[key]:.4f}" for key in ("nll", "cal_nll", "brier", "ece", "cal_ece")]
        assert line.removeprefix(name).split()[:8] == [*cells, f"{own['aac']:.2%}"]
    diversity = evaluation["diversity"]
    if members == 1:
        assert not any("between members" in line for line in lines)
        return
    pairwise = np.array(diversity["pairwise"]["disagreement"])
    assert shown["member 0"].split()[-1] == f"{pairwise[0, 1:].mean():.2%}"
    assert shown["member mean"].split()[-1] == f"{diversity['disagreement']:.2%}"
    names = {"kl": ".4f", "error_correlation": ".3f", "ambiguity": ".4f", "mutual_information": ".4f"}
    cells = [f"{diversity['disagreement']:.2%}", *(f"{diversity[name]:{form}}" for name, form in names.items())]
    assert lines[-1].split() == [*cells, "0.250"]


def test_what_is_not_known_is_a_dash_or_left_out():
    log_probs, labels = predictions(3, classes=4)
    log_probs[1, 0, 0] = np.nan
    lines = rendered(evaluate(log_probs[:, :1], labels[:1], "test", 0), 80)
    assert not any("top-5" in line for line in lines)
    (row,) = [line for line in lines if "ensemble" in line]
    assert row.split().count("—") == 2  # calibrated NLL and ECE
    assert next(line for line in lines if "member 1 " in line).split() == ["member", "1", "left", "out"]
    assert next(line for line in lines if "member 2 " in line).count("%") == 3
    assert lines[-1].split()[-1] == "—"  # cosine of weights


def test_scores_under_way_have_a_table_too():
    lines = rendered(evaluate(*predictions(2), "test", 0, calibrated=False), 80)
    assert not any("cal" in line for line in lines)
