"""Soups: uniform, greedy and learned; held-out scores and the ensemble."""

import copy
import gc
import itertools
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import AveragingError, SoupError
from wskit.soups import (
    greedy_soup,
    greedy_steps,
    held_out_score,
    learned_soup,
    logit_ensemble,
    uniform_soup,
)
from wskit.zoo import Zoo


def network(seed=0, *, norm=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(5)] if norm else []
        return nn.Sequential(nn.Linear(4, 5), *middle, nn.ReLU(), nn.Linear(5, 3))


def fine_tunes(n, *, scale=0.3, seed=0):
    """State dicts around one network, each moved at random."""
    generator = torch.Generator().manual_seed(seed)
    start = network().state_dict()
    return [
        {name: t + scale * torch.randn(t.shape, generator=generator) for name, t in start.items()}
        for _ in range(n)
    ]


def images(n=60, seed=1):
    """Images, and what the network at the start says of them."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return x, network()(x).argmax(1)


def mean_of(models):
    return {name: torch.stack([m[name] for m in models]).double().mean(0) for name in models[0]}


def line(*values):
    return [{"w": torch.tensor([float(value)])} for value in values]


def value_of(weights):
    return weights["w"].item()


class Lazy:
    """A model that counts how often each tensor was read."""

    def __init__(self, model):
        self.model, self.reads = model, dict.fromkeys(model, 0)

    def mapping(self):
        outer = self

        class Mapping(dict):
            shape = staticmethod(lambda name: tuple(outer.model[name].shape))
            dtype = staticmethod(lambda name: outer.model[name].dtype)
            ties = MappingProxyType({})

            def __getitem__(self, name):
                outer.reads[name] += 1
                return outer.model[name]

        return Mapping.fromkeys(self.model)


# --- the naive formula ------------------------------------------------------------------------


def test_uniform_is_the_mean():
    models = fine_tunes(7)
    soup = uniform_soup(models)
    for name, expected in mean_of(models).items():
        torch.testing.assert_close(soup.weights[name].double(), expected, rtol=0, atol=2e-7)
        assert soup.weights[name].dtype is torch.float32
    assert soup.ingredients == tuple("0123456")
    assert soup.coefficients.to_dict() == dict.fromkeys("0123456", 1 / 7)
    assert soup.history.n_ingredients.tolist() == list(range(1, 8))
    assert repr(soup) == "Soup(7 ingredients: 0, 1, 2, 3, 4, 5, ...)"


def naive_greedy(models, score, accept):
    """Recipe 1, with a new mean of whole state dicts at each try."""
    own = [score(model) for model in models]
    order = sorted(range(len(models)), key=lambda i: (-own[i], i))
    soup, reached = [order[0]], own[order[0]]
    tried = [reached]
    for i in order[1:]:
        trial = {k: v.float() for k, v in mean_of([models[j] for j in [*soup, i]]).items()}
        tried.append(score(trial))
        if tried[-1] > reached or (tried[-1] == reached and accept == "not worse"):
            soup, reached = [*soup, i], tried[-1]
    return soup, order, tried


@pytest.mark.parametrize("accept", ["not worse", "better"])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_equals_the_naive_recipe(accept, seed):
    models = fine_tunes(12, seed=seed)
    score = held_out_score(network(), *images())
    kept, order, tried = naive_greedy(models, score, accept)
    soup = greedy_soup(models, score, accept=accept)
    assert soup.ingredients == tuple(str(i) for i in kept)
    assert soup.history.ingredient.tolist() == [str(i) for i in order]
    np.testing.assert_allclose(soup.history.held_out_score, tried)
    assert soup.history.own_score.tolist() == [score(models[i]) for i in order]
    assert soup.history.loc[soup.history.accepted, "ingredient"].tolist() == [*soup.ingredients]
    assert soup.history.n_ingredients.tolist() == soup.history.accepted.cumsum().tolist()
    for name, expected in mean_of([models[i] for i in kept]).items():
        torch.testing.assert_close(soup.weights[name].double(), expected, rtol=0, atol=5e-7)
    assert soup.coefficients.to_dict() == dict.fromkeys(soup.ingredients, 1 / len(kept))
    assert 1 < len(kept) < 12 or accept == "better"  # both kinds of step are tested


@pytest.mark.parametrize("per", ["model", "layer"])
def test_learned_equals_a_naive_loop(per):
    models, (x, y) = fine_tunes(4), images(1500)  # more images than are taken at once
    columns = {name: int(per == "layer" and name[0] == "2") for name in models[0]}
    alpha = torch.zeros(4, 2 if per == "layer" else 1, requires_grad=True)
    beta = torch.ones((), requires_grad=True)
    optimiser = torch.optim.Adam([alpha, beta], lr=0.1)
    losses = []
    for _ in range(20):
        c = alpha.softmax(0)
        mixed = {
            name: sum(c[i, columns[name]] * model[name] for i, model in enumerate(models))
            for name in models[0]
        }
        logits = beta * torch.func.functional_call(network(), mixed, (x,))
        loss = functional.cross_entropy(logits, y)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    soup = learned_soup(models, network(), x, y, per=per, steps=20, learning_rate=0.1)
    np.testing.assert_allclose(soup.history.loss[:20], losses, atol=1e-5)
    found = soup.coefficients.to_numpy().reshape(4, -1)
    np.testing.assert_allclose(found, alpha.softmax(0).detach(), atol=1e-5)
    assert soup.history.beta.iloc[-1] == pytest.approx(beta.item(), abs=1e-5)


def test_ensemble_is_the_mean_of_logits():
    models, (x, _) = fine_tunes(5), images()
    found = logit_ensemble(network(9), models, x, batch_size=7)
    nets = [copy.deepcopy(network()) for _ in models]
    for net, model in zip(nets, models, strict=True):
        net.load_state_dict(model)
    with torch.no_grad():
        expected = torch.stack([net(x) for net in nets]).mean(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not found.requires_grad


@pytest.mark.parametrize("batch_size", [1024, 7])
def test_held_out_score_is_the_accuracy(batch_size):
    x, y = images()
    module = network(3, norm=True).train()
    before = copy.deepcopy(module.state_dict())
    score = held_out_score(module, x, y, batch_size=batch_size)
    other = network(4, norm=True)
    other.train()(x)  # running statistics of its own
    other.eval()
    assert score(other.state_dict()) == (other(x).argmax(1) == y).double().mean().item()
    assert module.training
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


# --- planted truth ----------------------------------------------------------------------------


def test_greedy_leaves_out_what_was_spoilt():
    good, bad = fine_tunes(8, scale=0.15), fine_tunes(4, scale=3.0, seed=5)
    pool = {f"good{i}": m for i, m in enumerate(good)} | {f"bad{i}": m for i, m in enumerate(bad)}
    x, y = images(300)
    score = held_out_score(network(), x, y)
    soup = greedy_soup(pool, score)
    assert all(name.startswith("good") for name in soup.ingredients)
    assert len(soup.ingredients) >= 4
    assert score(soup.weights) > soup.history.own_score.max()
    fresh = held_out_score(network(), *images(2000, seed=2), test_x=x)
    assert fresh(soup.weights) > max(fresh(model) for model in good)
    assert fresh(uniform_soup(pool).weights) < fresh(soup.weights) - 0.05


@pytest.mark.parametrize("per", ["model", "layer"])
def test_learned_coefficients_are_those_that_were_planted(per):
    """Logits of a linear model that is a known mixture of the ingredients decide the labels."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 8))
    models = [
        {k: torch.randn(t.shape, generator=generator) for k, t in module.state_dict().items()}
        for _ in range(3)
    ]
    planted = torch.tensor([[0.6, 0.1], [0.3, 0.2], [0.1, 0.7]])
    planted = planted if per == "layer" else planted[:, :1].expand(3, 2)
    truth = {
        name: sum(c * m[name] for c, m in zip(planted[:, int(name[0])], models, strict=True))
        for name in models[0]
    }
    x = torch.randn(3000, 6, generator=generator)
    logits = 5 * torch.func.functional_call(module, truth, (x,))
    y = torch.multinomial(logits.softmax(1).detach(), 1, generator=generator)[:, 0]
    soup = learned_soup(models, module, x, y, per=per, steps=400)
    found = soup.coefficients.to_numpy()
    assert np.abs(found - (planted if per == "layer" else planted[:, 0]).numpy()).max() < 0.03
    assert soup.history.beta.iloc[-1] == pytest.approx(5, rel=0.1)
    if per == "layer":
        assert soup.coefficients.columns.tolist() == ["0", "1"]
    for name, expected in truth.items():
        torch.testing.assert_close(soup.weights[name], expected, rtol=0, atol=0.1)


def test_learned_soup_begins_uniform_and_lowers_the_loss():
    models, (x, y) = fine_tunes(6), images(1500)  # more images than are taken at once
    soup = learned_soup(models, network(), x, y, steps=60)
    uniform = uniform_soup(models).weights
    with torch.no_grad():
        loss = functional.cross_entropy(torch.func.functional_call(network(), uniform, (x,)), y)
        logits = torch.func.functional_call(network(), soup.weights, (x,))
    beta = soup.history.beta.iloc[-1]
    assert soup.history.loss.iloc[0] == pytest.approx(loss.item(), abs=1e-6)
    assert soup.history.loss.iloc[-1] == pytest.approx(
        functional.cross_entropy(beta * logits, y).item(), abs=1e-6
    )
    assert soup.history.loss.iloc[-1] < soup.history.loss.iloc[0]
    assert soup.history.step.tolist() == list(range(61))
    assert soup.coefficients.sum() == pytest.approx(1, abs=1e-6)
    for name, expected in uniform_soup(models).weights.items():
        mixed = sum(c * m[name] for c, m in zip(soup.coefficients, models, strict=True))
        torch.testing.assert_close(soup.weights[name], mixed.float(), rtol=0, atol=1e-6)
        assert not torch.equal(soup.weights[name], expected)


# --- properties -------------------------------------------------------------------------------


@given(
    values=st.lists(st.integers(-5, 5), min_size=1, max_size=8),
    table=st.dictionaries(st.integers(-50, 50), st.integers(0, 4)),
    accept=st.sampled_from(["not worse", "better"]),
)
def test_greedy_is_never_worse_than_the_best(values, table, accept):
    """Whatever the score is: here a table of small integers, full of ties."""

    def score(weights):
        return table.get(round(10 * value_of(weights)), 0)

    soup = greedy_soup(line(*values), score, accept=accept)
    own = [score(model) for model in line(*values)]
    assert score(soup.weights) >= max(own)
    kept = soup.history.held_out_score[soup.history.accepted]
    assert (kept.diff().dropna() >= 0).all()
    assert value_of(soup.weights) == pytest.approx(
        np.mean([values[int(name)] for name in soup.ingredients]), abs=1e-5
    )


def test_ties_keep_the_given_order():
    models = dict(zip("dbca", line(1, 1, 1, 2), strict=True))
    soup = greedy_soup(models, lambda weights: value_of(weights) >= 1)
    assert soup.history.ingredient.tolist() == list("dbca")
    assert soup.ingredients == tuple("dbca")
    assert greedy_soup(models, lambda weights: 0.5, accept="better").ingredients == ("d",)


# --- steps, stopping --------------------------------------------------------------------------


def test_steps_are_whole_and_lazy():
    models = fine_tunes(6)
    score = held_out_score(network(), *images())
    calls = itertools.count()
    steps = greedy_steps(models, lambda w: (next(calls), score(w))[1], [score(m) for m in models])
    first = next(steps)
    assert next(calls) == 0  # its score was known
    soups = [first, *steps]
    assert [len(soup.history) for soup in soups] == [1, 2, 3, 4, 5, 6]
    for soup in soups:  # later steps have not changed it
        for name, expected in mean_of([models[int(i)] for i in soup.ingredients]).items():
            torch.testing.assert_close(soup.weights[name].double(), expected, rtol=0, atol=5e-7)
    whole = greedy_soup(models, score)
    pd.testing.assert_frame_equal(whole.history, soups[-1].history)


@pytest.mark.parametrize("evaluations", range(9))
def test_stopping(evaluations):
    models, calls = line(1, 2, 3, 4), []

    def score(weights):
        calls.append(weights)
        return 1.0

    def should_stop():
        return len(calls) >= evaluations

    if evaluations < 4:
        message = f"stopped when {evaluations} of 4 ingredients had been scored"
        with pytest.raises(SoupError, match=message):
            greedy_soup(models, score, should_stop=should_stop)
    else:
        soup = greedy_soup(models, score, should_stop=should_stop)
        assert len(soup.ingredients) == len(soup.history) == min(4, evaluations - 3)
    assert len(calls) == min(evaluations, 7)


def test_where_scores_are_known_there_is_always_a_soup():
    soup = greedy_soup(line(1, 2), value_of, scores=[3, 4], should_stop=lambda: True)
    assert soup.ingredients == ("1",)


def test_ties_of_the_best_one_are_checked_in_all():
    untied, tied, other = (dict.fromkeys("ab", torch.ones(2)) for _ in range(3))
    untied["b"], other["b"] = torch.ones(2), torch.zeros(2)
    with pytest.raises(AveragingError, match="'a' are tied in ingredient '1' and differ in"):
        greedy_soup([untied, tied, other], lambda weights: 1.0, scores=[1, 2, 0])


def test_progress(capsys):
    greedy_soup(line(1, 2, 3), value_of, progress=True)
    assert "5/5" in capsys.readouterr().err
    greedy_soup(line(1, 2, 3), value_of, scores=[1, 2, 3], progress=True)
    assert "2/2" in capsys.readouterr().err


# --- reads and memory -------------------------------------------------------------------------


def test_each_candidate_is_read_once_after_sorting(without_type_checks):
    lazy = [Lazy(model) for model in fine_tunes(8)]
    models = [each.mapping() for each in lazy]
    greedy_soup(models, lambda weights: 1.0, scores=range(8))
    reads = np.array([list(each.reads.values()) for each in lazy])
    assert (reads[:7] == 1).all()
    assert sorted(reads[7]) == [1, 1, 1, 2]  # one more tells the best one's device
    for each in lazy:
        each.reads.update(dict.fromkeys(each.reads, 0))
    uniform_soup(models)
    assert sum(sum(each.reads.values()) for each in lazy) == 8 * 4


@pytest.fixture
def new_objects_only():
    """What exists is left out of `gc.get_objects`, which is then fast."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("n", [3, 9])
@pytest.mark.usefixtures("new_objects_only")
def test_two_vectors_are_alive_at_a_time(n):
    size = 300_000

    def alive():
        gc.collect()
        found = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.numel() >= size]
        return len({t.untyped_storage().data_ptr() for t in found})

    models = [{"w": torch.full((size,), float(i))} for i in range(n)]
    before, seen = alive(), []
    soup = greedy_soup(models, lambda weights: (seen.append(alive()), 0.0)[1], scores=np.zeros(n))
    assert len(soup.ingredients) == n
    assert max(seen) - before <= 2
    assert alive() - before == 1  # the soup


# --- what ingredients may be ------------------------------------------------------------------


def test_all_kinds_of_ingredients_agree(tmp_path):
    models = fine_tunes(5)
    stacks = {name: torch.stack([m[name] for m in models]) for name in models[0]}
    zoo = Zoo(stacks, pd.DataFrame({"run": range(5)}))
    files = [
        open_checkpoint(save_weights(m, tmp_path / f"{i}.safetensors"))
        for i, m in enumerate(models)
    ]
    score = held_out_score(network(), *images())
    for make in (
        uniform_soup,
        lambda pool: greedy_soup(pool, score),
        lambda pool: learned_soup(pool, network(), *images(), steps=3),
    ):
        expected = make(models)
        for pool in (zoo, files, dict(zip("abcde", models, strict=True))):
            found = make(pool)
            assert len(found.ingredients) == len(expected.ingredients)
            assert all(torch.equal(found.weights[n], expected.weights[n]) for n in models[0])
    path = save_weights(expected.weights, tmp_path / "soup.safetensors")
    saved = open_checkpoint(path)
    assert all(torch.equal(saved[name], expected.weights[name]) for name in models[0])


def test_batch_norm_counters_are_the_first_ones():
    nets = [network(norm=True) for _ in range(3)]
    for i, net in enumerate(nets):
        for _ in range(i + 2):
            net.train()(torch.randn(9, 4) + i)
    models = [net.state_dict() for net in nets]
    x, y = images()
    score = held_out_score(nets[0], x, y)
    for soup in (
        uniform_soup(models),
        learned_soup(models, nets[0], x, y, steps=2),
        greedy_soup(models, score, scores=[2, 1, 0]),
    ):
        assert soup.weights["1.num_batches_tracked"] == 2
        nets[0].load_state_dict(soup.weights)
    assert greedy_soup(models, score, scores=[0, 0, 1]).weights["1.num_batches_tracked"] == 4
    running = torch.stack([m["1.running_mean"] for m in models]).mean(0)
    torch.testing.assert_close(uniform_soup(models).weights["1.running_mean"], running)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_summed_in_float32_and_rounded_once(dtype):
    models = [{k: t.to(dtype) for k, t in m.items()} for m in fine_tunes(40)]
    for soup in (uniform_soup(models), greedy_soup(models, lambda weights: 1.0)):
        for name, exact in mean_of(models).items():
            error = (soup.weights[name].double() - exact).abs().max()
            rounding = (exact.to(dtype).double() - exact).abs().max()
            assert soup.weights[name].dtype is dtype
            assert error <= rounding + (1e-15 if dtype is torch.float64 else 1e-6)


# --- messages ---------------------------------------------------------------------------------


def nan_in(model):
    return model | {"0.bias": model["0.bias"] * float("nan")}


BAD = [
    (nan_in, AveragingError, "tensor '0.bias' of ingredient 'b' holds NaN or inf in 5 of its 5"),
    (
        lambda m: {k: t for k, t in m.items() if k != "0.bias"},
        AveragingError,
        "tensor '0.bias' is in ingredient 'a' and not in ingredient 'b'",
    ),
    (
        lambda m: m | {"0.bias": torch.zeros(1)},
        AveragingError,
        r"'0.bias' has the shape \(5,\) in ingredient 'a' and \(1,\) in ingredient 'b'",
    ),
    (lambda m: 3, SoupError, "ingredient 'b' must be a mapping of names to tensors, got int"),
]


@pytest.mark.parametrize(("spoil", "kind", "message"), BAD)
def test_errors_name_ingredient_and_tensor(spoil, kind, message, without_type_checks):
    a, b = fine_tunes(2)
    pool = {"a": a, "b": spoil(b)}
    x, y = images()
    for make in (
        uniform_soup,
        lambda pool: greedy_soup(pool, held_out_score(network(), x, y)),
        lambda pool: learned_soup(pool, network(), x, y),
    ):
        with pytest.raises(kind, match=message):
            make(pool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform_soup([]), "there are no ingredients"),
        (lambda: uniform_soup(line(1)[0]), "ingredient 'w' must be a mapping .* give several"),
        (
            lambda: greedy_soup(line(1, 2), value_of, accept="=="),
            "accept must be one of 'not worse', 'b",
        ),
        (lambda: greedy_soup(line(1, 2), value_of, scores=[1]), r"2 scores in one row.*\(1,\)"),
        (
            lambda: greedy_soup(line(1, 2), value_of, scores=[1, float("nan")]),
            "the score of ingredient '1' is nan",
        ),
        (
            lambda: greedy_soup(line(1, 2), lambda weights: float("inf")),
            "the score of ingredient '0' is inf",
        ),
        (
            lambda: greedy_soup(line(1, 2), lambda weights: float("nan"), scores=[1, 0]),
            "the score of the soup with ingredient '1' is nan",
        ),
        (
            lambda: learned_soup(line(1), network(), *images(), per="tensor"),
            "per must be one of 'model', 'layer'",
        ),
        (lambda: learned_soup(line(1), network(), *images(), steps=0), "must be positive, got 0"),
        (
            lambda: learned_soup(fine_tunes(2), network(), images()[0], torch.zeros(3)),
            r"a class for each image is needed, got 60 images and classes of shape \(3,\)",
        ),
        (
            lambda: learned_soup(fine_tunes(2), network(), images()[0] / 0, images()[1]),
            "the held-out loss is nan after 100 steps; lower the",
        ),
        (
            lambda: held_out_score(network(), torch.zeros(0, 4), torch.zeros(0)),
            "a class for each image is needed, got 0",
        ),
        (
            lambda: held_out_score(network(), *images())({"0.weight": torch.zeros(5, 4)}),
            "the weights do not fit Sequential: Missing key",
        ),
        (
            lambda: logit_ensemble(nn.Linear(4, 2), fine_tunes(2), images()[0]),
            "ingredient '0' do not fit Linear",
        ),
    ],
)
def test_messages(call, message, without_type_checks):
    with pytest.raises(SoupError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_held_out_set_that_is_tested_on_is_refused():
    x, y = images()
    test = images(40, seed=7)[0]
    held_out_score(network(), x, y, test_x=test)
    mixed = test.double().clone()
    mixed[[3, 30]] = x[[8, 9]].double()
    for tested, shared in ((x, 60), (x.clone(), 60), (x[10:40], 30), (mixed, 2)):
        with pytest.raises(SoupError, match=f"{shared} of the 60 held-out images are test images"):
            held_out_score(network(), x, y, test_x=tested)
    with pytest.raises(SoupError, match=r"differ in shape: \(4,\) and \(2, 2\)"):
        held_out_score(network(), x, y, test_x=test.view(40, 2, 2))
