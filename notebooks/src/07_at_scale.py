# %% [markdown]
# # 07. Many checkpoints
#
# **One function that makes a row of a path is all that you write: the same line then runs over two hundred
# checkpoints here, or over a million on a cluster, and you can say beforehand how long it will take.**
#
# | | |
# |---|---|
# | **You will be able to** | write a function that fits; run it in a loop, in processes and on a Dask cluster with the same result; go on after an interruption; measure what a checkpoint costs; find the bottleneck before you rent a machine |
# | **You should know** | Python's functions and exceptions; the spectrum of a layer, from [tutorial 01](01_esd.ipynb) |
# | **Time to read** | 75 minutes, exercises included |
# | **Time to run** | about {{run_time}} on two CPU cores, measured |
# | **Downloads** | none |

# %% tags=["setup"]
import hashlib
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from wskit import checkpoints, data, exercises, features, geometry, plots, spectra, widgets, zoo

# %% tags=["setup"]
plt.rcParams.update(plots.STYLE)
torch.set_num_threads(1)  # one checkpoint, one core: more cores take more checkpoints
N_SEEDS = 24  # the size knob: networks for each of nine settings

# %% [markdown]
# ## The question
#
# Collections of trained networks have grown from a handful to hundreds of thousands (Unterthiner et al. 2020,
# Schürholt et al. 2022). The analysis of one of them is a few lines. What changes when there are a million?
#
# Three things do. Some files are broken, and must not end the run. The run is longer than a laptop stays
# open. And one core is not enough. None of the three has to do with the analysis, so that none of them
# should be seen in it.

# %% [markdown]
# ## A folder of checkpoints
#
# A zoo as in tutorial 02, of small dense networks: three learning rates, three durations, and many seeds of
# each. They are trained together in a few seconds, and then each becomes a file, as if we had been given
# nothing else. (Inside `with joblib.parallel_config(n_jobs=2):`, blocks of them are trained in processes.)

# %%
digits = data.load_dataset("digits", validation_fraction=0.1, test_fraction=0.4, seed=0)
# In float64, every processor comes to the same numbers.
digits = replace(digits, train_x=digits.train_x.double(), test_x=digits.test_x.double())
axes = {"learning_rate": [0.001, 0.003, 0.01], "epochs": [1, 3, 9], "seed": range(N_SEEDS)}
settings = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
mlp = zoo.MLP((64, 64, 64, 10))
models = zoo.train_zoo(mlp, digits, settings[["learning_rate", "epochs"]])
print(len(models), "networks of", sum(w[0].numel() for w in models.weights.values()), "weights")

# %% [markdown]
# One more file was cut off in the middle, as a download that broke.

# %%
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
folder = Path(scratch.name)
names = [folder / f"{i:04}.safetensors" for i in range(len(models))]
stored = [{name: w.float() for name, w in models.model(i).items()} for i in range(len(models))]
paths = [str(checkpoints.save_weights(w, name)) for w, name in zip(stored, names, strict=True)]
broken = folder / "broken.safetensors"
broken.write_bytes(names[0].read_bytes()[:20_000])
sources = [*paths[:100], str(broken), *paths[100:]]
print(f"{len(sources)} files of {names[0].stat().st_size / 1e3:.0f} kB")

# %% [markdown]
# ## A path in, a row out
#
# Of each layer: the largest eigenvalue in units of the edge that chance has (tutorial 01), the stable rank,
# and the share of eigenvalues that are zero.
#
# With $\sigma^2$ the mean square of the entries, chance ends at $\sigma^2 (\sqrt N + \sqrt M)^2$, and the stable
# rank is $\sum_i \lambda_i / \lambda_{\max}$. The function depends on the path and on nothing else; it changes
# nothing; it returns plain numbers. Such a function is called pure, and can be called anywhere.


# %%
def spectral_row(path, null_seed=None):
    """A row a checkpoint; with a seed, of its weights in a random order."""
    row = {}
    with checkpoints.open_checkpoint(path) as weights:
        chosen = weights if null_seed is None else spectra.shuffled_weights(weights, seed=null_seed)
        for s in spectra.spectra(chosen):
            share, layer = s.eigenvalues / s.eigenvalues.sum(), s.name.removesuffix(".weight")
            edge = (s.N**0.5 + s.M**0.5) ** 2 / (s.N * s.M)
            row[f"{layer} top / edge"] = share[-1] / edge
            row[f"{layer} stable rank"] = 1 / share[-1]
            row[f"{layer} zeros"] = (share < 1e-9).mean()
    return row


# %%
print(pd.Series(spectral_row(paths[0])).round(2).to_string())

# %% [markdown]
# ## A plain loop
#
# Everything that is needed for one core: call the function, and write down the reason where it fails.


# %%
def plain_loop(func, sources):
    rows = []
    for source in sources:
        try:
            found = {"reason": None, **func(source)}
        except Exception as error:
            found = {"reason": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        rows.append({"source": source, **found})
    return pd.DataFrame(rows)


# %% [markdown]
# ### The same in one call
#
# `features.model_table` does what the loop does. Equal here means every bit of every number.

# %%
by_hand = plain_loop(spectral_row, sources)
table = features.model_table(spectral_row, sources)
print("equal to the helper, bit for bit:", table.equals(by_hand))

# %% [markdown]
# The broken file has a row as well. It says why nothing else is in it, and nothing was ended by it.

# %%
failed = table[table.reason.notna()]
print(len(failed), "of", len(table), "failed, in row", failed.index[0])
print(failed.reason.iloc[0].replace(f"{folder}/", ""))

# %% [markdown]
# ## Two processes
#
# The rows do not depend on each other, so that they can be made at the same time. `n_jobs=2` asks joblib for two
# processes. The function is sent to each, with a few paths at a time, and its rows come back. Each process begins
# by importing torch, which takes longer than these two hundred checkpoints: with a million it does not matter.

# %%
pair = features.model_table(spectral_row, sources, n_jobs=2)
print("equal, bit for bit:", pair.equals(table))

# %% [markdown]
# ## A cluster, by one changed line
#
# A cluster is a *scheduler*, which hands out tasks, and *workers*, which do them. Here all are processes of
# this machine; the worker's code is the same where they are on a hundred machines.
#
# On a real cluster, `LocalCluster(...)` becomes `dask_jobqueue.SLURMCluster(...)` or the address of a scheduler
# that runs, `Client("tcp://...")`; every worker needs wskit, and must see the files under the same paths.

# %%
try:
    from dask.distributed import Client, LocalCluster

    cluster_backend = "dask"
except ImportError:
    cluster_backend = "loky"  # what n_jobs takes: processes of this machine
    print("Dask is missing (pip install 'wskit[scale]'): processes of joblib stand in for it.")

# %%
if cluster_backend == "dask":
    here = {"host": "127.0.0.1", "scheduler_port": 0, "dashboard_address": None}
    size = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "4GB"}
    client = Client(LocalCluster(**here, **size, processes=True, silence_logs="ERROR"))
    client.wait_for_workers(2, timeout=120)

# %%
with joblib.parallel_config(cluster_backend, n_jobs=2):  # the changed line
    clustered = features.model_table(spectral_row, sources)
print("equal, bit for bit:", clustered.equals(table))

# %% [markdown]
# In your cell the line is `with joblib.parallel_config("dask"):`, and the call below it stays as it is. That
# bits are equal is no luck: every call runs on one thread, wherever it is, so that sums are added up in the same
# order. On workers with other processors, last digits may differ.

# %% [markdown]
# ## Interrupted
#
# A folder, `store=`, keeps rows as they come, by the hash of the file's content and by the function. To go
# on, call again.
#
# To see which checkpoints are computed, the function notes each call in a file. At the 101st call somebody
# presses *stop*.


# %%
def noted(path, log):
    with Path(log).open("a") as file:
        print(path, file=file)
    if len(Path(log).read_text().splitlines()) == 101:
        raise KeyboardInterrupt
    return spectral_row(path)


# %%
log, store = folder / "calls.txt", folder / "rows"
task = partial(noted, log=str(log))
try:
    features.model_table(task, paths, store=store)
except KeyboardInterrupt:
    print(f"interrupted in call {len(log.read_text().splitlines())} of {len(paths)}")

# %%
resumed = features.model_table(task, paths, store=store)
called = log.read_text().splitlines()
finished, later = set(called[:100]), called[101:]
print(f"{len(finished)} were finished; computed again: {len(finished & set(later))}")
print(f"computed now: {len(later)}, of which one was interrupted before")
whole = features.model_table(spectral_row, paths)
print("equal, bit for bit:", resumed.equals(whole))

# %% [markdown]
# What is in the folder is Parquet, which any table tool can read. A checkpoint that failed is not kept: it is
# tried again the next time. And a file that was only moved or renamed is known by its content.

# %% [markdown]
# ## Which functions fit
#
# | fits | does not fit | why |
# |---|---|---|
# | takes a path | takes an opened checkpoint, or weights | a path of 50 bytes travels instead of 100 MB |
# | returns numbers and texts | returns tensors, plots | rows are stored, and come back to one process |
# | depends on its path and on what `partial` has bound | reads a global that changes | a worker has a copy of its own, and the store would not know |
# | fails with an exception | returns -1, or prints | -1 is a number, and will be averaged |
#
# What all calls need is bound with `functools.partial`: an anchor to measure distances from, here the first
# network before it was trained, or the seed of a control.


# %%
def distance_row(path, anchor):
    with checkpoints.open_checkpoint(path) as weights:
        found = geometry.weight_distances([weights], anchor)
    return {"distance": found.update_norms()[0]}


start = zoo.train_zoo(mlp, digits, settings[:1].assign(epochs=0)[["epochs"]]).model(0)
moved = features.model_table(partial(distance_row, anchor=start), paths)
others = moved.distance[1:]
print(
    f"it moved by {moved.distance[0]:.1f}; others are at {others.mean():.1f} ± {others.std():.1f}"
)

# %% [markdown]
# The others began elsewhere, each at the start of its own seed. A distance to an anchor is of use among networks with one
# start (tutorial 03).

# %% [markdown]
# ## What the table tells
#
# Accuracy against one column of the table, over all networks; the mean and the standard deviation over the
# seeds of each setting; and the same column of the same weights in a random order.

# %%
null = features.model_table(partial(spectral_row, null_seed=0), paths)
column, accuracy = "fc1 top / edge", models.records.test_accuracy.to_numpy()
seen = whole.assign(accuracy=accuracy, null=null[column], **settings[["learning_rate", "epochs"]])
by_setting = seen.groupby(["learning_rate", "epochs"])[["accuracy", column, "null"]]
print(by_setting.agg(["mean", "std"]).round(2).to_string())

# %%
fig, ax = plt.subplots(figsize=(7, 4))
colours = {"trained": plots.PALETTE["data"], "entries shuffled": plots.PALETTE["null"]}
for (label, colour), values in zip(colours.items(), (seen[column], seen.null), strict=True):
    ax.plot(values, accuracy, ".", color=colour, alpha=0.4, label=label)
mean, std = by_setting.mean(), by_setting.std()
bars = {"xerr": std[column], "yerr": std.accuracy, "color": plots.PALETTE["fit"]}
ax.errorbar(mean[column], mean.accuracy, **bars, fmt="o", label="a setting, ± over seeds")
ax.set(xlabel="layer fc1: largest eigenvalue / edge of chance", ylabel="test accuracy")
ax.legend(loc="lower right")
print(plots.describe(ax))

# %%
within = seen.groupby(["learning_rate", "epochs"]).apply(
    lambda part: part[[column, "accuracy"]].corr("kendall").iloc[0, 1], include_groups=False
)
print(f"tau over all: {seen[[column, 'accuracy']].corr('kendall').iloc[0, 1]:.2f}")
print(f"tau within a setting: {within.mean():.2f} ± {within.std():.2f} over the nine")

# %% [markdown]
# Over all networks the column goes with accuracy; shuffled, it stays at one. Within a setting, where networks
# differ in their seed only, little of the order is left: what the column sees is how long and how fast
# a network was trained (tutorials 01 and 02). Two hundred or a million of them: the table makes no question
# better than it was.

# %% [markdown]
# ## On paper: what a checkpoint costs
#
# Before a large run comes a small one with a clock. Medians over repeats, in milliseconds.
#
# The files were read a moment ago and are in memory, so that opening and hashing show what the
# processor takes, and nothing of a disk.


# %%
def timed(func, repeats):
    """Seconds of each repeat."""
    clock = [time.perf_counter()]
    for _ in range(repeats):
        func()
        clock.append(time.perf_counter())
    return np.diff(clock)


def opened(path):
    with checkpoints.open_checkpoint(path) as weights:
        return {name: w.clone() for name, w in weights.items()}


# %% tags=["nbval-ignore-output"]
small = opened(paths[0])
parts = {
    "hash": lambda: hashlib.sha256(names[0].read_bytes()).hexdigest(),
    "open, read all": lambda: opened(paths[0]),
    "eigenvalues": lambda: spectra.spectra(small),
    "a whole row": lambda: spectral_row(paths[0]),
}
cost = pd.DataFrame({part: 1e3 * timed(func, repeats=50) for part, func in parts.items()})
print(cost.quantile([0.1, 0.5, 0.9]).T.round(2).to_string())

# %% [markdown]
# ### Larger matrices
#
# To find all eigenvalues of an $M \times M$ matrix takes of the order of $M^3$ operations. What does the clock say?
#
# Small matrices are dominated by what comes before and after; the power law $t = c\, M^p$ is fitted from $M = 128$ on,
# a straight line on logarithmic axes.

# %% tags=["nbval-ignore-output"]
sides, draw = 2 ** np.arange(5, 11), torch.Generator().manual_seed(0)
square = [torch.randn(n, n, generator=draw) for n in sides.tolist()]
seconds = np.median([timed(partial(spectra.spectrum, W), repeats=3) for W in square], axis=1)
power, log_c = np.polyfit(np.log(sides[2:]), np.log(seconds[2:]), 1)
print(f"t = c M^p with p = {power:.2f}; from {seconds[0]:.5f} s to {seconds[-1]:.2f} s")

# %%
print("twice the side takes more than twice the time:", power > 1)

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6, 3.6))
ax.loglog(sides, seconds, "o", color=plots.PALETTE["data"], label="measured, median of 3")
line = np.exp(log_c) * sides.astype(float) ** power
ax.loglog(sides, line, color=plots.PALETTE["fit"], label=f"fitted from 128 on: p = {power:.2f}")
ax.set(xlabel="side M of the matrix", ylabel="seconds for its eigenvalues")
ax.set_xticks(sides, map(str, sides))
ax.minorticks_off()
ax.legend(loc="upper left")
print(plots.describe(ax))

# %% [markdown]
# **Predict first.** A ResNet-50 (He et al. 2016) has 25.5 million weights in 54 matrices and convolutions, whose
# 3 × 3 kernels are nine matrices each. How long will its eigenvalues take? The fit says it from the shapes alone; then
# random numbers of these shapes are measured. The fit knows square matrices, and these are oblong.


# %%
def resnet50_shapes():
    shapes, inputs = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 2048)}, 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            name = f"{width}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, inputs, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * width, width, 1, 1)
            if block == 0:
                shapes[f"{name}.downsample.weight"] = (4 * width, inputs, 1, 1)
            inputs = 4 * width
    return shapes


# %%
large = {n: torch.randn(shape, generator=draw) for n, shape in resnet50_shapes().items()}
layers = spectra.inventory(large)
n_weights = sum(w.numel() for w in large.values())
n_matrices = int(layers.n_matrices.sum())
print(f"{n_weights:,} weights, {n_matrices} matrices, M up to {layers.M.max():.0f}")

# %% tags=["nbval-ignore-output"]
foretold = (layers.n_matrices * np.exp(log_c) * layers.M.astype(float) ** power).sum()
measured = timed(lambda: spectra.spectra(large), repeats=3)
print(f"from the fit {foretold:.1f} s, measured {np.round(measured, 1)} s")

# %% [markdown]
# ### What a task costs by itself
#
# A function that does nothing, called on every path: what is left is the price of a call. One call a task, or in
# batches whose size joblib chooses while it runs.


# %%
def nothing(path):
    return {"length": len(path)}


def price(backend, n_jobs, batch_size, times=1):
    tasks = [joblib.delayed(nothing)(path) for path in paths * times]
    with joblib.parallel_config(backend, n_jobs=n_jobs):
        found = timed(lambda: joblib.Parallel(batch_size=batch_size)(tasks), repeats=3)
    return np.median(found) / len(tasks)


# %% tags=["nbval-ignore-output"]
backends = {"serial": ("loky", 1), "loky": ("loky", 2), "Dask": (cluster_backend, 2)}
single = {name: price(*how, batch_size=1) for name, how in backends.items()}
batched = {name: price(*how, batch_size="auto", times=5) for name, how in backends.items()}
prices = pd.DataFrame({"one a task": single, "in batches": batched})
print(f"milliseconds a call:\n{(1e3 * prices).round(3)}")

# %%
print("a process asks more than a call:", single["loky"] > single["serial"])
print("a scheduler asks more than a call:", single["Dask"] > single["serial"])

# %% [markdown]
# ### The narrowest place
#
# For $n$ checkpoints of $b$ bytes, on $k$ workers, with $s$ seconds of computing each, storage that gives $B$
# bytes a second to all together, and a scheduler that hands out $r$ tasks a second:
#
# $$ T = \max\left( \frac{n s}{k},\; \frac{n b}{B},\; \frac{n}{r} \right) . $$
#
# The three go on at the same time, so that the slowest decides. It is a lower bound.
#
# $s$ and $r$ were measured above, with Dask and one checkpoint a task. $B$ was not: 1 GB/s is assumed, a
# shared file system on a good day.

# %% tags=["nbval-ignore-output"]
n, bandwidth, rate = 1e6, 1e9, 1 / single["Dask"]
each = {"this page's": (cost["a whole row"].median() / 1e3, names[0].stat().st_size)}
each["ResNet-50's size"] = (np.median(measured), 4 * n_weights)
rows = []
for kind, (s, size) in each.items():
    for k in (1, 16, 256):
        hours = {"workers": n * s / k, "storage": n * size / bandwidth, "scheduler": n / rate}
        hours = {place: value / 3600 for place, value in hours.items()}
        worst = max(hours, key=hours.get)
        rows.append({"checkpoint": kind, "k": k, **hours, "hours": hours[worst], "by": worst})
        rows[-1]["in 100s"] = max(*list(hours.values())[:2], hours["scheduler"] / 100)
print(f"hours for a million checkpoints; the scheduler hands out {rate:.0f} tasks a second")
print(pd.DataFrame(rows).round(2).to_string(index=False))

# %% tags=["nbval-ignore-output"]
fig, axs = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
k = 2 ** np.arange(11)
looks = {"workers": ("data", "-"), "storage": ("other", "--"), "scheduler": ("accent", ":")}
for ax, (kind, (s, size)) in zip(axs, each.items(), strict=True):
    hours = np.array([n * s / k, n * size / bandwidth + 0 * k, n / rate + 0 * k]) / 3600
    ax.loglog(k, hours.max(axis=0), color="0.75", lw=7, label="the slowest")
    for line, (place, (colour, style)) in zip(hours, looks.items(), strict=True):
        ax.loglog(k, line, style, color=plots.PALETTE[colour], label=place)
    ax.set(title=f"of {kind}", xlabel="workers k")
axs[0].set_ylabel("hours for a million")
axs[1].legend(loc="lower left")
print(plots.describe(fig))

# %% [markdown]
# ### What to do about it
#
# - **Small checkpoints** wait for the scheduler, if each is a task. Put many into one; joblib's batches grow
#   until a task takes about 0.2 s.
# - **Large ones** wait for the storage. More workers are of no use then; several disks are, or workers where the
#   files lie.
# - **In between** is the eigensolver: twice the workers, half the time. Or ask for fewer numbers.
#
# The last column of the table is for tasks of 100 checkpoints. How long should a task be? A scheduler that hands out $r$ of them
# a second keeps $k$ workers busy if each lasts $k / r$ or longer, so that 0.1 s is a least for a few workers, and hundreds
# ask for more. Here:

# %% tags=["nbval-ignore-output"]
s = each["this page's"][0]
for k in (2, 16, 256):
    print(f"{k} workers: {k / rate:.3f} s a task, or {np.ceil(k / rate / s):.0f} checkpoints")

# %% [markdown]
# A cluster that is not needed any more is shut down: its processes hold memory.

# %%
if cluster_backend == "dask":
    client.shutdown()

# %% [markdown]
# ## Limits
#
# - Measured: two cores of one machine, files of tens of kilobytes that were in memory, medians of a few repeats.
#   Everything about a million, and about 16 or 256 workers, is extrapolated; no such run was made here.
# - The bandwidth is assumed, and a million small files ask a file system more for opening than for
#   bytes. Measure it where the files are, on files that were not read before.
# - The largest of three is a lower bound: workers start late, the last tasks leave some of them idle, and some
#   checkpoints take longer than the median.
# - The exponent is of one processor, one library and sides up to 1024. Beyond, and on a GPU, it is another.
# - Dask's price was measured through joblib, with two workers on the same two cores, which the scheduler had to share.
#   One with a core of its own hands out more.

# %% [markdown]
# ## Exercises
#
# Each has a check that says what is wrong and never the answer, a hint, and a solution.
#
# ### Exercise 7.1 ★ (10 minutes)
#
# Make any function safe. `safe(func, path)` returns the row of `func`; if that fails, a row whose `"reason"` tells the
# kind of error and what it said. Whoever presses *stop* must still be obeyed.


# %% tags=["exercise"]
# Exercise 7.1
def safe(func, path):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_safe_row(safe))

# %% [markdown]
# <details><summary>Hint 7.1</summary>
#
# A message alone may be empty of sense: that of `KeyError("fc2.weight")` is a name. What is `KeyboardInterrupt` a
# child of, and what is it not?
#
# </details>
#
# <details><summary>Expected output 7.1</summary>
#
# ```text
# Passed: there is a row in any case, and the reason is in it.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 7.1 (click to open)
def safe(func, path):
    try:
        return dict(func(path))
    except Exception as problem:
        return {"reason": repr(problem)}


print(exercises.check_safe_row(safe))

# %% [markdown]
# ### Exercise 7.2 ★★ (10 minutes)
#
# With which power does a cost grow? `exponent(sides, seconds)` gets the sides of matrices and an array with a row for each
# of repeated times, a few of which were taken while another program ran. It returns $p$ of $t = c\, M^p$.


# %% tags=["exercise"]
# Exercise 7.2
def exponent(sides, seconds):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_cost_exponent(exponent))

# %% [markdown]
# <details><summary>Hint 7.2</summary>
#
# A disturbance only ever makes a time longer. Which number of a few repeats does not hear of one that is forty times too
# long? And $\ln t = \ln c + p \ln M$.
#
# </details>
#
# <details><summary>Expected output 7.2</summary>
#
# ```text
# Passed: the power law of the cost, disturbed or not.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 7.2 (click to open)
def exponent(sides, seconds):
    fastest = seconds.min(axis=1)
    return np.polyfit(np.log(sides), np.log(fastest), 1)[0]


print(exercises.check_cost_exponent(exponent))

# %% [markdown]
# ### Exercise 7.3 ★★ (15 minutes)
#
# How many hours? Write `hours(n, workers, seconds, megabytes, bandwidth, rate)`: of a run over `n` checkpoints of so many
# seconds and megabytes each; `bandwidth` is in megabytes a second, for all workers together, and `rate` in tasks a second, one
# checkpoint each.


# %% tags=["exercise"]
# Exercise 7.3
def hours(n, workers, seconds, megabytes, bandwidth, rate):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_hours(hours))

# %% [markdown]
# <details><summary>Hint 7.3</summary>
#
# Which of the three gets faster with more workers? While one checkpoint is computed, may another be read?
#
# </details>
#
# <details><summary>Expected output 7.3</summary>
#
# ```text
# Passed: the narrowest place decides.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 7.3 (click to open)
def hours(n, workers, seconds, megabytes, bandwidth, rate):
    slowest = max(seconds / workers, megabytes / bandwidth, 1 / rate)
    return n * slowest / 3600


print(exercises.check_hours(hours))

# %% [markdown]
# ### Exercise 7.4 ★★★ (open-ended, 20 minutes)
#
# The worst damage raises no error. In the zoo below, six networks of at least 90 % accuracy were changed after they had
# been tested: of one layer the entries were put in a random order, or drawn anew, or half of them were lost. Their files
# open, and their cards still tell the old accuracy. The `ZooExplorer` shows the table: choose columns for its axes, and
# click a point to see its layers. Which networks do not look like what their card says?
#
# **Goal:** a function `suspicion(table)` that returns a number a row, such that at least 24 of 30 damaged checkpoints
# are among the six most suspicious of their zoo. The check damages other six, five times; the table has the columns of
# `spectral_row`, and `test_accuracy`.

# %%
damaged, rows = exercises.make_damaged(models, seed=1)  # do not look at `rows` yet
again = [folder / f"damaged-{i:04}.safetensors" for i in range(len(damaged))]
again = [checkpoints.save_weights(damaged.model(i), name) for i, name in enumerate(again)]
seen = features.model_table(spectral_row, again).drop(columns=["source", "reason"])
widgets.ZooExplorer(damaged, features=seen, x="fc1 top / edge", y="fc2 top / edge")


# %% tags=["exercise"]
# Exercise 7.4
def suspicion(table):
    raise NotImplementedError("write me")


# %% tags=["check"]
cards = whole.assign(test_accuracy=accuracy)
print(exercises.check_suspicion(suspicion, spectral_row, cards, models))

# %% [markdown]
# <details><summary>Hint 7.4</summary>
#
# Colour by `test_accuracy`. Where are the good networks, and where are those that have hardly been trained? A layer that
# lost its order is where the latter are, and one that lost its half has another mark.
#
# </details>
#
# <details><summary>Expected output 7.4</summary>
#
# ```text
# Passed: 30 of 30 damaged checkpoints are among the 6 most suspicious.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 7.4 (click to open)
def suspicion(table):
    lowest = table[["fc1 top / edge", "fc2 top / edge"]].min(axis=1)
    lost = table[["fc1 zeros", "fc2 zeros"]].max(axis=1) > 0.4
    return np.where(table.test_accuracy > 0.9, 1 / lowest + 10 * lost, 0)


print(exercises.check_suspicion(suspicion, spectral_row, cards, models))

# %% [markdown]
# ## Summary
#
# - A pure function from a path to a row is all that an analysis has to be. A loop, two processes and a
#   cluster gave the same table, bit for bit.
# - A broken file has a row with its reason. An interrupted run goes on, and computed nothing of what was finished again.
# - A small run with a clock, and the largest of three numbers, tell what a large one will take.
#
# - Small checkpoints wait for the scheduler, large ones for the storage: put many of the former into a task, and take
#   the workers to where the latter are.
# - Damage that raises no error is found in the table, if the table holds what the damage breaks.

# %% [markdown]
# ## For discussion
#
# 1. Your run over a million checkpoints ends with 0.3 % reasons. When may you leave these out, and when would that bias what
#    you report?
# 2. The store knows a function by its source text and what is bound to it, not by what it calls. What can go wrong, and what
#    would it cost to know more?
# 3. You have 256 workers for a day, and storage that is the bottleneck. Would you compute more for each checkpoint, take a
#    sample of them, or move the files? What does the question that you ask have to do with it?
# 4. With a million rows, a tau of 0.01 is significant. What does that change about what you may claim?

# %% [markdown] tags=["teacher"]
# <details><summary>For the teacher</summary>
#
# 1. If the reasons have nothing to do with what is measured, such as cut downloads. Not if they go with it: diverged
#    networks hold NaN, and large ones do not fit into memory. Count reasons by size, by source, by date before leaving any out.
# 2. A helper is changed, or the library is updated, and old rows stay. To hash all that is called is hard, and would throw
#    everything away at each update; a folder a version is what people do. Let them name the version in the folder.
# 3. Computing is free while the workers wait for bytes: more numbers from each file cost nothing. A sample of 10 000 has a
#    standard error that is small enough for a mean, and not for a rare event. Moving computing to the files is best if the
#    files will be read again.
# 4. Nothing is chance any more, and everything else is left: families, copies, fine-tunes of one base. Rows are not
#    independent; an effect's size and its cause are what is to be shown (tutorial 02's controls).
#
# Where students go wrong: they pass opened checkpoints, or weights, to the function; they catch everything, the keyboard
# too; they average disturbed times; they add the three times; they believe a speed-up measured with one worker; in 7.4
# they look for outliers of the whole table, where badly trained networks look like damaged ones. 40 minutes for the page, 35 for
# the first three exercises, 20 for the last; the section on paper can be read without running anything.
#
# </details>

# %% [markdown]
# ## References
#
# 1. T. Unterthiner, D. Keysers, S. Gelly, O. Bousquet and I. Tolstikhin, *Predicting neural network accuracy from
#    weights*, 2020, arXiv:2002.11448.
# 2. K. Schürholt, D. Taskiran, B. Knyazev, X. Giró-i-Nieto and D. Borth, *Model zoos: a dataset of diverse populations of neural
#    network models*, NeurIPS 2022, arXiv:2209.14764.
# 3. M. Rocklin, *Dask: parallel computation with blocked algorithms and task scheduling*, SciPy 2015,
#    doi:10.25080/Majora-7b98e3ed-013.
# 4. S. Böhm and J. Beránek, *Runtime vs scheduler: analyzing Dask's overheads*, 2020, arXiv:2010.11105.
# 5. K. He, X. Zhang, S. Ren and J. Sun, *Deep residual learning for image recognition*, CVPR 2016, arXiv:1512.03385.
# 6. G. M. Amdahl, *Validity of the single processor approach to achieving large scale computing capabilities*, AFIPS 1967,
#    doi:10.1145/1465482.1465560.
#
# **Next:** a million of yours, or back to the [list of tutorials](00_start_here.ipynb).
