"""Self-checks of tutorial 00: right answers, typical wrong ones, and nonsense."""

import numpy as np
import pytest
import torch
from exercise_kit import try_answers

from wskit.checkpoints import open_checkpoint
from wskit.errors import WskitError
from wskit.exercises import (
    check_count_weights,
    check_permute_hidden,
    check_rescale_hidden,
    check_sort_file,
    write_mysteries,
)
from wskit.spectra import spectrum


def right_permutation(weights, order):
    return {
        "0.weight": weights["0.weight"][order],
        "0.bias": weights["0.bias"][order],
        "2.weight": weights["2.weight"][:, order],
        "2.bias": weights["2.bias"],
    }


def inverse_permutation(weights, order):
    return right_permutation(weights, order.argsort())


def by_product(weights, order):
    P = torch.eye(len(order))[order]
    moved = {"0.weight": P @ weights["0.weight"], "0.bias": P @ weights["0.bias"]}
    return moved | {"2.weight": weights["2.weight"] @ P.T, "2.bias": weights["2.bias"]}


def bias_forgotten(weights, order):
    return right_permutation(weights, order) | {"0.bias": weights["0.bias"]}


def in_place(move):
    def moving(weights, how):
        moved = move(weights, how)
        for name in weights:
            weights[name].copy_(moved[name])
        return moved

    return moving


test_permute_hidden = try_answers(
    check_permute_hidden,
    right=[right_permutation, by_product],
    wrong=[
        (lambda w, o: {"0.weight": 1}, "return a dict with the names"),
        (lambda w, o: w | {"0.bias": torch.zeros(2)}, "'0.bias' must stay a tensor of"),
        (lambda w, o: dict(w), "no neuron has moved"),
        (in_place(right_permutation), "you were given have changed"),
        (bias_forgotten, "A hidden neuron owns a part of three tensors"),
        (lambda w, o: {k: np.nan * W for k, W in w.items()}, "not finite"),
        (lambda w, o: w | {"0.bias": w["0.bias"] + 1}, "the function has changed"),
        (lambda w, o: w | {"2.bias": w["2.bias"].flip(0)}, "'2.bias' belongs to the out"),
        (inverse_permutation, "the old neuron order"),
    ],
)


def floating(checkpoint):
    return [name for name in checkpoint if checkpoint.dtype(name).is_floating_point]


def right_count(checkpoint):
    return sum(int(np.prod(checkpoint.shape(name))) for name in floating(checkpoint))


test_count_weights = try_answers(
    check_count_weights,
    right=[
        right_count,
        lambda c: sum(torch.Size(c.shape(n)).numel() for n in floating(c)),
        lambda c: torch.tensor(float(right_count(c))),
    ],
    wrong=[
        (
            lambda c: sum(W.numel() for W in c.values() if W.is_floating_point()),
            "the number is right, but 5 tensors were read",
        ),
        (len, "the number of tensors"),
        (lambda c: len(floating(c)), "the number of tensors"),
        (lambda c: sum(int(np.prod(c.shape(n))) for n in c), "such as counters"),
        (lambda c: c.nbytes / 4, "four bytes"),
        (lambda c: sum(sum(c.shape(n)) for n in floating(c)), "do not add the sides"),
        (lambda c: right_count(c) - 1, "a scalar, of shape ()"),
        (lambda c: right_count(c) + 1, "a checkpoint of 69 weights gave 70"),
    ],
)


def right_rescaling(weights, c):
    return {
        "0.weight": c[:, None] * weights["0.weight"],
        "0.bias": c * weights["0.bias"],
        "2.weight": weights["2.weight"] / c,
        "2.bias": weights["2.bias"],
    }


def by_diagonals(weights, c):
    moved = {
        "0.weight": torch.diag(c) @ weights["0.weight"],
        "0.bias": torch.diag(c) @ weights["0.bias"],
    }
    return weights | moved | {"2.weight": weights["2.weight"] @ torch.diag(1 / c)}


def but_for(name, change):
    """The right answer, but for one tensor."""
    return lambda weights, c: right_rescaling(weights, c) | {name: change(weights[name], c)}


test_rescale_hidden = try_answers(
    check_rescale_hidden,
    right=[right_rescaling, by_diagonals],
    wrong=[
        (but_for("0.bias", lambda W, c: W), "added before relu as well"),
        (but_for("2.weight", lambda W, c: W * c), "larger by c squared"),
        (but_for("2.weight", lambda W, c: W), "which weights take its"),
        (but_for("2.weight", lambda W, c: W / c.mean()), "which weights take"),
        (lambda w, c: right_rescaling(w, 1 / c), "must be c[i] times as large"),
        (but_for("2.bias", lambda W, c: W / 2), "'2.bias' belongs to the out"),
        (in_place(right_rescaling), "you were given have changed"),
        (lambda w, c: dict(w), "no neuron has moved"),
    ],
)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.ReLU(), torch.nn.Linear(12, 4))
    return net.state_dict()


def outputs(weights):
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(3))
    hidden = torch.relu(x @ weights["0.weight"].T + weights["0.bias"])
    return hidden @ weights["2.weight"].T + weights["2.bias"]


def test_mysteries_are_what_they_are_said_to_be(weights, tmp_path):
    """Two of the same function, two of the same eigenvalues only, two that cannot be opened."""
    paths = write_mysteries(weights, tmp_path, seed=5)
    assert paths == sorted(tmp_path.iterdir())
    assert [path.stem for path in paths] == list("abcdef")
    same, changes = 0, []
    for path in paths:
        try:
            found = dict(open_checkpoint(path))
        except WskitError:
            continue
        for name in ("0.weight", "2.weight"):
            before = spectrum(weights[name]).eigenvalues
            same += np.allclose(spectrum(found[name]).eigenvalues, before, rtol=1e-3)
        assert not torch.allclose(found["0.weight"], weights["0.weight"])
        changes.append((outputs(found) - outputs(weights)).abs().max().item())
    assert same == 6  # two layers of three networks: where neurons are longer, eigenvalues differ
    assert [change < 1e-5 for change in sorted(changes)] == [True, True, False, False]
    assert sorted(changes)[2] > 0.05


def test_names_of_mysteries_tell_nothing(weights, tmp_path):
    refused = []
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        names = [path.name for path in write_mysteries(weights, folder, seed=seed)]
        assert sorted(name.partition(".")[2] for name in names) == ["pt"] * 2 + ["safetensors"] * 4
        refused += [name for name in names if opens(folder / name) is None]
    assert len(refused) == 16
    assert len(set(refused)) > 6


def opens(path):
    try:
        return dict(open_checkpoint(path))
    except WskitError:
        return None


def as_set_of_neurons(weights):
    neurons = torch.cat([weights["0.weight"], weights["0.bias"][:, None]], dim=1)
    length = neurons.norm(dim=1, keepdim=True)
    rows = torch.cat([neurons / length, weights["2.weight"].T * length], dim=1)
    return rows[rows[:, 0].argsort()]


def by_neurons(path, weights):
    found = opens(path)
    if found is None:
        return "refused"
    pair = as_set_of_neurons(found), as_set_of_neurons(weights)
    return "same" if torch.allclose(*pair, atol=1e-4) else "other"


def by_trying(path, weights):
    found = opens(path)
    if found is None:
        return "refused"
    return "same" if torch.allclose(outputs(found), outputs(weights), atol=1e-4) else "other"


def by_eigenvalues(path, weights):
    found = opens(path)
    if found is None:
        return "refused"
    pair = (spectrum(w["0.weight"]).eigenvalues for w in (found, weights))
    return "same" if np.allclose(*pair, rtol=1e-3) else "other"


def by_sorted_entries(path, weights):
    found = opens(path)
    if found is None:
        return "refused"
    pair = (w["0.weight"].flatten().sort().values for w in (found, weights))
    return "same" if torch.allclose(*pair) else "other"


test_sort_file = try_answers(
    check_sort_file,
    right=[by_neurons, by_trying],
    wrong=[
        (by_eigenvalues, "9 of 18 files are sorted right. Open one whose neurons have other num"),
        (by_sorted_entries, "12 of 18 files are sorted right. Open one whose neurons have other"),
        (lambda path, w: "other", "6 of 18 files are sorted right"),
        (lambda path, w: "refused", "6 of 18 files are sorted right"),
        (lambda path, w: "other" if opens(path) else "same", "Open one whose neurons"),
        (
            lambda path, w: "same" if by_trying(path, w) != "refused" else "refused",
            "12 of 18 files are sorted right. Open one whose layers have the eigenvalues",
        ),
        (
            lambda path, w: "other" if (a := by_trying(path, w)) == "refused" else a,
            "12 of 18 files are sorted right. Open one that ends in the middle",
        ),
        (
            lambda path, w: (
                "other" if (a := by_trying(path, w)) == "refused" and path.suffix == ".pt" else a
            ),
            "15 of 18 files are sorted right. Open one that would run code",
        ),
        (lambda path, w: list(open_checkpoint(path)), "return one of 'same', 'other', 'refused'"),
        (lambda path, w: "Same", "return one of 'same', 'other', 'refused', not 'Same'"),
    ],
    beside="weights",
)


def test_a_refusal_that_comes_through_is_named(weights):
    def unguarded(path, weights):
        open_checkpoint(path)
        return by_trying(path, weights)

    verdict = check_sort_file(unguarded, weights)
    assert not verdict.passed
    assert "CheckpointError came out of your function" in verdict.message


def test_an_answer_that_changes_the_weights_does_no_harm(weights):
    before = {k: W.clone() for k, W in weights.items()}

    def careless(path, weights):
        answer = by_neurons(path, weights)
        weights["0.weight"].zero_()
        return answer

    assert check_sort_file(careless, weights).passed
    assert all(torch.equal(weights[k], before[k]) for k in before)
