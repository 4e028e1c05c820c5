"""Reports: what is found out, in numbers and words, and the page that is written."""

import base64
import dataclasses
import hashlib
import html.parser
import itertools
import json
import re
import subprocess
import sys
import weakref

import numpy as np
import pandas as pd
import pytest
import torch

from wskit import features, report, spectra
from wskit._base.weights import LazyWeights
from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import CheckpointError, ReportError, SpectrumError
from wskit.report import _page, _words

HOSTILE = ["<img src=x onerror=alert(1)>", '"><script>alert(2)</script>', "'/><!--", "a\u202eb\n$x"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heavy(n=200, m=100, seed=0):
    """A matrix with a heavy-tailed spectrum."""
    entries = np.random.default_rng(seed).standard_t(2.0, (n, m))
    return torch.tensor(entries, dtype=torch.float32)


@pytest.fixture(scope="module")
def weights():
    """A layer of every sort."""
    dead = random(80, 60, seed=2)
    dead[:3] = 0
    found = {
        "heavy.weight": heavy(),
        "random.weight": random(200, 100),
        "low.weight": random(90, 8, seed=3) @ random(8, 70, seed=4),
        "dead.weight": dead,
        "nan.weight": torch.full((60, 60), torch.nan),
        "zero.weight": torch.zeros(60, 60),
        "small.weight": random(10, 8, seed=5),
        "conv.weight": random(16, 12, 3, 3, seed=6),
        "half.weight": random(70, 60, seed=7).bfloat16(),
        "bias": torch.zeros(5),
        "steps": torch.tensor(3),
    }
    return found | {"tied.weight": found["random.weight"]}


@pytest.fixture(scope="module")
def found(weights):
    moved = {name: W + 0.1 * W.mean() if name == "bias" else W for name, W in weights.items()}
    moved["heavy.weight"] = weights["heavy.weight"] + random(200, 2) @ random(2, 100, seed=1)
    moved["random.weight"] = moved["tied.weight"] = weights["random.weight"] * 2
    del moved["small.weight"]
    return report.examine(
        weights, other=moved | {"conv.weight": torch.zeros(2), "new": moved["bias"]}
    )


def verdict(found, name):
    return found.remarks.set_index("name")["verdict"][name]


def remark(found, name):
    return found.remarks.set_index("name")["remarks"][name]


class Page(html.parser.HTMLParser):
    """What a page is made of; a void or closed element for every one that was opened."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts, self.text = [], [], [], text
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    return written(found, tmp_path_factory.mktemp("page"))


def written(found, tmp_path):
    return Page(report.write_report(found, tmp_path / "r.html").read_text(encoding="utf-8"))


# -- what is found out -----------------------------------------------------------------------


def test_the_tables_are_those_of_the_kit(found, weights):
    own = {name: W for name, W in weights.items() if name != "tied.weight"}
    table = features.spectral_table(own)
    assert found.spectral.drop(columns="reason").equals(table.drop(columns="reason"))
    assert found.inventory.equals(spectra.inventory(weights))
    alone = features.correlation_table({"dead.weight": weights["dead.weight"]})
    row = found.correlation[found.correlation["name"] == "dead.weight"]
    assert row.iloc[0]["correlation"] == alone["correlation"][0]
    assert row.iloc[0]["n_dead"] == 3


def test_verdicts_and_remarks(found):
    expected = {
        "heavy.weight": ("trained", "heavy tail"),
        "random.weight": ("random", "that of random entries"),
        "low.weight": ("collapsed", "reach 8 of at most 70"),
        "dead.weight": ("unclear", "3 of 80 neurons have no weight but zero."),
        "nan.weight": ("unclear", "holds NaN or inf in 3600 of its 3600 entries"),
        "zero.weight": ("unclear", "All its entries are zero."),
        "small.weight": ("unclear", "Only 8 eigenvalues"),
        "half.weight": ("random", "that of random entries"),
    }
    for name, (word, text) in expected.items():
        assert verdict(found, name) == word, name
        assert text in remark(found, name)
    assert "tied.weight" not in set(found.remarks["name"]), "it is random.weight"


def test_random_matrices_do_not_look_trained():
    """Of 100, some have no bulk that fits; no such layer counts."""
    found = report.examine({f"l{i}.weight": random(64, 64, seed=i) for i in range(100)})
    assert (found.spectral["phase"] == "bulk-decay").any()
    assert not (found.remarks["verdict"] == "trained").any()
    assert "None looks trained." in found.summary


def test_a_low_rank_pair_has_not_collapsed():
    pair = {"l.lora_A.weight": random(4, 80), "l.lora_B.weight": random(90, 4, seed=1)}
    found = report.examine(pair)
    assert verdict(found, "l.lora_BA") == "unclear"
    assert "A product of two factors, of rank 4." in remark(found, "l.lora_BA")


def test_summary(found):
    text = " ".join(found.summary)
    assert "64,314 parameters in 12 tensors, and 8 layers with a spectrum" in text
    assert "1 of 8 look trained" in text
    assert "NaN or inf is in 1 layer: nan.weight." in text
    assert "1 lost rank: low.weight." in text
    assert "Weights alone do not tell how accurate" in found.summary[-1]
    assert found.n_parameters == 64_314
    assert repr(found).startswith("Report('dict': There are 64,314 parameters")


def test_specimens_are_few_and_say_why(found):
    why = {s.name: s.why for s in found.specimens}
    assert why["low.weight"] == "the least rank: 8 of at most 70"
    assert "the largest that looks like random entries" in why.values()
    shown = next(s for s in found.specimens if s.name == "heavy.weight")
    assert shown.laws.tail.alpha == found.spectral["alpha"][0]
    assert shown.null.eigenvalues.size == 100
    assert len(found.specimens) <= 6


def test_conv_is_the_rule_of_all_spectra(weights, without_type_checks):
    conv = {"conv.weight": weights["conv.weight"]}
    found = report.examine(conv, other={"conv.weight": 2 * conv["conv.weight"]}, conv="per-slice")
    assert len(found.spectral) == len(found.comparison.spectral) == 9
    assert len(found.correlation) == 1, "the correlation has one definition"
    assert found.comparison.specimens[0].name.startswith("conv.weight[")
    with pytest.raises(SpectrumError, match="conv must be one of"):
        report.examine(conv, conv="none")


def test_many_neurons_are_not_compared(monkeypatch):
    monkeypatch.setattr("wskit.report._examine.MOST_NEURONS", 50)
    found = report.examine({"a": random(51, 20), "b": random(50, 20)})
    assert found.correlation["reason"].tolist() == [
        "51 neurons are over 50: too many pairs to compare", ""
    ]  # fmt: skip
    assert np.isnan(found.correlation["correlation"][0])


def test_comparison_has_the_known_distances(found, weights):
    table = found.comparison.distances.set_index("name")
    change = random(200, 2) @ random(2, 100, seed=1)
    row = table.loc["heavy.weight"]
    assert row["distance"] == pytest.approx(change.double().norm().item(), rel=1e-5)
    assert row["relative"] == pytest.approx(
        row["distance"] / (weights["heavy.weight"] + change).double().norm().item()
    )
    assert table["relative"]["random.weight"] == pytest.approx(0.5)
    assert table["angle"]["random.weight"] == pytest.approx(0, abs=1e-3)
    assert table["distance"]["dead.weight"] == 0
    assert table["reason"].to_dict() | {} == {
        **dict.fromkeys(table.index, ""),
        "nan.weight": "one of the two holds NaN or inf",
        "small.weight": "only the first has it",
        "conv.weight": "the shapes differ: 16 × 12 × 3 × 3 and 2",
        "steps": "its dtype is int64, and a floating dtype is needed",
        "tied.weight": "it is tied to random.weight",
        "new": "only the other has it",
    }


def test_comparison_finds_a_low_rank_change(found):
    phases = found.comparison.spectral.set_index("name")["phase"]
    assert phases["heavy.weight"] == "rank-collapse"
    text = " ".join(found.comparison.summary)
    assert "7 of 13 tensors can be compared with dict." in text
    assert "The change of 1 of 2 layers is of low rank: heavy.weight." in text
    table = found.comparison.distances
    assert f"They are {np.sqrt((table['distance'] ** 2).sum()):.3g} apart" in text


class Watched(LazyWeights):
    """Random matrices, made when they are read; `most` is how many were alive together."""

    def __init__(self, names):
        self.names, self.alive, self.most = names, set(), 0

    def shape(self, name):
        return 64 + self.names.index(name), 60

    def dtype(self, name):
        return torch.float32

    def __getitem__(self, name):
        W = random(*self.shape(name))
        self.alive.add(name)
        self.most = max(self.most, len(self.alive))
        weakref.finalize(W.untyped_storage(), self.alive.discard, name)
        return W

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)


def test_tensors_are_read_one_at_a_time():
    weights = Watched([f"l{i}.weight" for i in range(8)])
    assert len(report.examine(weights).spectral) == 8
    assert weights.most <= 2, "the one that is read, and the one that it takes the place of"


# -- where it comes from ---------------------------------------------------------------------


def test_origin_of_shards(tmp_path, weights):
    folder = save_weights(
        weights, tmp_path / "model", metadata={"made": "here"}, shard_size=100_000
    )
    with open_checkpoint(folder) as ckpt:
        found = report.examine(ckpt).origin
    assert found.source == str(folder)
    assert len(found.files) > 2
    for row in found.files.itertuples():
        content = (folder / row.file).read_bytes()
        assert row.bytes == len(content)
        assert row.sha256 == hashlib.sha256(content).hexdigest()
    assert found.facts["dtypes (tensors)"] == "float32 (10), bfloat16 (1), int64 (1)"
    assert found.facts["Tied tensors"] == "tied.weight to random.weight"
    assert found.facts["Metadata: made"] == "here"


def test_weights_are_taken_from_wherever_they_are(tmp_path, monkeypatch):
    net = torch.nn.Sequential(torch.nn.Linear(60, 70, bias=False))
    path = save_weights(net.state_dict(), tmp_path / "net.safetensors")
    monkeypatch.setattr("wskit.data.fetch", lambda name, **_: {"cifar-resnet20": path}[name])
    expected = report.examine(net.state_dict())
    for source in (net, path, str(path), open_checkpoint(path), "cifar-resnet20"):
        found = report.examine(source, other=source)
        assert found.spectral.equals(expected.spectral)
        assert found.comparison.summary[-1] == "All of them are equal."
        assert found.comparison.specimens == ()


# -- what is refused -------------------------------------------------------------------------


def test_nothing_to_report():
    with pytest.raises(CheckpointError, match="no tensor at all"):
        report.examine({})
    with pytest.raises(ReportError, match="have none; give two models of one network"):
        report.examine({"a": torch.ones(2)}, other={"b": torch.ones(2)})
    with pytest.raises(ReportError, match="expected names of Unicode letters"):
        report.examine({"\ud800": torch.ones(2)})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r.txt", "expected a name that ends in .html"),
        ("r", "expected a name that ends in .html"),
        ("none/r.html", "to exist; make it first"),
        ("mine.html", "expected a new name or an earlier report"),
        ("folder.html", "expected a new name or an earlier report"),
    ],
)
def test_targets_that_are_refused(name, message, tmp_path):
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.iterdir())
    found = report.examine({"b": torch.zeros(2)})
    with pytest.raises(ReportError, match=re.escape(message)) as caught:
        report.write_report(found, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"


def test_an_earlier_report_is_replaced_whole(tmp_path, monkeypatch):
    one, two = (report.examine({"b": torch.zeros(n)}) for n in (2, 3))
    path = report.write_report(one, tmp_path / "r.html")
    first = path.read_bytes()
    with monkeypatch.context() as patch:

        def fail(*_):
            raise OSError(28, "No space left on device")

        patch.setattr("os.fsync", fail)
        with pytest.raises(ReportError, match="No space left on device"):
            report.write_report(two, path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]
    assert report.write_report(two, path) == path
    assert b"There are 3 parameters" in path.read_bytes()


# -- the page --------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(found, page):
    assert page.text.startswith("<!DOCTYPE html>")
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    policy = next(m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    for image in page.all("img"):
        assert image["src"].startswith("data:image/png;base64,")
    for link in page.all("a"):
        assert link["href"].startswith("data:text/csv;base64,")
    assert "http:" not in page.text and "https:" not in page.text and "@import" not in page.text
    assert "url(" not in page.text
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


def test_the_page_can_be_read_aloud(found, page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    tables = len(page.all("table"))
    assert tables == len(page.all("caption")) == 6
    alts = [image["alt"] for image in page.all("img")]
    assert len(alts) == len(found.specimens) + len(found.comparison.specimens) + 2
    heavy = next(alt for alt in alts if alt.startswith("Spectrum of heavy.weight"))
    assert "histogram 'eigenvalues'" in heavy and "line 'power law, alpha = " in heavy
    assert all(len(alt) > 40 for alt in alts)


def test_the_page_says_what_was_found(found, page):
    text = " ".join(page.texts)
    for sentence in [*found.summary, *found.comparison.summary]:
        assert sentence in text
    assert all(remark in text for remark in found.remarks["remarks"])
    assert "tied.weight to random.weight" in text
    assert "float32 (10), bfloat16 (1), int64 (1)" in text
    assert "none: the weights were in memory" in text


def test_untrusted_texts_are_escaped(tmp_path):
    weights = {name: random(70, 60, seed=i) for i, name in enumerate(HOSTILE)}
    file = save_weights(
        weights, tmp_path / "w.safetensors", metadata={HOSTILE[0] + "!": HOSTILE[1] + "!"}
    )
    other = {name: 1.5 * W for name, W in weights.items()}
    found = report.examine(file, other=other | {HOSTILE[0] + "2": torch.ones(2)})
    facts = found.origin.facts | {"\ud800": "\udfff"}
    source = f"/tmp/{HOSTILE[1]}/{HOSTILE[0]}"
    origin = dataclasses.replace(found.origin, source=source, facts=facts)
    page = written(dataclasses.replace(found, origin=origin), tmp_path)
    assert not page.all("script")
    assert all(set(image) == {"src", "width", "height", "alt"} for image in page.all("img"))
    assert "&lt;img src=x onerror=alert(1)&gt;" in page.text
    text = " ".join(page.texts)
    assert HOSTILE[0] in text and HOSTILE[1] in text and HOSTILE[2] in text
    assert "\u202e" not in page.text, "no name may turn the direction of reading"
    assert "a\\u202eb\\n$x" in text
    assert "\\udfff" in text, "a surrogate can be written"


@pytest.mark.parametrize(
    "weights",
    [
        {"bias": torch.ones(4), "n": torch.tensor(2)},
        {"w": torch.full((60, 60), torch.nan)},
        {"w": torch.zeros(60, 60)},
        {"w": torch.ones(60, 60), "v": torch.ones(3, 3)},
        {"w": torch.zeros(0, 3)},
        {"w": torch.arange(6).reshape(2, 3)},
        {"w": random(8, 8).to(torch.float8_e4m3fn)},
        {"w": torch.ones(3, 3, dtype=torch.complex64), "b": torch.ones(2)},
    ],
    ids=["vectors", "nan", "zeros", "constant", "empty", "integers", "float8", "complex"],
)
def test_odd_weights_are_reported(weights, tmp_path):
    page = written(report.examine(weights), tmp_path)
    assert "In short" in page.texts
    if any(W.is_floating_point() and W.numel() and W.isfinite().all() for W in weights.values()
           if W.dtype.itemsize > 1):  # fmt: skip
        page = written(report.examine(weights, other=weights), tmp_path)
        assert "All of them are equal." in " ".join(page.texts)


def test_a_report_of_300_layers_stays_small(found, tmp_path):
    def many(table):
        rows = pd.concat([table] * 300, ignore_index=True).head(300)
        numbered = [f"model.layers.{i}.{name}" for i, name in enumerate(rows["name"])]
        return rows.assign(name=numbered)

    tables = {key: many(getattr(found, key)) for key in ("remarks", "spectral", "inventory")}
    assert len(_words.choose(tables["spectral"], tables["remarks"])) <= _words.MOST
    large = dataclasses.replace(found, comparison=None, **tables)
    page = written(large, tmp_path)
    assert len(page.text) < 3e6
    assert len(page.all("img")) == len(found.specimens) + 1
    n = int(tables["spectral"]["log_norm"].notna().sum())
    assert f"{len(found.specimens)} of {n} layers" in page.text


def test_long_tables_say_what_is_left_out(monkeypatch, found, tmp_path):
    monkeypatch.setattr(_page, "MOST_ROWS", 5)
    page = written(found, tmp_path)
    assert "Of 12 rows, the first 5." in page.text
    assert "tied.weight,matrix" in saved(page, "tensors.csv")


def saved(page, file):
    link = next(a for a in page.all("a") if a["download"] == file)
    return base64.b64decode(link["href"].partition(",")[2]).decode()


MEMORY = """
import json, resource, sys
from wskit import checkpoints, report
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
import matplotlib.figure, torch
before = peak()
with checkpoints.open_checkpoint(sys.argv[1]) as ckpt:
    found = report.examine(ckpt)
report.write_report(found, sys.argv[2])
print(json.dumps([before, peak(), len(found.spectral), found.summary]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units")
def test_memory_of_a_sharded_gigabyte(tmp_path):
    draw = torch.Generator().manual_seed(0)
    weights = {"half.weight": torch.randn(32768, 512, generator=draw).bfloat16()}
    for i in range(15):
        shape = (262144, 64) if i % 2 else (32768, 512)
        weights[f"l{i}.weight"] = torch.randn(shape, generator=draw)
    folder = save_weights(weights, tmp_path / "m", shard_size=200 * 10**6)
    assert len(list(folder.glob("*.safetensors"))) >= 5
    assert sum(path.stat().st_size for path in folder.iterdir()) > 1.0e9
    arguments = [str(folder), str(tmp_path / "r.html")]
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=True
    )
    before, peak, n_layers, summary = json.loads(out.stdout)
    assert n_layers == 16
    assert "16 cannot be told from random entries" in " ".join(summary)
    assert peak < 2, "GiB, where the file alone has 1"
    assert peak - before < 0.8
