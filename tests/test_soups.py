"""Soups: uniform, greedy and learned; held-out scores."""

import copy
import gc

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from wskit._base.weights import DerivedWeights
from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import AveragingError, SoupError
from wskit.soups import greedy_soup, held_out_score, learned_soup, uniform_soup
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


def naive_greedy(models, score):
    """Recipe 1, with a new mean of whole state dicts at each try."""
    own = [score(model) for model in models]
    order = sorted(range(len(models)), key=lambda i: (-own[i], i))
    soup, reached = [order[0]], own[order[0]]
    tried = [reached]
    for i in order[1:]:
        trial = {k: v.float() for k, v in mean_of([models[j] for j in [*soup, i]]).items()}
        tried.append(score(trial))
        if tried[-1] >= reached:
            soup, reached = [*soup, i], tried[-1]
    return soup, order, tried


@pytest.mark.parametrize("seed", range(4))
def test_greedy_equals_the_naive_recipe(seed):
    models = fine_tunes(12, seed=seed)
    score = held_out_score(network(), *images())
    kept, order, tried = naive_greedy(models, score)
    steps = []
    soup = greedy_soup(models, score, callback=steps.append)
    assert soup.ingredients == tuple(str(i) for i in kept)
    assert soup.history.ingredient.tolist() == [str(i) for i in order]
    np.testing.assert_allclose(soup.history.held_out_score, tried)
    assert soup.history.own_score.tolist() == [score(models[i]) for i in order]
    assert soup.history.loc[soup.history.accepted, "ingredient"].tolist() == [*soup.ingredients]
    assert soup.history.n_ingredients.tolist() == soup.history.accepted.cumsum().tolist()
    assert soup.coefficients.to_dict() == dict.fromkeys(soup.ingredients, 1 / len(kept))
    assert 1 < len(kept) < 12  # both kinds of step are tested
    assert [len(each.history) for each in steps] == list(range(1, 13))
    for each in [*steps, soup]:  # later steps have not changed it
        for name, expected in mean_of([models[int(i)] for i in each.ingredients]).items():
            torch.testing.assert_close(each.weights[name].double(), expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("per", ["model", "layer"])
def test_learned_equals_a_naive_loop(per):
    models, (x, y) = fine_tunes(4), images(1500)  # more images than are taken at once
    columns = {name: int(per == "layer" and name[0] == "2") for name in models[0]}
    alpha = torch.zeros(4, 2 if per == "layer" else 1, requires_grad=True)
    beta = torch.ones((), requires_grad=True)
    optimizer = torch.optim.Adam([alpha, beta], lr=0.1)
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
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    soup = learned_soup(models, network(), x, y, per=per, steps=20, learning_rate=0.1)
    np.testing.assert_allclose(soup.history.loss[:20], losses, atol=1e-5)
    found = soup.coefficients.to_numpy().reshape(4, -1)
    np.testing.assert_allclose(found, alpha.softmax(0).detach(), atol=1e-5)
    assert soup.history.beta.iloc[-1] == pytest.approx(beta.item(), abs=1e-5)
    assert soup.history.step.tolist() == list(range(21))
    for name in models[0]:
        c = found[:, columns[name]]
        mixed = sum(ci * model[name] for ci, model in zip(c, models, strict=True))
        torch.testing.assert_close(soup.weights[name], mixed.float(), rtol=0, atol=1e-6)


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
    spoilt = {k: t / 0 if t.is_floating_point() else t for k, t in before.items()}
    assert score(spoilt) == 0


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


@given(
    values=st.lists(st.integers(-5, 5), min_size=1, max_size=8),
    table=st.dictionaries(st.integers(-50, 50), st.integers(0, 4)),
)
def test_greedy_is_never_worse_than_the_best(values, table):
    """Whatever the score is: here a table of small integers, full of ties."""

    def score(weights):
        return table.get(round(10 * value_of(weights)), 0)

    soup = greedy_soup(line(*values), score)
    assert score(soup.weights) >= max(score(model) for model in line(*values))
    kept = soup.history.held_out_score[soup.history.accepted]
    assert (kept.diff().dropna() >= 0).all()
    assert value_of(soup.weights) == pytest.approx(
        np.mean([values[int(name)] for name in soup.ingredients]), abs=1e-5
    )


def test_equal_scores_keep_the_given_order():
    models = dict(zip("dbca", line(1, 1, 1, 2), strict=True))
    soup = greedy_soup(models, lambda weights: value_of(weights) >= 1)
    assert soup.history.ingredient.tolist() == list(soup.ingredients) == list("dbca")


@pytest.mark.parametrize("n", [1, 3])
def test_a_callback_stops_the_search(n):
    calls = []
    soup = greedy_soup(
        line(1, 2, 3, 4),
        lambda weights: calls.append(weights) or 1.0,
        scores=[1] * 4,
        callback=lambda soup: len(soup.history) == n,
    )
    assert len(soup.ingredients) == len(soup.history) == n
    assert len(calls) == n - 1  # the first one's score is known


# --- reads and memory -------------------------------------------------------------------------


class Counted(DerivedWeights):
    """A model that counts how often each tensor is read."""

    def __init__(self, model):
        super().__init__(model)
        self.reads = dict.fromkeys(model, 0)

    def __getitem__(self, name):
        self.reads[name] += 1
        return self._like[name]


def test_each_candidate_is_read_once_after_sorting(without_type_checks):
    models = [Counted(model) for model in fine_tunes(8)]
    greedy_soup(models, lambda weights: 1.0, scores=range(8))
    reads = np.array([list(model.reads.values()) for model in models])
    assert (reads[:7] == 1).all()
    assert sorted(reads[7]) == [1, 1, 1, 2]  # one more shows the best one's device


@pytest.mark.parametrize("n", [3, 9])
def test_two_vectors_are_alive_at_a_time(n):
    size = 300_000

    def alive():
        gc.collect()
        found = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.numel() >= size]
        return len({t.untyped_storage().data_ptr() for t in found})

    gc.freeze()  # leaves what exists out of `gc.get_objects`, which is then fast
    models = [{"w": torch.full((size,), float(i))} for i in range(n)]
    before, seen = alive(), []
    soup = greedy_soup(models, lambda weights: (seen.append(alive()), 0.0)[1], scores=np.zeros(n))
    assert len(soup.ingredients) == n
    assert max(seen) - before <= 2
    assert alive() - before == 1  # the soup
    gc.unfreeze()


# --- what ingredients may be ------------------------------------------------------------------


def test_all_kinds_of_ingredients_agree(tmp_path):
    models, modules = fine_tunes(5), [network() for _ in range(5)]
    for module, model in zip(modules, models, strict=True):
        module.load_state_dict(model)
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
        for pool in (zoo, files, modules, dict(zip("abcde", models, strict=True))):
            found = make(pool)
            assert len(found.ingredients) == len(expected.ingredients)
            assert all(torch.equal(found.weights[n], expected.weights[n]) for n in models[0])


def test_counters_and_running_statistics():
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
        assert soup.weights["1.num_batches_tracked"] == 2  # the first one's
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


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m | {"0.bias": m["0.bias"] * np.nan}, "'0.bias' of ingredient 'b' holds NaN"),
        (lambda m: {"0.weight": m["0.weight"]}, "'0.bias' is in ingredient 'a' and not in ingr"),
    ],
)
def test_errors_name_ingredient_and_tensor(spoil, message):
    a, b = fine_tunes(2)
    pool = {"a": a, "b": spoil(b)}
    x, y = images()
    for make in (
        uniform_soup,
        lambda pool: greedy_soup(pool, lambda weights: 1.0),
        lambda pool: learned_soup(pool, network(), x, y),
    ):
        with pytest.raises(AveragingError, match=message):
            make(pool)


TWO = line(1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform_soup([]), "got none"),
        (lambda: uniform_soup(TWO[0]), "put it in a list"),
        (lambda: uniform_soup(network()), "put it in a list"),
        (lambda: greedy_soup(TWO, value_of, scores=[1, np.nan]), "finite score, got .*nan"),
        (lambda: greedy_soup(TWO, lambda weights: np.inf), "of ingredient '0' must be finite"),
        (
            lambda: greedy_soup(TWO, lambda weights: np.nan, scores=[1, 0]),
            "the score of the soup with ingredient '1' must be finite, got nan",
        ),
        (lambda: learned_soup(TWO, network(), *images(), per="tensor"), "per must be one of 'mod"),
        (
            lambda: learned_soup(fine_tunes(2), network(), images()[0], torch.zeros(3)),
            r"one class for each image, got 60 images and classes of shape \(3,\)",
        ),
        (
            lambda: learned_soup(fine_tunes(2), network(), images()[0] / 0, images()[1]),
            "the held-out loss is nan after 100 steps; lower the",
        ),
    ],
)
def test_what_would_be_silently_wrong_is_refused(call, message, without_type_checks):
    with pytest.raises(SoupError, match=message):
        call()


def test_a_held_out_set_that_is_tested_on_is_refused():
    x, y = images()
    test = images(40, seed=7)[0]
    held_out_score(network(), x, y, test_x=test)
    mixed = test.double().clone()
    mixed[[3, 30]] = x[[8, 9]].double()
    for tested, shared in ((x, 60), (x[10:40], 30), (mixed, 2)):
        with pytest.raises(SoupError, match=f"{shared} of the 60 held-out images are test images"):
            held_out_score(network(), x, y, test_x=tested)
