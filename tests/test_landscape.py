"""Points, paths, planes, regions and rays, on losses that are known in closed form."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from wskit.errors import LandscapeError
from wskit.landscape import (
    LossPath,
    barrier,
    evaluate_mixtures,
    evaluate_models,
    iterate_mixtures,
    loss_path,
    loss_plane,
    one_by_one,
    plane_through,
    random_direction,
    ray_sharpness,
    region_edges,
    region_losses,
    top_hessian_eigenvalue,
)
from wskit.zoo import MLP

SCALE = torch.linspace(0.5, 3, 12, dtype=torch.float64)
NAMES = ("a.weight", "a.bias", "b.weight")


def model(seed, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(3, 2, generator=rng).to(dtype),
        "a.bias": torch.randn(3, generator=rng).to(dtype),
        "b.weight": torch.randn(3, 1, generator=rng).to(dtype),
        "n": torch.tensor(seed),
    }


def flat(weights):
    return torch.cat([weights[k].flatten() for k in NAMES])


@one_by_one
def quadratic(weights):
    """A bowl around 1, and how far the weights' sum is."""
    w = flat(weights).double()
    return {"loss": (SCALE * (w - 1).square()).sum(), "total": w.sum(), "accuracy": w.mean()}


def exact(w):
    return (SCALE.numpy() * (w - 1) ** 2).sum(-1)


# --- points -----------------------------------------------------------------------------------


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
    models = [model(1), model(0)]
    expected = [exact(flat(m).numpy()) for m in models]
    for given, index in [
        (dict(zip("ba", models, strict=True)), ["b", "a"]),
        ({5: models[0], 3: models[1]}, [5, 3]),
        (models, ["model 1", "model 2"]),
    ]:
        table = evaluate_models(quadratic, given)
        assert list(table.index) == index
        np.testing.assert_allclose(table.loss, expected, rtol=1e-12)


def test_a_module_is_its_weights():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    loss = one_by_one(lambda w: w["0.weight"].square().sum() + w["1.running_var"].sum())
    expected = loss({name: t[None] for name, t in module.state_dict().items()})["loss"]
    assert evaluate_models(loss, [module]).loss.tolist() == pytest.approx(expected)
    assert loss_path(loss, module, module, alphas=[0.0]).losses == pytest.approx(expected)


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
        for name in NAMES:
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


def test_chunks_change_nothing_and_are_bounded(monkeypatch):
    models = [model(i) for i in range(3)]
    c = np.random.default_rng(0).dirichlet(np.ones(3), 10)
    whole = evaluate_mixtures(quadratic, models, c)
    small = list(iterate_mixtures(quadratic, models, c, chunk_size=3))
    assert [len(part) for part in small] == [3, 3, 3, 1]
    assert small[1].index.tolist() == [3, 4, 5]
    np.testing.assert_allclose(np.vstack(small), whole, rtol=1e-12)
    size = sum(t.nbytes for t in models[0].values())
    monkeypatch.setattr("wskit.landscape._evaluate._BYTES_AT_ONCE", 4 * size)
    assert [len(part) for part in iterate_mixtures(quadratic, models, c)] == [4, 4, 2]
    np.testing.assert_allclose(evaluate_mixtures(quadratic, models, c), whole, rtol=1e-12)


def test_gradients_are_off_inside_and_as_before_outside():
    def evaluate(stacked):
        assert not torch.is_grad_enabled()
        return quadratic(stacked)

    weights = {name: t.requires_grad_(t.is_floating_point()) for name, t in model(0).items()}
    for _ in iterate_mixtures(evaluate, [weights], [[1.0]] * 3, chunk_size=1):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.bias": None}, "'a.bias' is in"),
        ({"b.weight": torch.zeros(1, 3)}, "'b.weight' has the shape"),
        ({"a.bias": torch.tensor([0.0, torch.nan, 0.0])}, "'a.bias' of model 2 holds NaN or inf"),
        ({"a.bias": torch.zeros(3, dtype=torch.int64)}, "'a.bias' is torch.float64"),
    ],
)
def test_models_that_do_not_fit_are_named(change, message):
    other = {k: t for k, t in (model(1) | change).items() if t is not None}
    with pytest.raises(LandscapeError, match=message):
        loss_path(quadratic, model(0), other)


def test_points_that_cannot_be_evaluated_are_told(without_type_checks):
    models = [model(0), model(1)]
    for coefficients in ([[1.0, 0.0, 0.0]], [[np.nan, 1.0]]):
        with pytest.raises(LandscapeError, match=r"finite and of shape \(points, 2\)"):
            evaluate_mixtures(quadratic, models, coefficients)
    for found in (1.0, {"accuracy": 1.0}):
        with pytest.raises(LandscapeError, match="must return a mapping with 'loss'"):
            loss_path(lambda stacked, found=found: found, *models)
    with pytest.raises(LandscapeError, match=r"41 values of 'loss', got an array of shape \(3,\)"):
        loss_path(lambda stacked: {"loss": np.zeros(3)}, *models)


# --- paths and planes -------------------------------------------------------------------------


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
    assert not path.losses.flags.writeable


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
    assert plane.measures["accuracy"].shape == (21, 21)
    assert plane.x[0] < plane.corners[:, 0].min()
    assert plane.y[-1] > plane.corners[:, 1].max()
    assert plane.names == ("a", "b", "c")
    c = plane_through(*models).coefficients(plane.corners)
    np.testing.assert_allclose(c, np.eye(3), atol=1e-12)
    more = [m | {"bn.running_var": torch.rand(4) * 100} for m in models]
    np.testing.assert_array_equal(plane_through(*more).corners, plane.corners)


def test_a_plane_of_a_line_is_refused():
    a, b = model(0), model(1)
    middle = {k: (a[k] + b[k]) / 2 for k in NAMES} | {"n": a["n"]}
    for three in ((a, b, middle), (a, a, b), (a, b, b)):
        with pytest.raises(LandscapeError, match="lie on one line"):
            plane_through(*three)


# --- regions ----------------------------------------------------------------------------------


def test_a_region_by_groups(monkeypatch):
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

    options = {"n_points": 20, "alphas": (-0.5, 2.0, 3.0), "seed": 0}
    table = region_losses(evaluate, models, base, **options)
    loss = {group: rows.to_numpy() for group, rows in table.groupby("group").loss}
    np.testing.assert_allclose(loss["edge"], 9)
    assert loss["inside"].max() < 9 < loss["outside"].min()
    assert (loss["inside"][:, None] < loss["random"]).mean() > 0.9
    assert table.alpha.value_counts().to_dict() == {-0.5: 7, 2.0: 7, 3.0: 6}
    assert table.alpha[table.group != "outside"].isna().all()
    assert (table.reason == "").all()
    # The column of distances is that of the weights that were evaluated, tensor by tensor.
    norms = {k: torch.cat([s[k] for s in seen]).flatten(1).norm(dim=1).numpy() for k in NAMES}
    np.testing.assert_allclose(table.distance, np.sqrt(sum(n**2 for n in norms.values())))
    inside, random = ((table.group == g).to_numpy() for g in ("inside", "random"))
    for k in NAMES:
        np.testing.assert_allclose(norms[k][inside], norms[k][random])
    monkeypatch.setattr("wskit.landscape._evaluate._POINTS_AT_ONCE", 3)
    again = region_losses(evaluate, models, base, **options)
    np.testing.assert_allclose(again.loss, table.loss)


def test_a_point_that_diverges_has_a_reason():
    def evaluate(stacked):
        loss = stacked["a.weight"].square().sum(dim=(1, 2))
        far = loss > loss.median()
        return {
            "loss": torch.where(far, torch.inf, loss),
            "accuracy": loss.log().where(~far, torch.nan),
        }

    table = region_losses(evaluate, [model(0), model(1)], model(9), n_points=3, seed=0)
    diverged = table["accuracy"].isna()
    assert 0 < diverged.sum() < len(table)
    assert (table["reason"][diverged] == "the evaluation gave NaN for accuracy").all()
    assert (table["reason"][~diverged] == "").all()


def test_regions_are_told_apart_from_nonsense():
    models = [model(i) for i in range(2)]
    for group, alphas in ((models[:1], [2.0]), (models, [0.5])):
        with pytest.raises(LandscapeError, match=r"two models and alphas outside \[0, 1\]"):
            region_losses(quadratic, group, model(2), alphas=alphas, seed=0)


def unit(i, n=4):
    return {"w": torch.eye(n, dtype=torch.float64)[i]}


CENTRE = {"w": torch.zeros(4, dtype=torch.float64)}


@one_by_one
def bowl(w):
    return (torch.tensor([1.0, 4.0, 1e-8, 1e12]).double() * w["w"].square()).sum()


def test_edges_of_a_bowl():
    """Below 9 the bowl of scale s ends at 3/sqrt(s); the third ray ends beyond what is tried."""
    table = region_edges(bowl, CENTRE, [unit(i) for i in range(4)], level=9.0, rtol=1e-4)
    edges = np.array([3, 1.5, 3e4, 3e-6])
    found = [0, 1, 3]
    np.testing.assert_allclose(table.alpha[found], edges[found], rtol=1e-4)
    assert (table.inside[found] < edges[found]).all()
    assert (table.outside[found] >= edges[found]).all()
    assert table.reason.tolist() == ["", "", "the loss is below the level up to 64", ""]
    assert np.isnan(table.alpha[2])
    assert np.isnan(table.outside[2])
    assert (table.inside[2], table.n_evaluations[2]) == (64, 7)  # 1, 2, 4, ..., 64
    alone = region_edges(bowl, CENTRE, [unit(1)], level=9.0, rtol=1e-4)
    assert alone.iloc[0].equals(table.iloc[1].rename(0))
    wide = region_edges(bowl, CENTRE, [unit(2)], level=9.0, largest=1e9)
    assert wide.alpha[0] == pytest.approx(3e4, rel=0.01)
    assert wide.n_evaluations[0] < 30


def test_an_edge_is_where_the_loss_is_not_below():
    """A cliff into NaN is an edge, and the first of two edges is found where steps see it."""
    cliff = one_by_one(lambda w: w["w"][0] if w["w"][0] < 5 else torch.nan)
    assert region_edges(cliff, CENTRE, [unit(0)], level=9.0).alpha[0] == pytest.approx(5, rel=0.01)
    wave = one_by_one(lambda w: torch.sin(w["w"][0]))
    table = region_edges(wave, CENTRE, [unit(0)], level=0.5, first=0.1, rtol=1e-6)
    assert table.alpha[0] == pytest.approx(np.pi / 6, rel=1e-5)
    step = one_by_one(lambda w: float(w["w"][0] > 0))
    assert region_edges(step, CENTRE, [unit(0)], level=0.5).outside[0] < 1e-11
    with pytest.raises(LandscapeError, match="centre must be below the level 0, got 0"):
        region_edges(bowl, CENTRE, [unit(0)], level=0.0)
    with pytest.raises(LandscapeError, match="0 < first <= largest"):
        region_edges(bowl, CENTRE, [unit(0)], level=1.0, first=2.0, largest=1.0)


# --- rays and curvature -----------------------------------------------------------------------


def test_filters_of_a_direction_have_the_norms_of_the_models():
    rng = torch.Generator().manual_seed(0)
    w = {
        "conv.weight": torch.randn(6, 3, 2, 2, generator=rng) * torch.arange(6).view(6, 1, 1, 1),
        "bn.weight": torch.ones(6),
        "bn.running_var": torch.ones(6),
        "bn.num_batches_tracked": torch.tensor(7),
        "fc.weight": torch.randn(4, 6, generator=rng).double(),
    }
    d = random_direction(w, seed=3)
    assert {k: (t.shape, t.dtype) for k, t in d.items()} == {
        k: (t.shape, t.dtype) for k, t in w.items()
    }
    for name in ("conv.weight", "fc.weight"):
        norms = [torch.stack([f.norm() for f in t[name]]) for t in (d, w)]
        np.testing.assert_allclose(*norms, rtol=1e-6)
    for name in ("bn.weight", "bn.running_var", "bn.num_batches_tracked"):
        assert not d[name].any()
    again, other = random_direction(w, seed=3), random_direction(w, seed=4)
    assert all(torch.equal(again[k], d[k]) for k in d)
    assert not torch.equal(other["fc.weight"], d["fc.weight"])
    # Invariance: the direction of a scaled filter is scaled with it, and points the same way.
    scaled = random_direction(w | {"fc.weight": 5 * w["fc.weight"]}, seed=3)
    np.testing.assert_allclose(scaled["fc.weight"], 5 * d["fc.weight"])
    whole = random_direction(w, seed=0, normalize="unit")
    assert whole["bn.weight"].any()
    assert not whole["bn.running_var"].any()
    assert sum(t.double().square().sum() for t in whole.values()).item() == pytest.approx(1)


def test_a_unit_direction_is_isotropic(without_type_checks):
    start = {"w": torch.zeros(3)}
    many = [random_direction(start, seed=s, normalize="unit")["w"] for s in range(1000)]
    np.testing.assert_allclose(np.cov(torch.stack(many).T), np.eye(3) / 3, atol=0.03)
    with pytest.raises(LandscapeError, match="one of 'filter', 'unit', got 'layer'"):
        random_direction(start, seed=0, normalize="layer")


def test_ray_sharpness_of_a_quadratic_is_its_trace(monkeypatch):
    """Mean increase at distance r along isotropic rays is r^2 tr(H)/(2n), with H = 2 diag(s)."""
    n = 200
    s = torch.linspace(0, 2, n, dtype=torch.float64)
    loss = one_by_one(lambda w: (s * w["w"].square()).sum() + 7)
    start = {"w": torch.zeros(n, dtype=torch.float64)}
    options = {"distances": [0.5, 3.0], "n_rays": 64, "normalize": "unit", "seed": 0}
    table = ray_sharpness(loss, start, **options)
    mean = table.groupby("distance").increase.mean()
    np.testing.assert_allclose(mean, [0.25, 9.0], rtol=0.03)
    np.testing.assert_allclose(table.loss - 7, table.increase)
    assert table.ray.tolist() == np.repeat(range(64), 2).tolist()
    monkeypatch.setattr("wskit.landscape._evaluate._POINTS_AT_ONCE", 3)
    np.testing.assert_allclose(ray_sharpness(loss, start, **options), table, rtol=1e-9)


def test_filter_normalised_sharpness_does_not_see_the_scale():
    """Two layers, the first times 10 and the second over 10: the same function of the input."""
    net = MLP((6, 5, 3))
    rng = torch.Generator().manual_seed(0)
    w = {name: torch.randn(*shape, generator=rng) for name, shape in net.shapes.items()}
    other = w | {"fc1.weight": w["fc1.weight"] * 10, "fc1.bias": w["fc1.bias"] * 10}
    other["fc2.weight"] = w["fc2.weight"] / 10
    x, y = torch.randn(20, 6, generator=rng), torch.arange(20) % 3
    module = net.module()
    loss = one_by_one(
        lambda v: functional.cross_entropy(torch.func.functional_call(module, v, (x,)), y)
    )
    tables = [ray_sharpness(loss, m, distances=[0.3], n_rays=5, seed=1) for m in (w, other)]
    np.testing.assert_allclose(tables[0].increase, tables[1].increase, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_top_eigenvalue_is_that_of_the_exact_hessian(sign):
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    rng = torch.Generator().manual_seed(1)
    w = {k: torch.randn(t.shape, generator=rng).double() for k, t in module.state_dict().items()}
    x, y = torch.randn(15, 3, generator=rng).double(), torch.arange(15) % 2

    def loss(v):
        weights = {name: v[name] for name in w}
        return sign * functional.cross_entropy(torch.func.functional_call(module, weights, x), y)

    sizes = [t.numel() for t in w.values()]

    def of_vector(vector):
        parts = vector.split(sizes)
        return loss({k: p.view(t.shape) for p, (k, t) in zip(parts, w.items(), strict=True)})

    H = torch.autograd.functional.hessian(of_vector, torch.cat([t.flatten() for t in w.values()]))
    values, vectors = torch.linalg.eigh(H)
    assert values[0] < -1e-3  # so that the largest in size is not always the largest
    buffers = {"n": torch.tensor(3), "bn.running_var": torch.ones(2)}
    found = top_hessian_eigenvalue(loss, w | buffers, rtol=1e-5, n_iterations=5000, seed=0)
    assert found.converged
    assert found.value == pytest.approx(values[-1].item(), rel=1e-5)
    assert set(found.vector) == set(w)
    v = torch.cat([t.flatten() for t in found.vector.values()])
    assert v.norm().item() == pytest.approx(1)
    assert abs(v @ vectors[:, -1]).item() == pytest.approx(1, abs=1e-3)
    assert (H @ v - found.value * v).norm().item() == pytest.approx(found.residual, rel=1e-3)


def test_a_hessian_that_is_not_found_says_so():
    close = torch.tensor([1.0, 0.999])
    found = top_hessian_eigenvalue(
        lambda w: (close * w["w"].square()).sum() / 2,
        {"w": torch.ones(2)},
        n_iterations=3,
        rtol=1e-6,
        seed=0,
    )
    assert (found.converged, found.n_iterations) == (False, 3)
    assert abs(found.value - 1) <= found.residual + 0.001
    linear = top_hessian_eigenvalue(lambda w: w["w"].sum(), {"w": torch.ones(2)}, seed=0)
    assert (linear.value, linear.residual, linear.converged) == (0, 0, True)
    with pytest.raises(LandscapeError, match="product with the Hessian is NaN or inf"):
        top_hessian_eigenvalue(lambda w: w["w"].sqrt().sum(), {"w": torch.zeros(2)}, seed=0)
