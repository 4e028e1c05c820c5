# %% [markdown]
# # 01. The spectrum of a trained layer
#
# **By the end you will have shown that training leaves a trace that one can see in a single weight
# matrix, without data and without running the network:** a tail of large eigenvalues that chance
# does not produce.
#
# You will have seen how it grows, what its exponent goes with, and two ways in which that exponent
# fools those who look at it alone.
#
# | | |
# |---|---|
# | **You will be able to** | compute the empirical spectral density (ESD) of a layer; say what a random matrix would look like (the Marchenko-Pastur law); fit a power law to the tail and read alpha; name the phases of training; tell what alpha does not mean |
# | **You should know** | eigenvalues and singular values; maximum likelihood; [tutorial 00](00_start_here.ipynb) |
# | **Time to read** | 110 minutes, exercises included |
# | **Time to run** | about {{run_time}} on two CPU cores, measured |
# | **Downloads** | none; one section uses a public ResNet-20 of 1.1 MB if it can be had |

# %% tags=["setup"]
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from torch import nn

from wskit import checkpoints, course, data, exercises, features, fits, plots, spectra, widgets
from wskit.errors import WskitError

plt.rcParams.update(plots.STYLE)
torch.set_num_threads(1), torch.set_default_dtype(torch.float64)  # quick; same digits everywhere
N_SEEDS, EPOCHS = 5, 20  # the size knobs

# %% [markdown]
# ## The question
#
# Martin and Mahoney (2021) looked at the weights of hundreds of public networks and found that the
# layers of good ones have *heavy-tailed* spectra. Their exponent alpha, computed from the weights
# alone, went with the quality of the models. What does such a spectrum look like, how is alpha
# measured, and when does it mean nothing?

# %% [markdown]
# ## What chance looks like
#
# Fill a matrix $W$ of $N \times M$, $N \ge M$, with independent random numbers of variance
# $\sigma^2$ and take the eigenvalues of $W^\top W$, the squared singular values of $W$. Marchenko
# and Pastur (1967) found what those of $X = W^\top W / N$ do as the matrix grows: they fill an
# interval, with sharp edges, and with $Q = N/M$ their density is
#
# $$ p(\lambda) = \frac{Q}{2\pi\sigma^2}\,
#    \frac{\sqrt{(\lambda_+ - \lambda)(\lambda - \lambda_-)}}{\lambda},
#    \qquad \lambda_\pm = \sigma^2 \left(1 \pm 1/\sqrt{Q}\right)^2 . $$
#
# Note the $1/N$: here, and in all of this kit, eigenvalues are those of $W^\top W$, $N$ times as
# large.


# %%
def marchenko_pastur(N, M, sigma):
    """Points of the density of the eigenvalues of W^T W, edge to edge."""
    Q = N / M
    low, high = sigma**2 * (1 - Q**-0.5) ** 2, sigma**2 * (1 + Q**-0.5) ** 2
    x = np.linspace(low, high, 200)[1:]
    density = Q / (2 * np.pi * sigma**2) * np.sqrt((high - x) * (x - low)) / x
    return N * x, density / N


mp_x, mp_y = marchenko_pastur(1000, 500, 1.0)
law = fits.MarchenkoPastur(sigma=1.0, N=1000, M=500)
print("equal to the helper:", np.allclose(law.pdf(mp_x[:-1]), mp_y[:-1]))

# %% [markdown]
# ### Finite matrices
#
# **Predict first.** The law is made for infinite matrices. Will it describe one of 40 × 20? Does the
# largest eigenvalue stay inside of the edge?


# %%
def noise(N, M, seed):
    return torch.randn(N, M, generator=torch.Generator().manual_seed(seed))


fig, axs = plt.subplots(1, 3, figsize=(9, 3))
for ax, M in zip(axs, (20, 100, 500), strict=True):
    s = spectra.spectrum(noise(2 * M, M, seed=0))
    plots.plot_esd(s, scale="linear", bins=25, ax=ax)
    ax.plot(*marchenko_pastur(2 * M, M, 1.0), color=plots.PALETTE["fit"])
    ax.get_legend().remove()
    draws = [spectra.spectrum(noise(2 * M, M, seed)).eigenvalues[-1] for seed in range(20)]
    ratio = np.array(draws) / fits.MarchenkoPastur(1.0, 2 * M, M).lambda_plus
    print(f"M = {M}: largest / edge, 20 draws: {ratio.mean():.3f} ± {ratio.std():.3f}")
print(plots.describe(fig))

# %% [markdown]
# Already at 100 columns the law fits without a free parameter, and the largest eigenvalue is at the
# edge to within a few per cent; its scatter shrinks as $M^{-2/3}$ (Tracy and Widom).
#
# ## Networks to look at
#
# Networks are trained on digits (UCI, CC BY 4.0, by way of scikit-learn), from five seeds. The
# layer to look at is the middle one, of 128 × 256 weights. `keep` names the updates before which a
# copy of it is kept; 0 is before training.


# %%
digits = data.load_dataset("digits", seed=0)
x, y = digits.train_x.flatten(1).double(), digits.train_y


def batches(size):
    while True:  # one epoch after the other
        yield from torch.randperm(len(x)).split(size)


def accuracy(net):
    outputs = net(digits.test_x.flatten(1).double())
    return (outputs.argmax(1) == digits.test_y).float().mean().item()


# %%
def train(seed, size=64, lr=0.05, labels=y, n_updates=None, keep=(0,)):
    torch.manual_seed(seed)
    layers = nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    net = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    n_updates, kept = n_updates or EPOCHS * -(-len(x) // size), {}
    for step, batch in zip(range(n_updates), batches(size), strict=False):
        if step in keep:
            kept[step] = net[2].weight.detach().clone()
        loss = nn.functional.cross_entropy(net(x[batch]), labels[batch])
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return kept, net


# %%
def spread(values):
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


steps = (0, 20, 25, 30, 40, 60, 100, 300)
runs = [train(seed, keep=steps) for seed in range(N_SEEDS)]
scores = [accuracy(net) for _, net in runs]
print(f"test accuracy: {spread(scores)} over {N_SEEDS} seeds")

# %% [markdown]
# ## The ESD of a layer
#
# The histogram of the eigenvalues of $W^\top W$ is the empirical spectral density (ESD).
#
# By its definition, and
# by the helper, which finds the eigenvalues from $W^\top W$, in double precision and several times
# faster, and gives them in ascending order:

# %%
W0, W = runs[0][0][0], runs[0][1][2].weight.detach()
eigenvalues = np.linalg.svd(W.numpy(), compute_uv=False) ** 2
s0, s = spectra.spectrum(W0, name="before training"), spectra.spectrum(W, name="trained")
print("equal to the definition:", np.allclose(s.eigenvalues[::-1], eigenvalues))
print(f"N = {s.N}, M = {s.M}, Q = N/M = {s.Q:.0f}; the largest eigenvalue is {eigenvalues[0]:.2f}")

# %% [markdown]
# The weights of a trained layer have no $\sigma$ that is known beforehand. `fit_marchenko_pastur`
# finds the one whose law fits the bulk of the eigenvalues, leaving out those beyond the edge, and
# counts them.

# %%
fig, axs = plt.subplots(1, 2, figsize=(9, 3.5))
for ax, spectrum, bins in zip(axs, (s0, s), (25, 90), strict=True):
    mp = fits.fit_marchenko_pastur(spectrum.eigenvalues, N=spectrum.N, M=spectrum.M)
    plots.plot_esd(spectrum, mp=mp, scale="linear", bins=bins, ax=ax)
    print(f"{spectrum.name}: sigma {mp.sigma:.4f}, {mp.n_spikes} of {spectrum.M} beyond the edge")
print(f"largest eigenvalue of the trained layer / edge: {1 / mp.soft_rank:.1f}")
print(plots.describe(fig))

# %% [markdown]
# Training has pulled a few eigenvalues far out of the bulk. They are directions in which the layer
# now acts strongly. The rest still looks like chance.

# %% [markdown]
# ## A power law for the tail
#
# On logarithmic axes such a tail is often nearly straight: $p(\lambda) \propto
# \lambda^{-\alpha}$ for $\lambda \ge x_{\min}$. For a given $x_{\min}$, with $n$ eigenvalues above
# it, the likelihood is largest at (Clauset, Shalizi and Newman 2009, eq. 3.1)
#
# $$ \alpha = 1 + n \Big/ \sum_{i=1}^{n} \ln \frac{\lambda_i}{x_{\min}} . $$
#
# Where does the tail begin? Clauset et al. take each eigenvalue as $x_{\min}$ in turn, fit, and
# keep the one whose fit is nearest to the data in the Kolmogorov-Smirnov distance, $D =
# \max_\lambda |F(\lambda) - S(\lambda)|$, where $F$ is the law's distribution function and $S$
# that of the tail.


# %%
def fit_tail(eigenvalues):
    """Clauset's search, as written: (ks, alpha, xmin) of the best xmin."""
    best = (np.inf, np.nan, np.nan)
    for xmin in np.sort(eigenvalues)[:-1]:
        tail = np.sort(eigenvalues[eigenvalues >= xmin])
        alpha = 1 + tail.size / np.log(tail / xmin).sum()
        F = 1 - (tail / xmin) ** (1 - alpha)
        S = np.arange(tail.size) / tail.size
        best = min(best, (np.abs(F - S).max(), alpha, xmin))
    return best


# %%
ks, alpha, xmin = fit_tail(s.eigenvalues)
fit = fits.fit_power_law(s.eigenvalues)
print(f"written out: alpha {alpha:.3f}, xmin {xmin:.3f}, KS distance {ks:.3f}")
print("equal to the helper:", np.allclose([fit.ks, fit.alpha, fit.xmin], [ks, alpha, xmin]))
low, high = fits.alpha_interval(s.eigenvalues, rng=0)
print(f"alpha {fit.alpha:.2f} ± {fit.sigma:.2f}, 90 % interval {low:.2f} to {high:.2f}")

# %% [markdown]
# The helper's search is as exact, and takes milliseconds where the loop takes seconds on a large
# layer. It also gives the standard error of alpha, $(\alpha - 1)/\sqrt{n}$ (`fit.sigma`: no
# relative of the $\sigma$ above); a bootstrap, which chooses $x_{\min}$ anew in each sample, says
# more honestly how well alpha is known.

# %% [markdown]
# ### Beside shuffled weights
#
# Left, what the search saw. Right, its result; the grey outline is a **control**: the same numbers,
# put into the matrix in a random order. It has the same entries and none of the structure.

# %%
null = spectra.spectrum(spectra.shuffled(W, seed=0))
fig, axs = plt.subplots(1, 2, figsize=(9, 3.5))
plots.plot_xmin_scan(fits.ks_curve(s.eigenvalues), fit=fit, ax=axs[0])
plots.plot_esd(s, fit=fit, null=null, ax=axs[1]).legend(fontsize=9)
print(plots.describe(fig))

# %% [markdown]
# ## The measurement
#
# One network is an anecdote. For each of the five: alpha before training, after training, and of
# the trained weights shuffled; and the largest eigenvalue in units of the Marchenko-Pastur edge.
#
# Beside alpha, a second estimate of it: Hill's (1975), which takes the larger half of the
# eigenvalues as the tail, and so has no $x_{\min}$ to jump about. `result` trains a network and
# measures it; it will serve further down.


# %%
def measure(W, **what):
    e, (M, N) = spectra.spectrum(W).eigenvalues, sorted(W.shape)
    mp = fits.fit_marchenko_pastur(e, N=N, M=M)
    row = {"alpha": fits.fit_power_law(e).alpha, "top / edge": 1 / mp.soft_rank}
    row |= {"Hill": fits.fit_power_law(e, method="hill").alpha, "spikes": mp.n_spikes}
    row |= {"log norm": np.log10(e.sum()), "phase": fits.classify_phase(e, N=N, M=M).name}
    return what | row


def result(seed, labels=y, **how):
    _, net = train(seed, labels=labels, **how)
    return measure(net[2].weight.detach(), seed=seed, accuracy=accuracy(net), **how)


# %%
rows = []
for seed, (kept, net) in enumerate(runs):
    W = net[2].weight.detach()
    kinds = {"before": kept[0], "trained": W, "shuffled": spectra.shuffled(W, seed=seed)}
    rows += [measure(weight, kind=kind, seed=seed) for kind, weight in kinds.items()]
table, columns = pd.DataFrame(rows), ["alpha", "Hill", "top / edge", "spikes"]
print(table.groupby("kind", sort=False)[columns].agg(["mean", "std"]).round(2).to_string())
wide = table.pivot(index="seed", columns="kind", values="alpha")
print("alpha smaller than shuffled, seeds:", (wide.trained < wide.shuffled).sum(), "of", N_SEEDS)

# %%
fig, axs = plt.subplots(1, 2, figsize=(7.5, 3.2))
for ax, column in zip(axs, ["alpha", "top / edge"], strict=True):
    colors = [plots.PALETTE[key] for key in ("null", "data", "accent")]
    look = {"palette": colors, "size": 8, "alpha": 0.6, "jitter": False}
    sns.stripplot(table, x="kind", y=column, hue="kind", **look, ax=ax)
    ax.set(xlabel="", ylabel=column)
axs[1].axhline(1, color=plots.PALETTE["fit"], ls=":", label="Marchenko-Pastur edge")
axs[1].legend(loc="center")
print(plots.describe(fig))

# %% [markdown]
# In every seed, the largest eigenvalue of the trained layer lies several edges out, and that of the
# shuffled weights at the edge or a little above. Alpha is near 2 after training, with hardly any
# spread; before training and after shuffling it is larger and scatters widely, because there is no
# power law to be found.

# %% [markdown]
# ## Phases of training
#
# Martin and Mahoney name what a layer goes through: *random-like*; *bleeding-out*, when the first
# eigenvalues pass the edge; *bulk+spikes*, when they stand apart; *bulk-decay*, when the bulk
# itself frays; *heavy-tailed*; and, when training goes wrong, *rank-collapse*.
#
# They describe the phases by their looks. `classify_phase` puts thresholds to that (they are this kit's; its docstring lists
# them). The order of all runs, and one of them in full, from its first updates on:

# %%
kept = runs[0][0]
evolution = pd.DataFrame(measure(W, update=step) for step, W in kept.items())
order = ["random-like", "bleeding-out", "bulk+spikes", "bulk-decay", "heavy-tailed"]
paths = [[order.index(measure(W)["phase"]) for W in kept.values()] for kept, _ in runs]
in_order = sum(path == sorted(path) for path in paths)
not_met = [name for i, name in enumerate(order) if all(i not in path for path in paths)]
print(f"runs that meet phases in the paper's order: {in_order} of {N_SEEDS}; not met: {not_met}")
print(evolution[["update", "phase", "spikes", "top / edge", "alpha", "Hill"]].round(2).to_string())

# %%
shown = [step for step in (0, 30, 60, 300) if step in kept]
layer = [spectra.spectrum(kept[step], name="2.weight") for step in shown]
ax = plots.plot_esd_evolution(layer, shown, step_name="update", bins=30)
print(plots.describe(ax))

# %% [markdown]
# The bulk stays where it was and eigenvalues leave it one after the other, until they form a tail.
# Nothing here is a sharp border: a phase is a word for a picture.

# %% [markdown]
# ## What goes with alpha
#
# Martin and Mahoney found that smaller batches give heavier tails. **Predict:** will it show in
# networks as small as these? The family: three batch sizes, two learning rates, all seeds, each
# trained for the same number of epochs.

# %%
grid = product((0.02, 0.1), (32, 128, 512), range(N_SEEDS))
family = pd.DataFrame(result(seed, size=size, lr=lr) for lr, size, seed in grid)
by_size = family.groupby(["lr", "size"])[["accuracy", "alpha", "Hill", "log norm"]]
print(by_size.agg(["mean", "std"]).round(3).to_string())

# %%
fig, axs = plt.subplots(1, 2, figsize=(9, 3.5))
look = {"hue": "lr", "palette": [plots.PALETTE["data"], plots.PALETTE["accent"]], "markers": "o"}
sns.pointplot(family, x="size", y="Hill", errorbar="sd", capsize=0.1, **look, ax=axs[0])
axs[0].set(xlabel="batch size", ylabel="alpha (Hill), mean and spread")
axs[0].legend(title="learning rate", loc="upper left")
sns.scatterplot(
    family, x="Hill", y="accuracy", hue="size", style="lr", palette="viridis", ax=axs[1]
)
axs[1].set(xlabel="alpha (Hill)", ylabel="test accuracy")
print(plots.describe(fig))

# %% [markdown]
# ### A control: as many updates
#
# It shows: at each learning rate, the smaller the batch, the heavier the tail. But the smaller the
# batch, the more updates are in an epoch. **A control:** batches of 128 again, now with as many
# *updates* as those of 32 had.

# %%
n_updates = EPOCHS * -(-len(x) // 32)
longer = [result(seed, size=128, lr=0.02, n_updates=n_updates) for seed in range(N_SEEDS)]
small = family[(family.lr == 0.02) & (family["size"] == 32)]
both = pd.concat([small, pd.DataFrame(longer)]).groupby("size")[["accuracy", "alpha", "Hill"]]
print(both.agg(["mean", "std"]).round(3).to_string())

# %% [markdown]
# With equally many updates the difference is gone, to within its spread. In these networks it was
# not the noise of small batches that made the tail heavy but the length of the training. The
# effect that Martin and Mahoney describe for larger networks is **not seen here** once this is
# held equal.

# %% [markdown]
# ## Does it tell the accuracy?
#
# Kendall's $\tau$ compares two orders: 1 if they agree, -1 if they are opposite. Over the six members
# of the family, once for each seed; and within one member, over its seeds.

# %%
rows = []
for group, by in [("over the family", "seed"), ("within a member", ["lr", "size"])]:
    for metric, (_, nets) in product(("alpha", "Hill", "log norm"), family.groupby(by)):
        rows.append((metric, group, nets[metric].corr(nets.accuracy, method="kendall")))
taus = pd.DataFrame(rows, columns=["metric", "group", "tau"])
print(taus.groupby(["metric", "group"], sort=False).tau.agg(["mean", "std", "min", "max"]).round(2))

# %% [markdown]
# Over the family, a heavier tail goes with a better network, in every seed. Within one member,
# between networks that differ in their seed only, no order is left: tau has either sign. What
# alpha tells here is how far a network has been trained, and not which of two equals is the better.

# %% [markdown]
# ### Simpson's paradox
#
# A metric can go one way within a family and the other way across families.
#
# Four public ResNets
# for CIFAR-10 (Idelbayev): their published errors, and two averages over their layers, as figures
# of ours from the files that the manifest names (`spectral_table(..., convention="weightwatcher")`).

# %%
resnets = pd.DataFrame(
    {
        "depth": [20, 32, 44, 56],
        "test error %": [8.27, 7.37, 6.90, 6.61],
        "mean alpha": [4.09, 4.80, 4.55, 4.58],
        "mean log norm": [1.717, 1.537, 1.399, 1.298],
    }
)
for metric in ("mean alpha", "mean log norm"):
    tau = resnets[metric].corr(100 - resnets["test error %"], method="kendall")
    print(f"{metric} against accuracy, over depth: tau {tau:.2f}, 4 networks")
tau = taus[(taus.metric == "log norm") & (taus.group == "over the family")].tau.mean()
print(f"log norm against accuracy, our family of one depth: tau {tau:.2f}")

# %% [markdown]
# In our family the larger norm belongs to the better network, over depth the smaller one does. Both
# are true, and neither is a law: depth, norm and error all move together from the shortest ResNet
# to the longest, and of four points even a perfect order has a p-value of 2/4! = 0.08. Martin and
# Mahoney (2021b) tell the story of a contest in which metrics of scale and of shape swapped their
# roles in this way.
#
# ## Look around
#
# Choose a layer, move $x_{\min}$, compare with the shuffled weights. **A goal:** in layer
# `2.weight`, find the smallest $x_{\min}$ whose KS distance stays below 0.15. How far does alpha
# move on the way?

# %%
explorer = widgets.EsdExplorer(runs[0][1].state_dict(), layer="2.weight")
explorer

# %% [markdown]
# The panel holds nothing that a cell could not do. This is what its `.code()` returns, and the
# picture that those lines draw.

# %%
print(explorer.code())

# %%
weights = runs[0][1].state_dict()
s = spectra.spectrum(weights["2.weight"], name="2.weight")
ax = plots.plot_esd(s, fit=fits.fit_power_law(s.eigenvalues))
print(plots.describe(ax))

# %% [markdown]
# ## What would have fooled us
#
# **Noise has an alpha too.** The search always returns a number. Here is alpha of matrices of
# pure Gaussian noise, twice as long as wide, five of each size.

# %%
sizes = product([(32, 16), (128, 64), (512, 256), (256, 256), (2048, 256)], range(5))
rows = [measure(noise(N, M, seed), N=N, M=M) for (N, M), seed in sizes]
chance = pd.DataFrame(rows).groupby(["N", "M"], sort=False)[["alpha", "Hill"]]
print(chance.agg(["min", "median", "max"]).round(1).to_string())

# %% [markdown]
# With few eigenvalues alpha can take nearly any value, and a small matrix of noise can show one
# that would pass for a trained layer's. Below about 50 eigenvalues, do not read it. And noise of
# one size but another **aspect ratio** has another alpha: square matrices look heavy-tailed to
# Hill's estimate, long ones do not. Compare equal shapes, or windows of equal shape
# (`spectra.aspect_spectrum`). The helper says such things in words:

# %%
e = spectra.spectrum(noise(32, 16, seed=0)).eigenvalues
mp = fits.fit_marchenko_pastur(e, N=32, M=16)
print("\n".join(fits.caveats(fits.fit_power_law(e), mp=mp)))

# %% [markdown]
# ### Wrong labels
#
# **Does a small alpha mean that the network is good?** Train on labels that were permuted at
# random: nothing can be learned that helps on the test set.

# %%
orders = [np.random.default_rng(seed).permutation(len(y)) for seed in range(N_SEEDS)]
liars = pd.DataFrame(result(seed, labels=y[order]) for seed, order in enumerate(orders))
print(liars[["alpha", "Hill", "top / edge", "accuracy"]].agg(["mean", "std"]).round(2).to_string())
larger = (liars.alpha.to_numpy() > wide.trained.to_numpy()).sum()
print("alpha larger than with true labels, seeds:", larger, "of", N_SEEDS)

# %% [markdown]
# A network that has learned nothing of use has eigenvalues beyond the edge as well: they say that
# training has acted on the layer, not that what it learned is true. Its alpha is larger than that
# of the networks that learned the digits; but many a layer of a good public network has such an
# alpha, as the next section shows, and no border between right and wrong can be read off it.

# %% [markdown]
# ## A real network
#
# The public ResNet-20 of Idelbayev (BSD 2-Clause) has 20 weight matrices, and classifies CIFAR-10
# with an error of 8.3 %.
#
# Its convolutions are 4-D: each of the 3 × 3 positions of the kernel is a
# matrix, and the eigenvalues of the nine are pooled (`conv="slices"`, Martin and Mahoney's
# rule). If the file can be had neither from the cache nor from the internet nor from a mirror
# folder (`WSKIT_MIRROR`), the cells below look at our own network instead.

# %% tags=["nbval-ignore-output"]
try:
    resnet = checkpoints.open_checkpoint(data.fetch("cifar-resnet20", progress=False, retries=0))
    print(f"ResNet-20: {len(resnet)} tensors, {resnet.nbytes / 1e6:.2f} MB")
except WskitError as error:
    resnet = runs[0][1].state_dict()
    print(error)
layers = features.spectral_table(resnet, conv="slices")
columns = ["name", "N", "M", "n_eigenvalues", "alpha", "± alpha", "ks", "log_spectral_norm"]
print(layers.rename(columns={"sigma": "± alpha"})[columns].round(2).to_string(index=False))

# %% tags=["nbval-ignore-output"]
shown = layers.name[layers.alpha.notna()].iloc[1::5]
some = spectra.spectra(resnet, names=shown, conv="slices")
laws = [fits.fit_power_law(s.eigenvalues) for s in some]
fig, axs = plots.plot_layers_grid(some, fits=laws)
print(plots.describe(fig))

# %% [markdown]
# ## The paper's claims, and ours
#
# What Martin, Mahoney and Peng say, in our words, beside what this page saw. ± is the standard
# deviation over the seeds; in the last entry, over the six members.


# %% tags=["claims", "hide-input"]
# The paper's claims beside ours (click to open the code)
kinds = dict(iter(table.groupby("kind")))
few = chance.get_group((32, 16)).alpha
hill = {size: spread(rows.Hill) for size, rows in family[family.lr == 0.02].groupby("size")}
equal = {size: spread(rows.Hill) for size, rows in [(32, small), (128, pd.DataFrame(longer))]}
tau = {group: spread(rows.tau) for group, rows in taus[taus.metric == "alpha"].groupby("group")}

course.claims(
    (
        "an untrained layer follows the Marchenko-Pastur law, a trained one goes beyond its edge",
        f"largest / edge {spread(kinds['before']['top / edge'])}, then {spread(kinds['trained']['top / edge'])}",
        N_SEEDS,
        f"labels at random do it too: {spread(liars['top / edge'])}",
    ),
    (
        "trained layers have a power-law tail, alpha mostly 2 to 6",
        f"alpha {spread(kinds['trained'].alpha)}",
        N_SEEDS,
        f"noise of 32 × 16 has {few.min():.1f} to {few.max():.1f}",
    ),
    (
        "training passes through phases, from random-like to heavy-tailed",
        f"in that order in {in_order} of {N_SEEDS} runs",
        N_SEEDS,
        f"not met: {', '.join(not_met) or 'none'}; thresholds are ours",
    ),
    (
        "smaller batches give heavier tails",
        f"alpha (Hill) {hill[32]} at 32, {hill[512]} at 512",
        N_SEEDS,
        f"with equally many updates {equal[32]} at 32, {equal[128]} at 128",
    ),
    (
        "a smaller alpha goes with a better network",
        f"tau {tau['over the family']} over a family",
        N_SEEDS,
        f"between seeds of one member {tau['within a member']}",
    ),
)

# %% [markdown]
# ## Limits
#
# - One architecture, one small data set, one optimiser; five seeds. What is shown here is that the
#   trace exists and how it is measured, not that alpha ranks models.
# - A straight line on logarithmic axes is a weak test: a KS distance is not a p-value, and a
#   lognormal may fit as well. A tail of a few dozen eigenvalues cannot tell them apart.
# - "As many updates" was tried at one learning rate and one pair of batch sizes.
# - The figures of the ResNets of 32 to 56 layers are quoted; only the one of 20 can be computed in
#   this page, if its file is at hand.

# %% [markdown]
# ## Exercises
#
# Each has a check that says what is wrong and never the answer, a hint, and a solution.
#
# ### Exercise 1.1 ★ (10 minutes)
#
# Write the exponent yourself: a function of the eigenvalues and $x_{\min}$ that returns the
# maximum-likelihood alpha of the tail.


# %% tags=["exercise"]
# Exercise 1.1
def exponent(eigenvalues, xmin):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_power_law_exponent(exponent))

# %% [markdown]
# <details><summary>Hint 1.1</summary>
#
# Only eigenvalues of at least $x_{\min}$ count, both in the sum and in $n$. What is the logarithm
# taken of?
#
# </details>
#
# <details><summary>Expected output 1.1</summary>
#
# ```text
# Passed: alpha is the maximum-likelihood estimate.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 1.1 (click to open)
def exponent(eigenvalues, xmin):
    kept = eigenvalues[eigenvalues >= xmin]
    return 1 + len(kept) / np.sum(np.log(kept / xmin))


print(exercises.check_power_law_exponent(exponent))

# %% [markdown]
# ### Exercise 1.2 ★ (5 minutes)
#
# Where does chance end? Write a function of $N$, $M$ and $\sigma$ that returns the upper edge of the
# eigenvalues of $W^\top W$. Then try it: how many eigenvalues of the layers above are beyond it?


# %% tags=["exercise"]
# Exercise 1.2
def edge(N, M, sigma):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_marchenko_pastur_edge(edge))

# %% [markdown]
# <details><summary>Hint 1.2</summary>
#
# The formula above is for $W^\top W / N$. Which factor is missing, and how does a variance enter?
#
# </details>
#
# <details><summary>Expected output 1.2</summary>
#
# ```text
# Passed: that is where chance ends.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 1.2 (click to open)
def edge(N, M, sigma):
    return sigma**2 * (np.sqrt(N) + np.sqrt(M)) ** 2


print(exercises.check_marchenko_pastur_edge(edge))

# %% [markdown]
# ### Exercise 1.3 ★★ (15 minutes)
#
# How large would the largest eigenvalue be by chance? Write `p_value(W, n, seed)`: of the $n + 1$
# matrices that are $W$ and $n$ shuffled copies of it, the share whose largest eigenvalue is at least
# that of $W$. The copies have the same entries; everything else about them is chance.


# %% tags=["exercise"]
# Exercise 1.3
def p_value(W, n, seed):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_p_value(p_value))

# %% [markdown]
# <details><summary>Hint 1.3</summary>
#
# Tutorial 00 moved the rows of a matrix, and its eigenvalues did not notice: a control has to break
# what it is a control for. `spectra.shuffled(W, seed=...)` moves every entry by itself. Is $W$ one
# of the matrices that are counted?
#
# </details>
#
# <details><summary>Expected output 1.3</summary>
#
# ```text
# Passed: small where there is structure, and anything between 0 and 1 for noise.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 1.3 (click to open)
def p_value(W, n, seed):
    copies = [spectra.shuffled(W, seed=seed + i) for i in range(n)]
    largest = np.array([spectra.spectrum(V).eigenvalues[-1] for V in (W, *copies)])
    return (largest >= largest[0]).mean()


print(exercises.check_p_value(p_value))

# %% [markdown]
# ### Exercise 1.4 ★★ (15 minutes)
#
# Forge a layer that looks well trained. Write `forge(N, M, alpha, seed)`: a matrix of random numbers
# whose eigenvalues have a power law of that exponent. Nothing has trained it, and it knows nothing.


# %% tags=["exercise"]
# Exercise 1.4
def forge(N, M, alpha, seed):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_forge(forge))

# %% [markdown]
# <details><summary>Hint 1.4</summary>
#
# Any eigenvalues can be given to a matrix $U \,\mathrm{diag}(s)\, V^\top$ with $s$ its singular
# values and columns of $U$ and $V$ at right angles (`np.linalg.qr`). A number with the density
# $(\alpha - 1)\, x^{-\alpha}$ from 1 on is had from a uniform one by inverting its distribution
# function; or look up what `Generator.pareto(a)` calls $a$.
#
# </details>
#
# <details><summary>Expected output 1.4</summary>
#
# ```text
# Passed: asked for 2 and 3, the fit found 2.00 and 2.99, in matrices that no one has trained.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 1.4 (click to open)
def forge(N, M, alpha, seed):
    draw = np.random.default_rng(seed)
    eigenvalues = (1 - draw.random(M)) ** (-1 / (alpha - 1))
    U, _ = np.linalg.qr(draw.normal(size=(N, M)))
    V, _ = np.linalg.qr(draw.normal(size=(M, M)))
    return U * np.sqrt(eigenvalues) @ V.T


print(exercises.check_forge(forge))

# %% [markdown]
# ### Exercise 1.5 ★★★ (open-ended, 20 minutes)
#
# How early can one see that a layer is being trained? The `EsdExplorer` below holds one run, from
# before training on. Move *Step*, compare with the shuffled weights and with the Marchenko-Pastur
# law, and watch the numbers beside the picture. Which of them moves first, and which stays where it
# is by chance, whatever the shape of the matrix?
#
# **Goal:** a function `tell_trained(W)` that returns True from update 30 on in each of the runs of
# this page, and never for a layer before training, for shuffled weights, or for matrices of noise,
# of which the check makes 40 in four shapes. Its answer must not hang on the units of the weights.

# %%
early = widgets.EsdExplorer({u: {"2.weight": W} for u, W in kept.items()}, step=30)
early.show_mp = True
early


# %% tags=["exercise"]
# Exercise 1.5
def tell_trained(W):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_tell_trained(tell_trained, [kept for kept, _ in runs]))

# %% [markdown]
# <details><summary>Hint 1.5</summary>
#
# Alpha comes late and has false alarms: the section on noise says why. The largest eigenvalue comes
# early; in which units is it the same for all matrices of chance? They are small, so that it
# scatters around 1 in these units; how far, says the first figure of this page.
#
# </details>
#
# <details><summary>Expected output 1.5</summary>
#
# ```text
# Passed: no false alarm in 50 layers of chance, and training is told from update 30 on in all 5 runs.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 1.5 (click to open)
def tell_trained(W):
    e, (M, N) = spectra.spectrum(W).eigenvalues, sorted(W.shape)
    mp = fits.fit_marchenko_pastur(e, N=N, M=M)
    return bool(e[-1] > 1.2 * mp.lambda_plus)


print(exercises.check_tell_trained(tell_trained, [kept for kept, _ in runs]))

# %% [markdown]
# ## Summary
#
# - The ESD of an untrained layer follows the Marchenko-Pastur law; a trained layer's has
#   eigenvalues far beyond its edge, in all of the seeds.
# - Shuffling the trained weights takes them away: what is seen is structure, not the size of
#   single weights.
# - A power law fitted to the tail has an exponent near 2 in the trained layers. Of noise, the same
#   fit returns anything.
# - Smaller batches went with heavier tails, and the effect was gone when the number of updates was
#   held equal.
#
# - Alpha ordered networks that had been trained for longer or shorter; it did not order networks
#   that differ in their seed only. A metric's order can turn round across depths.
# - Networks trained on random labels show the trace as well: it tells that a layer was trained, not
#   that the model is right.

# %% [markdown]
# ## For discussion
#
# 1. The Marchenko-Pastur law is the null hypothesis of this page. What does it take for granted of
#    an untrained layer, and which layers that you know would break it before any training?
# 2. Alpha orders the networks of a family and not those of one member. What would you want to be
#    shown before you choose, by alpha alone, one of two public models?
# 3. Exercise 1.4 forges a layer of any alpha. Does that speak against alpha as a measure, or only
#    against trusting whoever reports it?
# 4. With equally many updates, the effect of the batch size was gone. Is that a refutation of the
#    paper, a limit of these networks, or neither? Which experiment would tell?

# %% [markdown] tags=["teacher"]
# <details><summary>For the teacher</summary>
#
# 1. Independent entries of one variance. Broken by orthogonal or low-rank initialisation, by layers
#    whose inputs have variances of their own, by weight sharing; and convolutions, cut into
#    slices, are many small matrices. Ask for the control that still holds: shuffling asks less than
#    Marchenko and Pastur do.
# 2. That the models differ in training and not in depth, data or recipe; how tau was over models of
#    that kind, with its spread; and what a dull rival does, such as the norm or the number of
#    updates. Simpson's paradox belongs here.
# 3. A measure may be right on what training makes and blind to what it does not. It becomes useless
#    once it is a goal (someone could train for it, or paste it in). Let them say which other
#    measurement the forger would fail: any with data.
# 4. None of the three is settled by this page. "Batch size" changes noise, number of updates and the
#    best learning rate at once; the paper held epochs equal. A student should propose to vary one
#    and hold the others, over seeds, in a larger network.
#
# Where students go wrong: the $1/N$ of the edge; the exponent of the survival function for that of
# the density; singular values for eigenvalues; a p-value of 0; and a threshold on alpha in exercise
# 1.5, which gives false alarms on small matrices. About 45 minutes for the page, 10 minutes for the
# first two exercises, 15 each for the next two, 20 for the last; the sections on Simpson's paradox
# and on the real network can be left for reading at home.
#
# </details>

# %% [markdown]
# ## References
#
# 1. C. H. Martin and M. W. Mahoney, *Implicit self-regularization in deep neural networks*, JMLR
#    22(165), 2021, arXiv:1810.01075.
# 2. C. H. Martin, T. Peng and M. W. Mahoney, *Predicting trends in the quality of state-of-the-art
#    neural networks without access to training or testing data*, Nature Communications 12, 4122,
#    2021, arXiv:2002.06716.
# 3. V. A. Marchenko and L. A. Pastur, *Distribution of eigenvalues for some sets of random
#    matrices*, Mathematics of the USSR-Sbornik 1, 457, 1967,
#    doi:10.1070/SM1967v001n04ABEH001994.
# 4. A. Clauset, C. R. Shalizi and M. E. J. Newman, *Power-law distributions in empirical data*,
#    SIAM Review 51, 661, 2009, arXiv:0706.1062.
# 5. C. H. Martin and M. W. Mahoney, *Post-mortem on a deep learning contest: a Simpson's paradox and
#    the complementary roles of scale metrics versus shape metrics*, 2021b, arXiv:2106.00734.
# 6. B. M. Hill, *A simple general approach to inference about the tail of a distribution*, Annals
#    of Statistics 3, 1163, 1975, doi:10.1214/aos/1176343247.
# 7. Y. Idelbayev, *Proper ResNet implementation for CIFAR10/CIFAR100 in PyTorch*,
#    github.com/akamaster/pytorch_resnet_cifar10.
#
# **Next:** [02, predicting accuracy from weights](02_predicting_accuracy.ipynb).
