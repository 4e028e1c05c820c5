import numpy as np
import pytest
import torch
from torch import nn

from wskit._base.weights import DerivedWeights
from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import SpectrumError
from wskit.spectra import (
    aspect_spectrum,
    difference,
    inventory,
    matrices,
    shuffled,
    shuffled_weights,
    spectra,
    spectral_density,
    spectrum,
)
from wskit.spectra._eigen import MAX_SIDE, _solver


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def naive_spectrum(W, conv):
    """Squared singular values, slice by slice, in numpy."""
    W = W.double().numpy()
    if W.ndim == 2:
        slices = [W]
    elif conv == "unfold":
        slices = [W.reshape(W.shape[0], -1)]
    else:
        slices = [W[:, :, i, j] for i in range(W.shape[2]) for j in range(W.shape[3])]
    return np.sort(np.concatenate([np.linalg.svd(s, compute_uv=False) ** 2 for s in slices]))


@pytest.mark.parametrize(
    "shape", [(7, 5), (5, 7), (6, 6), (8, 3, 3, 3), (3, 8, 2, 4), (4, 4, 1, 1)]
)
@pytest.mark.parametrize("conv", ["slices", "unfold"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_spectrum_equals_the_squared_singular_values(shape, conv, dtype):
    W = randn(*shape, dtype=dtype)
    s = spectrum(W, conv=conv)
    expected = naive_spectrum(W, conv)
    np.testing.assert_allclose(s.eigenvalues, expected, rtol=1e-9, atol=1e-13 * expected[-1])
    assert s.N >= s.M
    assert s.n_matrices * s.M == s.eigenvalues.size
    assert s.n_matrices * s.N * s.M == W.numel()
    assert s.Q == s.N / s.M


def test_spectrum_is_invariant():
    """Transposing W or permuting its neurons changes nothing; scaling by c scales by c^2."""
    W = randn(30, 20)
    expected = spectrum(W).eigenvalues
    permuted = W[torch.randperm(30)][:, torch.randperm(20)]
    for same in (W.T, permuted, W.flip(0)):
        np.testing.assert_allclose(spectrum(same).eigenvalues, expected, rtol=1e-9)
    np.testing.assert_allclose(spectrum(4 * W).eigenvalues, 16 * expected, rtol=1e-12)


def test_spectrum_is_read_only_and_never_negative():
    rank_one = torch.outer(randn(50), randn(40))
    eigenvalues = spectrum(rank_one).eigenvalues
    assert (eigenvalues >= 0).all()
    assert (eigenvalues[:-1] < 1e-12 * eigenvalues[-1]).all()
    with pytest.raises(ValueError, match="read-only"):
        eigenvalues[0] = 1


@pytest.mark.parametrize(
    ("M", "n", "place"),
    [(8, 1, "cpu"), (32, 64, "cuda"), (33, 64, "cpu"), (128, 16, "cpu"), (256, 1, "cuda")],
)
def test_what_a_gpu_is_slower_at_is_solved_on_the_cpu(M, n, place):
    """As measured by benchmarks/gpu.py; what lies on the CPU stays there."""
    assert _solver(M, n, torch.device("cuda")).type == place
    assert _solver(M, n, torch.device("cpu")).type == "cpu"


@pytest.mark.parametrize(
    ("W", "message"),
    [
        (torch.zeros(3), r"'w' of shape \(3,\) has no spectrum: a vector"),
        (torch.zeros(2, 3, 4, 1, 1, 1), "it has 6 dimensions, and no rule is known"),
        (torch.zeros(8, 1, 3, 3), "one eigenvalue; conv='unfold' takes its kernel as columns"),
        (torch.zeros(2, 3, dtype=torch.complex64), "its dtype is complex64"),
        (torch.zeros(2, 3).to(torch.float8_e4m3fn), "its dtype is float8_e4m3fn"),
        (torch.zeros(0, 3), "it is empty"),
        (torch.tensor([[1.0, torch.nan], [torch.inf, 0.0]]), "'w' holds NaN or inf in 2 of its 4"),
    ],
)
def test_what_has_no_spectrum_is_refused(W, message):
    with pytest.raises(SpectrumError, match=message):
        spectrum(W, name="w")


def test_modules_are_weights(without_type_checks):
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5))
    assert inventory(net).equals(inventory(net.state_dict()))
    assert [name for name, _ in matrices(net)] == [s.name for s in spectra(net)]
    for layer in (net[0], net[2]):
        expected = spectrum(layer.weight, conv="unfold").eigenvalues
        np.testing.assert_array_equal(spectrum(layer, conv="unfold").eigenvalues, expected)
    with pytest.raises(SpectrumError, match=r"a module with one weight .* a Sequential with 2"):
        spectrum(net)
    with pytest.raises(SpectrumError, match=r"open it with .*open_checkpoint"):
        spectra("model.pt")


WEIGHTS = {
    "conv.weight": randn(8, 4, 3, 3),
    "conv.bias": randn(8),
    "fc.weight": randn(5, 9),
    "steps": torch.tensor(7),
    "table": torch.zeros(4, 4, dtype=torch.int64),
}


def test_matrices_and_inventory_name_every_tensor_once():
    found = dict(matrices(WEIGHTS))
    assert {name: tuple(W.shape) for name, W in found.items()} == {
        "conv.weight": (9, 8, 4),
        "fc.weight": (9, 5),
    }
    table = inventory(WEIGHTS).set_index("name")
    assert list(table.index) == list(WEIGHTS)
    assert set(table.index[table["reason"] == ""]) == set(found)
    assert table.loc["steps", "reason"] == "a scalar"
    assert table.loc["conv.weight", ["N", "M", "n_matrices"]].tolist() == [8, 4, 9]
    assert table["n_parameters"].sum() == sum(W.numel() for W in WEIGHTS.values())


class Lazy(DerivedWeights):
    """Weights that note which tensors, and which rows of them, are read."""

    block_reads = True

    def __init__(self, weights):
        super().__init__(weights)
        self.read, self.blocks = [], []

    def __getitem__(self, name):
        self.read.append(name)
        return self._like[name]

    def rows(self, name, start, stop):
        self.blocks.append((start, stop))
        return self._like[name][start:stop]


def test_matrices_reads_only_what_it_yields(without_type_checks):
    lazy = Lazy(WEIGHTS)
    inventory(lazy)
    assert lazy.read == []
    next(matrices(lazy))
    assert lazy.read == ["conv.weight"]


def test_shuffled_keeps_the_entries_and_its_seed():
    W = randn(30, 20)
    null = shuffled(W, seed=1)
    assert torch.equal(null.flatten().sort().values, W.flatten().sort().values)
    assert null.shape == W.shape
    assert not torch.equal(null, W)
    assert torch.equal(null, shuffled(W, seed=1))
    assert not torch.equal(null, shuffled(W, seed=2))


def test_shuffling_removes_structure():
    """A rank-one signal stands out of the noise, and is gone after shuffling."""
    W = randn(200, 100) + 0.5 * torch.outer(randn(200, seed=1), randn(100, seed=2))
    edge = (np.sqrt(200) + np.sqrt(100)) ** 2 * W.var().item()
    assert spectrum(W).eigenvalues[-1] > 3 * edge
    assert spectrum(shuffled(W, seed=0)).eigenvalues[-1] < 1.1 * edge


# Every module of torch.nn that holds a matrix, by the names of its state dict.
MODULES = {
    "linear": nn.Linear(5, 4),
    "conv1": nn.Conv1d(6, 4, 3),
    "conv3": nn.Conv3d(6, 4, (1, 2, 3)),
    "up1": nn.ConvTranspose1d(4, 6, 3),
    "up2": nn.ConvTranspose2d(4, 6, 2),
    "embedding": nn.Embedding(20, 7),
    "lstm": nn.LSTM(5, 3),
    "gru": nn.GRU(5, 3),
    "attention": nn.MultiheadAttention(6, 2),
}


def test_every_matrix_of_torchs_modules_is_found():
    torch.manual_seed(0)
    table = inventory(nn.ModuleDict(MODULES).state_dict()).set_index("name")
    sizes = table.loc[table.M > 0, ["N", "M", "n_matrices"]]
    assert {name: tuple(row) for name, row in zip(sizes.index, sizes.to_numpy(), strict=True)} == {
        "linear.weight": (5, 4, 1),
        "conv1.weight": (6, 4, 3),
        "conv3.weight": (6, 4, 6),
        "up1.weight": (6, 4, 3),
        "up2.weight": (6, 4, 4),
        "embedding.weight": (20, 7, 1),
        "lstm.weight_ih_l0": (12, 5, 1),
        "lstm.weight_hh_l0": (12, 3, 1),
        "gru.weight_ih_l0": (9, 5, 1),
        "gru.weight_hh_l0": (9, 3, 1),
        "attention.in_proj_weight": (18, 6, 1),
        "attention.out_proj.weight": (6, 6, 1),
    }
    assert set(table.reason[table.M == 0]) == {"a vector"}


def test_bare_parameters_experts_and_stacks():
    weights = {
        "mlp.experts.up": randn(4, 6, 10),
        "pos_embed": randn(1, 9, 5),
        "heads": randn(3, 5, 4),
        "prompt": randn(8, 6),
    }
    table = inventory(weights).set_index("name")
    assert table.kind.tolist() == ["experts", "matrix", "stack", "matrix"]
    assert table.n_matrices.tolist() == [4, 1, 3, 1]
    experts = spectra(weights, names=["mlp.experts.up"])[0].eigenvalues
    each = [naive_spectrum(W, "slices") for W in weights["mlp.experts.up"]]
    np.testing.assert_allclose(experts, np.sort(np.concatenate(each)), rtol=1e-9)


@pytest.mark.parametrize("name", ["attn.in_proj_weight", "h.0.attn.c_attn.weight"])
def test_a_fused_projection_is_cut_where_it_was_joined(name):
    q, k, v = randn(8, 8), randn(8, 8, seed=1), randn(8, 8, seed=2)
    axis = 0 if name.endswith("in_proj_weight") else 1
    weights = {name: torch.cat([q, k, v], axis)}
    found = spectra(weights, qkv="split")
    assert [s.name for s in found] == [f"{name}[q]", f"{name}[k]", f"{name}[v]"]
    for s, W in zip(found, (q, k, v), strict=True):
        np.testing.assert_allclose(s.eigenvalues, spectrum(W).eigenvalues, rtol=1e-9)
    parts = dict(matrices(weights, qkv="split"))
    assert torch.equal(parts[f"{name}[k]"], k)
    assert inventory(weights, qkv="split").n_parameters.sum() == 3 * 64
    assert len(spectra(weights)) == 1


def test_a_slice_a_row():
    W = randn(8, 4, 2, 3)
    rows = spectra({"conv.weight": W}, conv="per-slice")
    assert [s.name for s in rows][:4] == [f"conv.weight[{p}]" for p in ("0,0", "0,1", "0,2", "1,0")]
    np.testing.assert_allclose(rows[5].eigenvalues, spectrum(W[:, :, 1, 2]).eigenvalues)
    pooled = np.sort(np.concatenate([s.eigenvalues for s in rows]))
    np.testing.assert_allclose(pooled, spectrum(W).eigenvalues, rtol=1e-9)


@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (2, 3, 2, 4), (4, 3, 5)])
def test_fft_is_the_spectrum_of_the_periodic_convolution(shape, monkeypatch):
    """The operator written out: each unit input convolved, by torch, on a small grid."""
    grid = 6
    monkeypatch.setattr("wskit.spectra._layers.FFT_GRID", grid)
    monkeypatch.setattr("wskit.spectra._eigen.FFT_GRID", grid)
    W, n_axes = randn(*shape, dtype=torch.float64), len(shape) - 2
    inputs = torch.eye(shape[1] * grid**n_axes, dtype=torch.float64)
    images = inputs.reshape(-1, shape[1], *[grid] * n_axes)
    padding = [p for k in reversed(shape[2:]) for p in (0, k - 1)]
    images = nn.functional.pad(images, padding, mode="circular")
    convolve = nn.functional.conv2d if n_axes == 2 else nn.functional.conv1d
    operator = convolve(images, W).flatten(1)
    expected = np.linalg.svd(operator.numpy(), compute_uv=False) ** 2
    s = spectrum(W, conv="fft")
    assert s.eigenvalues.size == grid**n_axes * min(shape[:2])
    np.testing.assert_allclose(s.eigenvalues[::-1][: expected.size], expected, atol=1e-10)
    with pytest.raises(SpectrumError, match="too many to hold"):
        next(matrices({"conv.weight": W}, conv="fft"))


def test_low_rank_pairs_are_one_row_and_equal_the_product():
    weights = {
        "q.lora_A.default.weight": randn(4, 30),
        "q.lora_B.default.weight": randn(20, 4, seed=1),
        "alone.lora_A.weight": randn(4, 30),
    }
    table = inventory(weights).set_index("name")
    assert table.kind.to_dict() == {
        "q.lora_BA.default": "low-rank",
        "alone.lora_A.weight": "matrix",
    }
    assert table.loc["q.lora_BA.default", "n_parameters"] == 4 * 30 + 20 * 4
    s = spectra(weights)[0]
    product = (
        weights["q.lora_B.default.weight"].double() @ weights["q.lora_A.default.weight"].double()
    )
    expected = naive_spectrum(product, "slices")
    assert (s.N, s.M, s.eigenvalues.size) == (30, 20, 20)
    np.testing.assert_allclose(s.eigenvalues[-4:], expected[-4:], rtol=1e-10)
    assert (s.eigenvalues[:-4] == 0).all()
    assert [name for name, _ in matrices(weights)] == ["alone.lora_A.weight"]


def test_a_low_rank_pair_of_huge_sides_costs_its_factors():
    side = MAX_SIDE + 1
    pair = {"x.lora_A.weight": randn(2, 90_000), "x.lora_B.weight": randn(side, 2)}
    (s,) = spectra(pair)
    assert (s.name, s.N, s.M) == ("x.lora_BA", 90_000, side)
    assert np.count_nonzero(s.eigenvalues) == 2
    pair["x.lora_B.weight"][:, 0] = torch.nan
    with pytest.raises(SpectrumError, match=rf"'x.lora_BA' holds NaN or inf in {side} of its"):
        spectra(pair)


def test_spectra_are_those_of_each_layer():
    torch.manual_seed(0)
    weights = {f"l{i}.weight": randn(300 + i % 3, 5 + i % 4, seed=i) for i in range(40)}
    weights |= {"large.weight": randn(700, 300), "conv.weight": randn(64, 32, 3, 3)}
    weights |= {"wide.weight": randn(300, 600), "bias": randn(3)}
    found = spectra(weights)
    assert [s.name for s in found] == list(weights)[:-1]
    for s in found:
        one = spectrum(weights[s.name])
        assert (s.N, s.M, s.n_matrices) == (one.N, one.M, one.n_matrices)
        np.testing.assert_allclose(
            s.eigenvalues, one.eigenvalues, rtol=1e-8, atol=1e-13 * one.eigenvalues[-1]
        )


def test_one_bad_layer_spoils_no_other():
    weights = {"good": randn(5, 4), "bad": randn(5, 4, seed=1), "too": randn(400, 300)}
    weights["bad"][2, 1] = torch.nan
    weights["too"][0, 0] = torch.inf
    failures = {}
    found = spectra(weights, failures=failures)
    assert [s.name for s in found] == ["good"]
    np.testing.assert_allclose(found[0].eigenvalues, spectrum(weights["good"]).eigenvalues)
    assert list(failures) == ["too", "bad"]
    assert failures["bad"].startswith("tensor 'bad' holds NaN or inf in 1 of its 20 entries")
    assert failures["too"].startswith("tensor 'too' holds NaN or inf in 1 of its 120000 entries")
    with pytest.raises(SpectrumError, match="holds NaN or inf"):
        spectra(weights)
    with pytest.raises(SpectrumError, match="'b' has no spectrum: there is no such weight"):
        spectra(weights, names=["b"])


def test_a_tall_matrix_is_read_by_rows(monkeypatch, without_type_checks):
    W = randn(1000, 300)
    monkeypatch.setattr("wskit.spectra._eigen.BLOCK", 300 * 8 * 256)
    lazy = Lazy({"w": W})
    s = spectra(lazy)[0]
    assert lazy.blocks == [(0, 256), (256, 512), (512, 768), (768, 1000)]
    np.testing.assert_allclose(s.eigenvalues, naive_spectrum(W, "slices"), rtol=1e-9)
    lazy = Lazy({"w": W})
    s = spectra(difference(lazy, {"w": 0 * W}))[0]
    assert len(lazy.blocks) == 4
    assert lazy.read == []
    np.testing.assert_allclose(s.eigenvalues, naive_spectrum(W, "slices"), rtol=1e-9)


def test_a_side_too_large_points_to_the_density(monkeypatch):
    monkeypatch.setattr("wskit.spectra._eigen.MAX_SIDE", 10)
    with pytest.raises(SpectrumError, match=r"smaller side of 11, over 10.*`spectral_density`"):
        spectrum(randn(12, 11))
    failures = {}
    assert spectra({"w": randn(12, 11)}, failures=failures) == []
    assert "spectral_density" in failures["w"]


def test_the_number_of_threads_is_as_before():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        spectrum(randn(20, 10))
        spectra({"w": randn(20, 10)})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_density_of_a_large_matrix_is_near_its_spectrum():
    W = randn(900, 600)
    density = spectral_density(W, n_steps=60, n_probes=10, seed=0)
    exact = spectrum(W).eigenvalues
    assert density.weights.sum() == pytest.approx(1)
    assert density.nodes[-1] == pytest.approx(exact[-1], rel=0.02)
    x = np.linspace(0, exact[-1], 50)
    distance = np.abs(density.cdf(x) - np.searchsorted(exact, x, side="right") / exact.size)
    assert distance.max() < 0.05
    assert density.weights @ density.nodes == pytest.approx(exact.mean(), rel=0.05)
    again = spectral_density(W.T, n_steps=60, n_probes=10, seed=0)
    np.testing.assert_allclose(again.nodes, density.nodes, rtol=1e-8, atol=1e-9)
    with pytest.raises(SpectrumError, match="tensor 'w' holds NaN"):
        spectral_density(torch.full((4, 3), torch.nan), seed=0, name="w")


def test_windows_of_one_shape_are_cut_out_of_the_matrix():
    W = randn(50, 33)
    s = aspect_spectrum(W, M=10, Q=2.0, n_windows=2)
    corners = [W[:20, :10], W[:20, -10:], W[-20:, :10], W[-20:, -10:]]
    expected = np.sort(np.concatenate([spectrum(c).eigenvalues for c in corners]))
    np.testing.assert_allclose(s.eigenvalues, expected, rtol=1e-9)
    assert (s.N, s.M, s.n_matrices) == (20, 10, 4)
    small = aspect_spectrum(W, M=100, Q=2.0)
    assert (small.N, small.M) == (50, 25)
    with pytest.raises(SpectrumError, match="50 × 33 holds none"):
        aspect_spectrum(W, Q=40.0)


def test_differences_are_read_lazily_and_must_match():
    base = {"w": randn(5, 4), "n": torch.tensor(3)}
    tuned = {"w": base["w"] + 1, "n": torch.tensor(4)}
    delta = difference(tuned, base)
    np.testing.assert_allclose(delta["w"], np.ones((5, 4)), rtol=1e-6)
    assert delta["n"] == 4
    assert spectra(delta)[0].eigenvalues[-1] == pytest.approx(20, rel=1e-5)
    assert (list(delta), len(delta), "w" in delta, "x" in delta) == (["w", "n"], 2, True, False)
    with pytest.raises(SpectrumError, match=r"'w' has the shape \(5, 4\) .* \(4, 5\) in the base"):
        difference(tuned, {"w": base["w"].T, "n": base["n"]})
    with pytest.raises(SpectrumError, match=r"'n' has the shape \(\) in the weights and None"):
        difference(tuned, {"w": base["w"]})


def test_a_difference_of_files_is_read_by_rows(tmp_path):
    base = {"w": randn(900, 300), "v": randn(300, 900), "n": torch.tensor([3])}
    tuned = {name: W + 1 for name, W in base.items()}
    files = [save_weights(w, tmp_path / f"{i}.safetensors") for i, w in enumerate((tuned, base))]
    with open_checkpoint(files[0]) as a, open_checkpoint(files[1]) as b:
        delta = difference(a, b)
        assert torch.equal(delta.rows("w", 5, 9), delta["w"][5:9])
        assert delta.rows("n", 0, 1).tolist() == [4]
        tops = [s.eigenvalues[-1] for s in spectra(delta)]
    assert tops == pytest.approx([270_000] * 2, rel=1e-6)


def test_shuffled_weights_are_shuffled_one_by_one():
    weights = {"w": randn(5, 4), "b": randn(3)}
    null = shuffled_weights(weights, seed=3)
    assert torch.equal(null["w"], shuffled(weights["w"], seed=3))
    assert inventory(null).equals(inventory(weights))
