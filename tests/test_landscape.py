"""Points, paths, planes, simplices and regions, on losses that are known in closed form."""

import numpy as np
import pytest
import torch

from wskit.errors import LandscapeError
from wskit.landscape import (
    Compute,
    LossPath,
    barrier,
    evaluate_mixtures,
    evaluate_models,
    iterate_mixtures,
    loss_path,
    loss_plane,
    loss_simplex,
    one_by_one,
    plane_through,
    probability_of_better,
    region_losses,
)

SCALE = torch.linspace(0.5, 3, 12, dtype=torch.float64)


def model(seed, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(3, 2, generator=rng).to(dtype),
        "a.bias": torch.randn(3, generator=rng).to(dtype),
        "b.weight": torch.randn(3, 1, generator=rng).to(dtype),
        "n": torch.tensor(seed),
    }


def flat(weights):
    return torch.cat([weights[k].flatten() for k in ("a.weight", "a.bias", "b.weight")])


@one_by_one
def quadratic(weights):
    """A bowl around 1, and how far the weights' sum is."""
    w = flat(weights).double()
    return {"loss": (SCALE * (w - 1).square()).sum(), "total": w.sum(), "accuracy": w.mean()}


def exact(w):
    return (SCALE.numpy() * (w - 1) ** 2).sum(-1)


def stop_after(n):
    calls = iter(range(1000))
    return lambda: next(calls) >= n


def test_mixtures_are_the_sums_they_say():
    models = [model(i) for i in range(3)]
    c = np.random.default_rng(0).standard_normal((7, 3))
    c.flags.writeable = False
    table = evaluate_mixtures(quadratic, models, c)
    w = c @ np.stack([flat(m).numpy() for m in models])
    np.testing.assert_allclose(table.loss, exact(w), rtol=1e-12)
    np.testing.assert_allclose(table.total, w.sum(1), rtol=1e-10)
    assert list(table.index) == list(range(7))


def test_models_have_a_row_under_their_name():
    models = {"b": model(1), "a": model(0)}
    table = evaluate_models(quadratic, models)
    assert list(table.index) == ["b", "a"]
    np.testing.assert_allclose(
        table.loss, [exact(flat(m).numpy()) for m in models.values()], rtol=1e-12
    )
    part = evaluate_models(quadratic, models, compute=Compute(1, should_stop=stop_after(1)))
    assert list(part.index) == ["b"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_models_themselves_are_met_exactly_and_left_alone(dtype):
    models = [model(i, dtype) for i in range(2)]
    before = [{name: t.clone() for name, t in m.items()} for m in models]
    seen = []

    def evaluate(stacked):
        seen.append({name: t.clone() for name, t in stacked.items()})
        for tensor in stacked.values():  # however badly it behaves
            if tensor.is_floating_point():
                tensor.zero_()
        stacked["n"][0].zero_()
        return {"loss": torch.zeros(2)}

    loss_path(evaluate, *models, alphas=[0.0, 1.0])
    for m, copy in zip(models, before, strict=True):
        assert all(torch.equal(m[name], copy[name]) for name in m)
    for i in range(2):
        for name in ("a.weight", "a.bias", "b.weight"):
            assert seen[0][name].dtype == dtype
            assert torch.equal(seen[0][name][i], before[i][name])
    assert seen[0]["n"].tolist() == [0, 0]  # a counter is the first model's


def test_half_precision_is_rounded_once():
    models = [model(i, torch.bfloat16) for i in range(3)]
    c = np.full((1, 3), 1 / 3)
    seen = {}
    evaluate_mixtures(lambda s: seen.update(s) or {"loss": torch.zeros(1)}, models, c)
    expected = sum(m["a.weight"].double() for m in models) / 3
    assert torch.equal(seen["a.weight"][0], expected.bfloat16())


def test_chunks_change_nothing():
    models = [model(i) for i in range(3)]
    c = np.random.default_rng(0).dirichlet(np.ones(3), 10)
    sizes = []

    def evaluate(stacked):
        sizes.append(len(stacked["n"]))
        return quadratic(stacked)

    whole = evaluate_mixtures(evaluate, models, c)
    small = evaluate_mixtures(evaluate, models, c, compute=Compute(chunk_size=3))
    assert sizes == [10, 3, 3, 3, 1]
    np.testing.assert_allclose(whole, small, rtol=1e-12)


def test_a_chunk_is_bounded_by_the_weights(monkeypatch):
    size = sum(t.nbytes for t in model(0).values())
    monkeypatch.setattr("wskit.landscape._evaluate._BYTES_AT_ONCE", 4 * size)
    parts = iterate_mixtures(quadratic, [model(0), model(1)], np.zeros((9, 2)))
    assert [len(part) for part in parts] == [4, 4, 1]


def test_what_was_done_before_a_stop_is_kept():
    models = [model(i) for i in range(3)]
    compute = Compute(chunk_size=4, should_stop=stop_after(2))
    path = loss_path(quadratic, *models[:2], alphas=np.linspace(0, 1, 11), compute=compute)
    np.testing.assert_allclose(path.alphas, np.linspace(0, 1, 11)[:8])
    assert path.losses.shape == (8,)

    compute = Compute(chunk_size=4, should_stop=stop_after(2))
    x, y = np.arange(3.0), np.arange(4.0)
    plane = loss_plane(quadratic, *models, x=x, y=y, compute=compute)
    whole = loss_plane(quadratic, *models, x=x, y=y)
    assert plane.evaluated.ravel().tolist() == [True] * 8 + [False] * 4
    assert np.isnan(plane.losses).ravel().tolist() == [False] * 8 + [True] * 4
    np.testing.assert_allclose(plane.losses.ravel()[:8], whole.losses.ravel()[:8])
    assert whole.evaluated.all()

    compute = Compute(chunk_size=2, should_stop=stop_after(3))
    assert len(loss_simplex(quadratic, models, n_points=9, seed=0, compute=compute)) == 6
    compute = Compute(chunk_size=2, should_stop=stop_after(3))
    some = region_losses(quadratic, models, model(9), n_points=4, seed=0, compute=compute)
    assert some.group.tolist() == ["edge"] * 3 + ["inside"] * 3
    with pytest.raises(LandscapeError, match="no point was evaluated"):
        loss_path(quadratic, *models[:2], compute=Compute(should_stop=lambda: True))


def test_progress_is_shown_when_asked(capsys):
    models = [model(0), model(1)]
    loss_path(quadratic, *models, compute=Compute(chunk_size=10))
    assert capsys.readouterr().err == ""
    loss_path(quadratic, *models, compute=Compute(chunk_size=10, progress=True))
    assert "41/41" in capsys.readouterr().err


def test_gradients_are_off_inside_and_as_before_outside():
    def evaluate(stacked):
        assert not torch.is_grad_enabled()
        return quadratic(stacked)

    weights = {name: t.requires_grad_(t.is_floating_point()) for name, t in model(0).items()}
    for _ in iterate_mixtures(evaluate, [weights], [[1.0]] * 3, chunk_size=1):
        assert torch.is_grad_enabled()


def test_a_path_is_the_parabola():
    a, b = model(0), model(1)
    path = loss_path(quadratic, a, b, names=("old", "new"))
    w = (1 - path.alphas)[:, None] * flat(a).numpy() + path.alphas[:, None] * flat(b).numpy()
    np.testing.assert_allclose(path.losses, exact(w))
    np.testing.assert_allclose(path.accuracies, w.mean(1), atol=1e-12)
    assert path.length == pytest.approx(float((flat(a) - flat(b)).norm()))
    assert path.alphas[[0, -1]].tolist() == [-0.5, 1.5]
    assert path.ends == ("old", "new")
    assert barrier(path) == 0  # convex
    with pytest.raises(ValueError, match="read-only"):
        path.losses[0] = 1


def test_barrier_of_a_double_well():
    """L = (w^2 - 1)^2 has 1 between its minima; a slope s w is taken out by the line."""
    for slope in (0.0, 0.3):
        well = one_by_one(lambda v, s=slope: (v["w"] ** 2 - 1) ** 2 + s * v["w"])
        ends = [{"w": torch.tensor(w, dtype=torch.float64)} for w in (-1.0, 1.0)]
        path = loss_path(well, *ends, alphas=np.linspace(-1, 2, 301))
        assert barrier(path) == pytest.approx(1)
        assert path.accuracies is None


def test_a_barrier_needs_its_ends():
    def path(alphas, losses):
        return LossPath(np.array(alphas), {"loss": np.array(losses)}, ("a", "b"), 1.0)

    with pytest.raises(LandscapeError, match=r"none at alpha=1 \('b'\)"):
        barrier(path([0.0, 0.9], [1.0, 1.0]))
    with pytest.raises(LandscapeError, match=r"NaN at alpha=0.5"):
        barrier(path([0.0, 0.5, 1.0], [1.0, np.nan, 1.0]))
    assert barrier(path([0.0, 0.5, 1.0, 2.0], [1.0, 1.0, 1.0, np.nan])) == 0
    assert barrier(path([0.0, 0.5, 1.0], [1.0, np.inf, 1.0])) == np.inf


def test_a_plane_is_that_of_gram_schmidt():
    models = [model(i) for i in range(3)]
    w1, w2, w3 = (flat(m).numpy() for m in models)
    u = (w2 - w1) / np.linalg.norm(w2 - w1)
    v = (w3 - w1) - u * (u @ (w3 - w1))
    v /= np.linalg.norm(v)
    plane = loss_plane(quadratic, *models, names=("a", "b", "c"))
    corners = [[(w - w1) @ u, (w - w1) @ v] for w in (w1, w2, w3)]
    np.testing.assert_allclose(plane.corners, corners, atol=1e-12)
    w = w1 + plane.x[None, :, None] * u + plane.y[:, None, None] * v
    np.testing.assert_allclose(plane.losses, exact(w))
    assert plane.accuracies.shape == plane.evaluated.shape == (21, 21)
    assert plane.x[0] < plane.corners[:, 0].min()
    assert plane.y[-1] > plane.corners[:, 1].max()
    assert plane.names == ("a", "b", "c")
    c = plane_through(*models).coefficients(plane.corners)
    np.testing.assert_allclose(c, np.eye(3), atol=1e-12)


def test_a_plane_of_a_line_is_refused():
    a, b = model(0), model(1)
    middle = {k: (a[k] + b[k]) / 2 for k in ("a.weight", "a.bias", "b.weight")} | {"n": a["n"]}
    for three in ((a, b, middle), (a, a, b), (a, b, b)):
        with pytest.raises(LandscapeError, match="lie on one line"):
            plane_through(*three)


def test_running_statistics_are_no_part_of_a_distance():
    models = [model(i) for i in range(3)]
    more = [m | {"bn.running_var": torch.rand(4) * 100} for m in models]
    np.testing.assert_array_equal(plane_through(*more).corners, plane_through(*models).corners)


def test_a_simplex_is_filled_evenly():
    models = [model(i) for i in range(3)]
    table = loss_simplex(quadratic, models, n_points=3000, seed=0, names=["p", "q", "r"])
    c = table[["p", "q", "r"]].to_numpy()
    np.testing.assert_allclose(c.sum(1), 1)
    assert c.min() >= 0
    # Of a uniform triangle: means 1/3, variances 1/18; the part with c > 1/2 is a quarter.
    np.testing.assert_allclose(c.mean(0), 1 / 3, atol=0.015)
    np.testing.assert_allclose(c.var(0), 1 / 18, rtol=0.1)
    np.testing.assert_allclose((c > 0.5).mean(0), 1 / 4, atol=0.03)
    np.testing.assert_allclose(table.loss, exact(c @ np.stack([flat(m).numpy() for m in models])))
    again = loss_simplex(quadratic, models, n_points=3000, seed=0)
    np.testing.assert_array_equal(again.loss, table.loss)
    with pytest.raises(LandscapeError, match=r"name of its own.*\['p', 'p', 'loss'\]"):
        loss_simplex(quadratic, models, n_points=1, seed=0, names=["p", "p", "loss"])


def test_a_region_by_groups():
    """Models on a shell around 1: inside is better, outside worse; a step at random is neither."""
    base = {name: torch.zeros_like(t) for name, t in model(0).items()}
    models = []
    for i in range(5):
        d = model(i)
        size = flat(d).norm()
        models.append({k: 1 + 3 * d[k] / size if k != "n" else d[k] for k in d})
    seen = []

    def evaluate(stacked):
        seen.append({name: t.clone() for name, t in stacked.items()})
        return one_by_one(lambda w: (flat(w) - 1).square().sum())(stacked)

    table = region_losses(evaluate, models, base, n_points=20, alphas=(-0.5, 2.0, 3.0), seed=0)
    loss = dict(list(table.groupby("group").loss))
    np.testing.assert_allclose(loss["edge"], 9)
    assert loss["inside"].max() < 9 < loss["outside"].min()
    assert probability_of_better(loss["inside"], loss["edge"]) == 1
    assert probability_of_better(loss["inside"], loss["random"]) > 0.9
    assert table.alpha[table.group == "outside"].value_counts().to_dict() == {
        -0.5: 7,
        2.0: 7,
        3.0: 6,
    }
    assert table.alpha[table.group != "outside"].isna().all()
    # The column of distances is that of the weights that were evaluated, tensor by tensor.
    names = ("a.weight", "a.bias", "b.weight")
    norms = {k: torch.cat([s[k] for s in seen]).flatten(1).norm(dim=1).numpy() for k in names}
    total = np.sqrt(sum(n**2 for n in norms.values()))
    np.testing.assert_allclose(table.distance, total)
    inside, random = ((table.group == g).to_numpy() for g in ("inside", "random"))
    for k in names:
        np.testing.assert_allclose(norms[k][inside], norms[k][random])
    again = region_losses(
        quadratic, models, base, n_points=20, seed=0, compute=Compute(chunk_size=3)
    )
    np.testing.assert_allclose(again.distance[inside | random], table.distance[inside | random])


def test_a_point_that_diverges_has_a_reason():
    def evaluate(stacked):
        loss = stacked["a.weight"].square().sum(dim=(1, 2))
        far = loss > loss.median()
        return {
            "loss": torch.where(far, torch.inf, loss),
            "accuracy": loss.log().where(~far, torch.nan),
        }

    models = [model(i) for i in range(2)]
    table = region_losses(evaluate, models, model(9), n_points=3, seed=0)
    diverged = table["accuracy"].isna()
    assert 0 < diverged.sum() < len(table)
    assert (table["reason"][diverged] == "the evaluation gave NaN for accuracy").all()
    assert (table["reason"][~diverged] == "").all()
    whole = region_losses(quadratic, models, model(9), n_points=3, seed=0)
    assert (whole["reason"] == "").all()
    assert whole["reason"].dtype == table["reason"].dtype


def test_regions_are_told_apart_from_nonsense():
    models = [model(i) for i in range(2)]
    with pytest.raises(LandscapeError, match="two models and a point, got 1 and 50"):
        region_losses(quadratic, models[:1], model(2), seed=0)
    with pytest.raises(LandscapeError, match=r"alphas outside \[0, 1\] are needed, got \[0.5\]"):
        region_losses(quadratic, models, model(2), alphas=[0.5], seed=0)


def test_probability_of_better_counts_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 30), rng.integers(2, 12, 40)
    assert probability_of_better(a, b) == pytest.approx(np.mean(a[:, None] < b[None]))
    assert probability_of_better([1.0], [1.0]) == 0
    assert probability_of_better([1.0], [np.inf]) == 1
    with pytest.raises(LandscapeError, match="group 'b' has 2 of which 1 are NaN"):
        probability_of_better([1.0], [1.0, np.nan])
    with pytest.raises(LandscapeError, match="group 'a' has 0"):
        probability_of_better([], [1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.bias": None}, r"tensor 'a.bias' is in only one of the models 1 and 2 \(1 such"),
        ({"extra": torch.zeros(1)}, "tensor 'extra' is in only one"),
        ({"b.weight": torch.zeros(1, 3)}, r"'b.weight' has the shape \(3, 1\) in model 1 and \(1"),
        ({"a.bias": torch.tensor([0.0, torch.nan, 0.0])}, "'a.bias' of model 2 holds NaN or inf"),
        ({"a.bias": torch.zeros(3, dtype=torch.int64)}, "'a.bias' is torch.float64 in model 1"),
        ({"a.bias": torch.zeros(3, dtype=torch.complex64)}, "'a.bias' .* must be real"),
    ],
)
def test_models_that_do_not_fit_are_named(change, message):
    other = {k: t for k, t in (model(1) | change).items() if t is not None}
    with pytest.raises(LandscapeError, match=message):
        loss_path(quadratic, model(0), other)


def test_bad_calls_are_told(without_type_checks):
    models = [model(0), model(1)]
    with pytest.raises(LandscapeError, match=r"shape \(points, 2\)"):
        evaluate_mixtures(quadratic, models, [[1.0, 0.0, 0.0]])
    with pytest.raises(LandscapeError, match="finite coefficients"):
        evaluate_mixtures(quadratic, models, [[np.nan, 1.0]])
    with pytest.raises(LandscapeError, match="chunk_size must be at least 1, got 0"):
        evaluate_mixtures(quadratic, models, [[0, 1]], compute=Compute(chunk_size=0))
    with pytest.raises(LandscapeError, match="got float; wrap a function of one model"):
        loss_path(lambda stacked: 1.0, *models)
    with pytest.raises(LandscapeError, match=r"with 'loss' in it, got \['accuracy'\]"):
        loss_path(lambda stacked: {"accuracy": 1.0}, *models)
    with pytest.raises(LandscapeError, match=r"41 values of 'loss', got an array of shape \(3,\)"):
        loss_path(lambda stacked: {"loss": np.zeros(3)}, *models)
    with pytest.raises(LandscapeError, match="no floating-point tensor"):
        loss_path(quadratic, {"n": torch.tensor(1)}, {"n": torch.tensor(1)})
    with pytest.raises(LandscapeError, match="alphas must be a sequence"):
        loss_path(quadratic, *models, alphas=0.5)
