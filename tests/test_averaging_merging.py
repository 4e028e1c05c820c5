"""Merge rules against naive formulae from their papers, on whole tensors in float64."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import wskit._base.weights as base_weights
from wskit import averaging
from wskit.averaging import (
    add_task_vectors,
    average,
    fisher_average,
    fisher_diagonal,
    merge_dare,
    merge_model_stock,
    merge_ties,
    slerp,
    task_vector,
)
from wskit.averaging._task_vectors import draw_mask, find_kth_largest
from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import AveragingError

SHAPES = {"a.weight": (6, 5, 2), "a.bias": (7,), "b.scale": (), "b.running_var": (5,)}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
ONE, TWO = {"w": torch.ones(3)}, {"w": torch.arange(3.0)}


def models_of(n, *, dtype=torch.float32, step=0.1, seed=0):
    """Make a base, and n models that are steps away from it, with counters and a tied tensor."""
    generator = torch.Generator().manual_seed(seed)

    def random(shape):
        return torch.randn(shape, generator=generator)

    start = {name: random(shape) for name, shape in SHAPES.items()}
    common = {name: random(shape) for name, shape in SHAPES.items()}
    found = []
    for i in range(n + 1):
        size = step if i else 0
        model = {k: (w + size * (common[k] + random(w.shape))).to(dtype) for k, w in start.items()}
        model["n"] = torch.tensor(100 + i)
        model["tied"] = model["a.weight"]
        found.append(model)
    return found[0], found[1:]


def exact(model, name):
    return model[name].double().numpy().ravel()


def naive_slerp(a, b, t):
    theta = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)


def naive_stock(base, *models):
    deltas = [m - base for m in models]
    n = len(deltas)
    cosines = [
        deltas[i] @ deltas[j] / np.linalg.norm(deltas[i]) / np.linalg.norm(deltas[j])
        for i in range(n)
        for j in range(i)
    ]
    cosine = np.mean(cosines)
    t = n * cosine / (1 + (n - 1) * cosine)
    return t * np.mean(models, axis=0) + (1 - t) * base


def naive_ties(base, *models, density, scale):
    trimmed = []
    for delta in (m - base for m in models):
        threshold = np.sort(np.abs(delta))[-max(1, int(density * len(delta)))]
        trimmed.append(np.where(np.abs(delta) >= threshold, delta, 0))
    merged = np.zeros_like(base)
    for p in range(len(base)):
        values = [d[p] for d in trimmed]
        sign = np.sign(sum(values))
        agreeing = [v for v in values if np.sign(v) == sign and v != 0]
        merged[p] = base[p] + scale * (np.mean(agreeing) if agreeing else 0)
    return merged


def naive_fisher(models, fishers, c, floor):
    F = [ci * np.maximum(f, floor) for ci, f in zip(c, fishers, strict=True)]
    return sum(f * m for f, m in zip(F, models, strict=True)) / sum(F)


def fishers_of(models):
    return [
        {k: w.float().abs().nan_to_num() ** 3 for k, w in m.items() if w.is_floating_point()}
        for m in models
    ]


RULES = {
    "average": lambda base, models, **k: average([base, *models], **k),
    "slerp": lambda base, models, **k: slerp(base, models[0], 0.3, **k),
    "task vectors": lambda base, models, **k: add_task_vectors(
        base, [task_vector(m, base, lazy=True) for m in models], [0.5, -1.0, 0.75], **k
    ),
    "ties": lambda base, models, **k: merge_ties(models, base, density=0.4, scale=1.5, **k),
    "dare": lambda base, models, **k: merge_dare(models, base, seed=1, density=0.5, **k),
    "dare, ties": lambda base, models, **k: merge_dare(
        models, base, seed=1, density=0.5, combine="ties", **k
    ),
    "stock": lambda base, models, **k: merge_model_stock(models, base, **k),
    "fisher": lambda base, models, **k: fisher_average(
        [base, *models], fishers_of([base, *models]), [0.4, 0.3, 0.2, 0.1], floor=0.05, **k
    ),
}


def masks_of(base, models, density, seed):
    """Find the masks from what the rule gives models that are all ones away from zeros."""
    zeros = {k: torch.zeros_like(v, dtype=torch.float32) for k, v in base.items() if k in SHAPES}
    ones = {k: torch.ones_like(v) for k, v in zeros.items()}
    return [
        merge_dare([zeros] * i + [ones], zeros, seed=seed, density=density)
        for i in range(len(models))
    ]


def expected(rule, base, models, name):
    b, m = exact(base, name), [exact(model, name) for model in models]
    if rule == "average":
        return np.mean([b, *m], axis=0)
    if rule == "slerp" and len(b) == 1:
        return 0.7 * b + 0.3 * m[0]
    if rule == "slerp":
        return naive_slerp(b, m[0], 0.3)
    if rule == "task vectors":
        return b + 0.5 * (m[0] - b) - (m[1] - b) + 0.75 * (m[2] - b)
    if rule == "ties":
        return naive_ties(b, *m, density=0.4, scale=1.5)
    if rule == "stock":
        return naive_stock(b, *m)
    if rule == "fisher":
        fishers = [exact(f, name) for f in fishers_of([base, *models])]
        return naive_fisher([b, *m], fishers, [0.4, 0.3, 0.2, 0.1], 0.05)
    masks = [exact(mask, name) for mask in masks_of(base, models, 0.5, seed=1)]
    dropped = [b + (x - b) * mask for x, mask in zip(m, masks, strict=True)]
    if rule == "dare":
        return b + sum(d - b for d in dropped)
    return naive_ties(b, *dropped, density=1, scale=1)


# --- the papers' formulae ---------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rule_is_the_formula_rounded_once(rule, dtype):
    base, models = models_of(3, dtype=dtype)
    merged = RULES[rule](base, models)
    assert list(merged) == list(base)
    for name, shape in SHAPES.items():
        truth = torch.from_numpy(expected(rule, base, models, name)).view(shape)
        error = (merged[name].double() - truth).abs()
        rounding = (truth.to(dtype).double() - truth).abs()
        assert merged[name].dtype is dtype
        assert (error <= rounding + (1e-14 if dtype is torch.float64 else 1e-6)).all(), name
    assert merged["n"] == 100
    assert merged["tied"].data_ptr() == merged["a.weight"].data_ptr()


def test_task_arithmetic_undoes_itself():
    base, (a, b) = models_of(2, dtype=torch.bfloat16)
    tau = task_vector(a, base)
    assert all(tau[k].dtype is torch.float32 for k in SHAPES)
    assert tau["n"] == base["n"]
    back = add_task_vectors(base, [tau])
    assert all(torch.equal(back[k], a[k]) for k in SHAPES)
    analogy = add_task_vectors(b, [task_vector(a, base, lazy=True), task_vector(base, b)])
    assert all(torch.equal(analogy[k], a[k]) for k in SHAPES)  # b + (a - base) + (base - b)
    forgot = add_task_vectors(base, [tau], -1.0)
    both = average([a, forgot])
    for k in SHAPES:
        torch.testing.assert_close(both[k], base[k], rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_slerp_keeps_the_length_of_equal_lengths(scale):
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    a, b = ({"w": scale * v / v.norm()} for v in (a, b))
    for t in (0.25, 0.5, 0.9):
        w = slerp(a, b, t)["w"]
        assert w.norm() == pytest.approx(scale, rel=1e-6)
        assert average([a, b], [1 - t, t])["w"].norm() < 0.9 * scale
        angles = [torch.acos(w @ v["w"] / scale**2).item() for v in (a, b)]
        assert angles[0] / sum(angles) == pytest.approx(t, rel=1e-4)


def test_slerp_takes_the_line_where_there_is_no_angle():
    a = {"same": torch.ones(4), "zero": torch.zeros(4), "back": torch.ones(4)}
    b = {"same": 3 * torch.ones(4), "zero": torch.ones(4), "back": -torch.ones(4)}
    line, arc = average([a, b], [0.75, 0.25]), slerp(a, b, 0.25)
    assert all(torch.equal(arc[k], line[k]) for k in a)


def test_model_stock_with_two_models_and_with_models_that_do_not_move():
    base = {"w": torch.tensor([1.0, 1.0])}
    a, b = ({"w": base["w"] + torch.tensor([1.0, y])} for y in (0.0, 1.0))
    t = 2 * 0.5**0.5 / (1 + 0.5**0.5)
    torch.testing.assert_close(merge_model_stock([a, b], base)["w"], 1 + t * torch.tensor([1, 0.5]))
    for still in ([base, base], [a, base]):
        assert torch.equal(merge_model_stock(still, base)["w"], base["w"])
    copies = merge_model_stock([a, a, a], base)["w"]
    torch.testing.assert_close(copies, a["w"])
    opposite = {"w": base["w"] - torch.tensor([1.0, 0.0])}
    assert torch.equal(merge_model_stock([a, opposite], base)["w"], base["w"])


def test_model_stock_is_right_about_small_steps():
    """The cosine of steps of 1e-5 is that of steps of 1."""
    generator = torch.Generator().manual_seed(0)
    base, *steps = (torch.randn(1000, generator=generator, dtype=torch.float64) for _ in range(3))
    steps[1] += steps[0]
    for size in (1.0, 1e-5, 1e-9):
        models = [{"w": base + size * step} for step in steps]
        moved = (merge_model_stock(models, {"w": base})["w"] - base) / size
        truth = naive_stock(np.zeros(1000), *[step.numpy() for step in steps])
        np.testing.assert_allclose(moved, truth, atol=1e-15 / size + 1e-14)


def test_ties_elects_by_weight_and_ignores_what_cancels():
    base = {"w": torch.full((3,), 2.0)}
    models = [{"w": base["w"] + torch.tensor(v)} for v in ([3.0, 1, 1], [-1.0, -1, 0], [-1, 0, 0])]
    w = merge_ties(models, base, density=1.0)["w"]
    assert w.tolist() == [5.0, 2.0, 3.0]  # 3 outweighs -1 - 1; 1 - 1 = 0; zeros have no vote


def test_ties_counts_the_kept_entries():
    base = {"w": torch.zeros(100), "v": torch.zeros(3)}
    model = {"w": torch.randperm(100) + 1.0, "v": torch.tensor([200.0, 300.0, 400.0])}
    for density, kept in ((0.29, 29), (0.999, 99), (1.0, 100), (1e-9, 1)):
        merged = merge_ties([model], base, density=density)
        assert (merged["w"] != 0).sum() == kept
        assert torch.equal(merged["w"], torch.where(model["w"] > 100 - kept, model["w"], 0))
        assert (merged["v"] != 0).sum() == max(1, int(density * 3))


def test_ties_does_not_mind_the_order_of_equal_entries():
    base = {"w": torch.zeros(64), "v": torch.zeros(8)}
    models = [
        {k: torch.randint(-3, 4, v.shape, generator=g).float() for k, v in base.items()}
        for g in (torch.Generator().manual_seed(i) for i in range(3))
    ]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    permuted = [{**m, "w": m["w"][order]} for m in models]
    merged = merge_ties(models, base, density=0.3)
    again = merge_ties(permuted, base, density=0.3)
    assert torch.equal(merged["w"][order], again["w"])
    backwards = merge_ties(models[::-1], base, density=0.3)
    torch.testing.assert_close(merged["w"], backwards["w"])


def test_the_mask_does_not_depend_on_where_one_begins():
    whole = draw_mask("key", 0, 1000, 0.3)
    for start in (1, 7, 8, 9, 991):
        assert torch.equal(draw_mask("key", start, 1000 - start, 0.3), whole[start:])
    many = draw_mask("other", 0, 100_000, 0.3)
    assert many.double().mean() == pytest.approx(0.3, abs=5 * (0.21 / 100_000) ** 0.5)
    runs = (many[1:] & many[:-1]).double().mean()
    assert runs == pytest.approx(0.09, abs=0.006)  # neighbours are independent
    assert draw_mask("key", 0, 9, 1.0).all()


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_the_kth_largest_magnitude(n):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator) * 10 ** torch.randn(n, generator=generator)
    x[n // 2 :: 3] = 0
    order = x.abs().sort(descending=True).values
    for k in {1, n // 3 + 1, n}:
        assert find_kth_largest(lambda: x.split(100), k) == order[k - 1]


def test_dare_keeps_the_mean_and_follows_its_seed():
    base, model = {"w": torch.zeros(40000)}, {"w": torch.full((40000,), 3.0)}
    both = {"v": torch.zeros(5), **base}, {"v": torch.zeros(5), **model}
    w = merge_dare([model], base, seed=0, density=0.1)["w"]
    assert w.unique().tolist() == [0, pytest.approx(30)]
    assert w.mean() == pytest.approx(3, abs=5 * 3 * (9 / 40000) ** 0.5)
    beside = merge_dare([both[1]], both[0], seed=0, lazy=True)
    assert torch.equal(beside["w"], w)
    assert not torch.equal(merge_dare([model], base, seed=1)["w"], w)
    two = merge_dare([model, model], base, seed=0)["w"]
    assert two.unique().tolist() == [0, pytest.approx(30), pytest.approx(60)]  # other masks
    assert torch.equal(merge_dare([model], base, seed=0, density=1.0)["w"], model["w"])


def test_fisher_average_of_equal_information_is_the_average():
    _, models = models_of(3)
    for value in (0.0, 2.0):  # 0 is lifted to the floor
        fishers = [{k: torch.full_like(m[k], value) for k in [*SHAPES, "tied"]} for m in models]
        merged, mean = fisher_average(models, fishers), average(models)
        for k in SHAPES:
            torch.testing.assert_close(merged[k], mean[k])


# --- the Fisher information -------------------------------------------------------------------


def test_the_least_squares_solution_of_all_data_is_the_fisher_average():
    """With F the precision of each model's posterior, as the derivation has it."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    X[:15, :2] = X[15:, 2:] = 0  # each half knows two of the weights
    X = np.linalg.qr(X)[0]  # so that the precisions are diagonal
    halves = [(X[:15], y[:15]), (X[15:], y[15:])]
    models = [{"w": torch.tensor(np.linalg.lstsq(A, b, rcond=None)[0])} for A, b in halves]
    fishers = [{"w": torch.tensor((A**2).sum(0))} for A, _ in halves]
    merged = fisher_average(models, fishers, floor=1e-12)["w"]
    np.testing.assert_allclose(merged, np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-9)


class Network(nn.Module):
    """Tied weights, a batch norm and a buffer of integers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.b = nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.norm(self.a(x))))


def network():
    torch.manual_seed(0)
    return Network().eval(), torch.randn(9, 4)


def naive_fisher_diagonal(module, x):
    total = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for image in x:
        p = module(image[None]).softmax(-1)[0].detach()
        for label, share in enumerate(p):
            module.zero_grad()
            module(image[None]).log_softmax(-1)[0, label].backward()
            for name, parameter in module.named_parameters():
                total[name] += share * parameter.grad**2 / len(x)
    module.zero_grad()
    return total


def test_fisher_diagonal_is_the_expected_square_of_the_gradient(monkeypatch):
    module, x = network()
    truth = naive_fisher_diagonal(module, x)
    for gradients in (2**24, 500, 1):  # all images at once, some, one at a time
        monkeypatch.setattr(averaging._fisher, "_GRADIENTS", gradients)
        found = fisher_diagonal(module, x)
        for name, value in truth.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-9)
        assert torch.equal(found["b.weight"], found["a.weight"])
        assert not found["norm.running_var"].any()
        assert list(found) == [k for k, v in module.state_dict().items() if v.is_floating_point()]
    assert all(p.grad is None for p in module.parameters())
    merged = fisher_average([module.state_dict()] * 2, [found, found])
    torch.testing.assert_close(merged["a.weight"], module.state_dict()["a.weight"])


# --- lazy, blocks, files ----------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_blocks_and_files_give_the_same(rule, tmp_path):
    base, models = models_of(3, dtype=torch.float16)
    whole = RULES[rule](base, models)
    paths = [save_weights(m, tmp_path / f"{i}.safetensors") for i, m in enumerate([base, *models])]
    first, *others = [open_checkpoint(path) for path in paths]
    lazy = RULES[rule](first, others, lazy=True)
    assert lazy.block_reads
    jobs = [(k, low, low + 3) for k in whole for low in range(0, whole[k].numel(), 3)]
    with ThreadPoolExecutor(2) as pool:
        for (name, start, stop), block in zip(
            jobs, pool.map(lambda job: lazy.read_block(*job), jobs), strict=True
        ):
            assert torch.equal(block, whole[name].reshape(-1)[start:stop])
    saved = open_checkpoint(save_weights(lazy, tmp_path / "merged.safetensors"))
    assert saved.ties == lazy.ties == {"tied": "a.weight"}
    assert all(torch.equal(saved[k], whole[k]) for k in whole)


def test_blocks_are_not_offered_where_each_costs_the_whole_tensor(tmp_path):
    base, models = models_of(3)
    path = tmp_path / "base.npz"
    np.savez(path, **{k: v.numpy() for k, v in base.items()})
    with open_checkpoint(path) as first:
        for rule in ("average", "ties", "dare, ties"):
            lazy = RULES[rule](first, [{**m, "tied": m["tied"].clone()} for m in models], lazy=True)
            assert not lazy.block_reads
            assert torch.equal(lazy["a.weight"], RULES[rule](base, models)["a.weight"])


def test_a_block_tells_of_nan_in_it_and_nothing_of_nan_outside():
    base, models = models_of(2)
    models[0]["a.bias"][3] = float("nan")
    lazy = average([base, *models], lazy=True)
    assert lazy.read_block("a.bias", 0, 3).isfinite().all()
    with pytest.raises(AveragingError, match=r"'a.bias' of model 2 holds NaN or inf in 1 of its 7"):
        lazy.read_block("a.bias", 2, 5)
    lazy.read_block("n", 0, 1).zero_()  # is no view
    assert lazy["n"] == 100
    with pytest.raises(KeyError):
        lazy.read_block("nothing", 0, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", RULES)
def test_cuda_equals_cpu(rule):
    base, models = models_of(3)
    expected = RULES[rule](base, models)
    on_gpu = [{k: v.cuda() for k, v in m.items()} for m in (base, *models)]
    for model in on_gpu:  # are tied as they were: TIES and DARE take tied tensors for one
        model["tied"] = model["a.weight"]
    merged = RULES[rule](on_gpu[0], on_gpu[1:])
    for name in base:
        assert merged[name].is_cuda
        torch.testing.assert_close(merged[name].cpu(), expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_tensors_larger_than_a_block(rule, monkeypatch):
    base, models = models_of(3)
    whole = RULES[rule](base, models)
    monkeypatch.setattr(base_weights, "_BLOCK_CPU", 16)
    merged = RULES[rule](base, models)
    for name in SHAPES:
        torch.testing.assert_close(merged[name], whole[name], rtol=1e-6, atol=1e-7)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_models_that_do_not_fit_or_diverged_are_named(rule):
    base, models = models_of(3)
    bad = {**models[0], "a.bias": models[0]["a.bias"].clone()}
    bad["a.bias"][2] = float("nan")
    which = "model [12]|the model"
    with pytest.raises(AveragingError, match=rf"'a.bias' of ({which}) holds NaN or inf in 1 of"):
        RULES[rule](base, [bad, *models[1:]])
    with pytest.raises(AveragingError, match=rf"'a.bias' has the shape \(7,\) .* ({which});"):
        RULES[rule](base, [{**bad, "a.bias": torch.zeros(1)}, *models[1:]])


def fisher_of(value):
    return [{"w": torch.full((3,), value)}, ONE]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slerp(ONE, TWO, float("nan")), "'w' of the result overflows"),
        (lambda: merge_model_stock([ONE], ONE), "needs at least 2 models beside the base, got 1"),
        (lambda: merge_ties([ONE], ONE, density=0.0), r"density must lie in \(0, 1\], got 0.0"),
        (lambda: merge_ties([TWO], ONE, scale=float("inf")), "'w' of the result overflows"),
        (lambda: merge_dare([ONE], ONE, seed=0, density=1.5), r"density must lie in \(0, 1\]"),
        (lambda: merge_dare([TWO], ONE, seed=0, scale=float("nan")), "'w' of the result overflows"),
        (lambda: merge_ties(ONE, ONE), "put it in a list"),
        (lambda: task_vector({"v": ONE["w"]}, ONE), "'v' is in the model and not in the base"),
        (lambda: fisher_average([ONE] * 2, [ONE]), "got 2 models and 1 diagonals"),
        (lambda: fisher_average([ONE] * 2, [ONE] * 2, [2.0, -1.0]), "must be positive"),
        (lambda: fisher_average([ONE] * 2, [ONE] * 2, floor=0.0), "must be positive"),
        (lambda: fisher_average([ONE] * 2, [{}, ONE]), "None in the Fisher diagonal of model 1"),
        (
            lambda: fisher_average([ONE] * 2, [ONE, {"w": torch.ones(2)}]),
            r"\(3,\) in the models and \(2,\) in the Fisher diagonal of model 2",
        ),
        (lambda: fisher_average([ONE] * 2, fisher_of(-1.0)), "of model 1 holds NaN, inf or neg"),
        (lambda: fisher_average([ONE] * 2, fisher_of(float("nan"))), "of model 1 holds NaN, inf"),
        (lambda: fisher_diagonal(nn.Linear(1, 2), torch.ones(1, 1)), r"call its eval\(\) first"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(call, message, without_type_checks):
    with pytest.raises(AveragingError, match=message):
        call()
