import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from exported import ARCHITECTURES, CLASSES, MEAN, SHAPE, STD, export, images

import dist_dash
from dist_dash.ensembles.ensemble import Ensemble, load_ensemble, save_member
from dist_dash.errors import BadInput
from dist_dash.models import MLP
from dist_dash.models.network import seeded_network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ensemble").mkdir()
    export(tmp_path / "ensemble")
    return tmp_path


def test_an_export_predicts_as_the_trained_members_do(tmp_path):
    networks = export(tmp_path)
    x = images(20)
    with torch.no_grad():
        logits = [network(x).double() for network in networks]
    found = load_ensemble(tmp_path).predict(x)
    for index, z in enumerate(logits):
        assert torch.allclose(found.member_probs[index], z.softmax(-1), rtol=0, atol=1e-12)
        assert torch.allclose(found.member_log_probs[index], z.log_softmax(-1), rtol=0, atol=1e-6)
    assert torch.allclose(found.probs, sum(z.softmax(-1) for z in logits) / 3, rtol=0, atol=1e-12)
    assert torch.allclose(found.probs.sum(-1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found.member_probs.shape == (3, 20, CLASSES)


def test_a_run_folder_and_its_ensemble_folder_load_alike(folder):
    x = images(4)
    ensembles = [load_ensemble(folder), load_ensemble(str(folder / "ensemble")), dist_dash.load_ensemble(folder)]
    assert all(torch.equal(e.predict(x).probs, ensembles[0].predict(x).probs) for e in ensembles)
    assert len(ensembles[0]) == 3
    assert (ensembles[0].shape, ensembles[0].classes) == (SHAPE, CLASSES)
    assert ensembles[0].class_names == list("abcde")


def test_bytes_are_normalised_as_in_training(folder, tmp_path):
    x = images(10)
    raw = load_ensemble(folder).predict(x)
    assert torch.equal(raw.probs, load_ensemble(folder).predict(x.float()).probs)  # floats in units of 0…255 too
    networks = [seeded_network(i, a, SHAPE, CLASSES, MEAN, STD, True).net for i, a in enumerate(ARCHITECTURES)]
    for index, net in enumerate(networks):
        state = safetensors.torch.load_file(folder / f"ensemble/member_{index:02d}.safetensors")
        net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
        with torch.no_grad():
            expected = net.eval()((x.double() / 255 - MEAN[0]).div(STD[0]).float()).softmax(-1)
        assert torch.allclose(raw.member_probs[index].float(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, np.float32])
def test_samples_in_another_unit_are_refused(folder, kind):
    shares = images(6).float() / 255
    x = shares.to(kind) if isinstance(kind, torch.dtype) else shares.numpy()
    with pytest.raises(BadInput, match=r"^x holds float32 from 0 to 0\.99\d+; the network was trained on bytes"):
        load_ensemble(folder).predict(x)
    whole = images(6).to(torch.bfloat16)  # exact up to 256
    assert torch.equal(load_ensemble(folder).predict(whole).probs, load_ensemble(folder).predict(images(6)).probs)


def test_floats_are_not_scaled(tmp_path):
    networks = export(tmp_path, uint8=False)
    x = images(6).float() / 255
    with torch.no_grad():
        expected = networks[0].net((x - MEAN[0]) / STD[0]).softmax(-1)
    assert torch.allclose(load_ensemble(tmp_path).predict(x).member_probs[0].float(), expected, rtol=0, atol=1e-5)


def test_predictions_do_not_depend_on_batches_nor_on_the_kind_of_array(folder):
    ensemble, x = load_ensemble(folder), images(11)
    whole = ensemble.predict(x)
    assert torch.allclose(ensemble.predict(x, batch_size=3).probs, whole.probs, rtol=0, atol=1e-6)
    assert torch.equal(ensemble.predict(x.numpy()).probs, whole.probs)
    assert torch.allclose(ensemble.predict(x[:1]).probs, whole.probs[:1], rtol=0, atol=1e-6)
    assert torch.equal(ensemble.predict(x).probs, whole.probs)  # predicting moves no statistics
    assert not whole.probs.requires_grad


@pytest.mark.parametrize("shape", [(3, 1, 8, 9), (3, 64), (1, 8, 8), (0, 1, 8, 8), (3, 3, 8, 8)])
def test_samples_of_another_shape_are_refused(folder, shape):
    with pytest.raises(BadInput) as caught:
        load_ensemble(folder).predict(np.zeros(shape, np.uint8))
    assert str(caught.value) == f"x: shape {shape} is not allowed; it must be [N, 1, 8, 8] with N ≥ 1"


def test_a_member_is_written_complete_or_not_at_all(tmp_path, monkeypatch):
    network = seeded_network(0, MLP(), SHAPE, CLASSES, MEAN, STD, True)

    def full_disk(state, path):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_member(tmp_path / "member_00.safetensors", network)
    assert list(tmp_path.iterdir()) == []


def break_member(folder: Path) -> None:
    (folder / "member_01.safetensors").write_bytes(b"torn")


def cut_member(folder: Path) -> None:
    file = folder / "member_01.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def lose_member(folder: Path) -> None:
    (folder / "member_01.safetensors").unlink()


def swap_members(folder: Path) -> None:
    (folder / "member_01.safetensors").write_bytes((folder / "member_00.safetensors").read_bytes())


@pytest.mark.parametrize("damage", [break_member, cut_member, lose_member, swap_members])
def test_a_damaged_member_is_named_in_one_line(folder, damage):
    damage(folder / "ensemble")
    with pytest.raises(BadInput) as caught:
        load_ensemble(folder)
    assert "\n" not in str(caught.value)
    assert str(folder / "ensemble/member_01.safetensors") in str(caught.value)


def changed(folder: Path, **fields) -> None:
    file = folder / "ensemble/ensemble.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_spec_of_another_kind_is_refused(folder):
    changed(folder, format=3)
    with pytest.raises(BadInput, match=f"^run: {folder}.*format 1 or 2"):
        load_ensemble(folder)


@pytest.mark.parametrize("path", ["nowhere.Net", "dist_dash.models.Nope", "json.dumps", "Net", "torch.nn.Linear"])
def test_an_architecture_that_is_none_is_named(folder, path):
    changed(folder, members=[{"file": "member_00.safetensors", "architecture": {"class_path": path}}])
    with pytest.raises(BadInput, match=f"^model: {path} ") as caught:
        load_ensemble(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 1}'])
def test_a_folder_without_a_whole_spec_is_refused(folder, content):
    file = folder / "ensemble/ensemble.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(BadInput, match=f"^run: {folder}"):
        load_ensemble(folder)


def test_an_ensemble_moves_as_one(folder):
    ensemble = load_ensemble(folder)
    assert isinstance(ensemble.to("meta"), Ensemble)
    assert all(p.device.type == "meta" for network in ensemble.networks for p in network.parameters())


# -- weights of members ------------------------------------------------------------------------------------------------


def weighted(folder: Path, weights: list[object], form: int = 2) -> None:
    spec = json.loads((folder / "ensemble/ensemble.json").read_text())
    members = [{**member, "weight": weight} for member, weight in zip(spec["members"], weights, strict=True)]
    changed(folder, format=form, members=members)


def test_members_count_by_their_weights(folder):
    x = images(7)
    plain = load_ensemble(folder).predict(x)
    weighted(folder, [2, 1, 5.0])
    found = load_ensemble(folder).predict(x)
    assert torch.equal(found.member_probs, plain.member_probs)
    for sample in range(7):
        for c in range(CLASSES):
            expected = sum(w * float(plain.member_probs[m, sample, c]) for m, w in enumerate([2, 1, 5])) / 8
            assert float(found.probs[sample, c]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [[1, 1, 1], [0.2, 0.2, 0.2]])
def test_equal_weights_change_nothing(folder, weights):
    x = images(7)
    plain = load_ensemble(folder).predict(x)
    weighted(folder, weights)
    assert load_ensemble(folder).weights is None
    assert torch.equal(load_ensemble(folder).predict(x).probs, plain.probs)


def test_an_ensemble_of_format_1_is_read(folder):
    x = images(3)
    plain = load_ensemble(folder).predict(x)
    changed(folder, format=1)
    assert torch.equal(load_ensemble(folder).predict(x).probs, plain.probs)


@pytest.mark.parametrize("weights", [[1, 0, 1], [1, -1, 1], [1, float("inf"), 1], [1, "a", 1], [1, None, 1]])
def test_weights_that_are_no_positive_numbers_are_refused(folder, weights):
    weighted(folder, weights)
    with pytest.raises(BadInput, match=rf"^run: {folder}/ensemble/ensemble.json: weight: .* one per member$") as caught:
        load_ensemble(folder)
    assert "\n" not in str(caught.value)
