# %% [markdown]
# # 00. Start here: a network is a point
#
# **The claim of this page: a trained network is a point in a space of a few thousand dimensions,
# and many points are the same network.**
#
# You will build such a point, save it, open it again without reading it whole, move it far away,
# and find that it has not changed what it does.
#
# | | |
# |---|---|
# | **You will be able to** | train a small network on real digits; save its weights and open them safely and lazily; list which of its tensors are matrices; move a network by a symmetry and show that it is still the same function; say what such a move leaves alone |
# | **You should know** | what a layer and a training loop are, in PyTorch; matrix products |
# | **Time to read** | 65 minutes, exercises included |
# | **Time to run** | about {{run_time}} on two CPU cores, measured |
# | **Downloads** | none: the digits come with scikit-learn |

# %% tags=["setup"]
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from wskit import WskitError, checkpoints, data, exercises, plots, spectra, widgets

plt.rcParams.update(plots.STYLE)
N_SEEDS = 5  # the size knob: how many networks every claim is tried on

# %% [markdown]
# ## The tutorials
#
# Each tutorial asks one question about weights, and answers it on networks that you train
# yourself, in minutes, without a GPU.
#
# | | question | idea from |
# |---|---|---|
# | **00** | What is weight space? *(this page)* | |
# | **01** | Can one see in a layer's spectrum whether it was trained? | Martin and Mahoney 2021 |
# | **02** | Can one read off the weights how accurate a network is? | Unterthiner et al. 2020 |
# | **03** | Is what a network knows a place in weight space? | Gueta et al. 2023 |
# | **04** | Is the average of a run's weights better than its end? | Izmailov et al. 2018 |
# | **05** | Can one average many fine-tuned networks instead of choosing one? | Wortsman et al. 2022 |
# | **06** | What do these tools say of your own network? | |
# | **07** | What changes where there are a million networks? | |

# %% [markdown]
# ## Real data
#
# `digits` holds 1 797 handwritten digits of 8 × 8 pixels from the UCI repository (optical
# recognition of handwritten digits, CC BY 4.0).
#
# It is small enough that a network is trained in
# a second or two, and real enough to be worth it. The split into training, validation and test
# sets keeps the share of each digit, and its seed is an argument.

# %%
digits = data.load_dataset("digits", seed=0)
for part in ("train", "validation", "test"):
    x = getattr(digits, f"{part}_x")
    print(f"{part:10} {tuple(x.shape)}, pixels from {x.min():.0f} to {x.max():.0f}")

# %%
fig, axs = plt.subplots(1, 10, figsize=(7, 1.1))
for digit, ax in enumerate(axs):
    first = (digits.train_y == digit).nonzero()[0, 0]
    ax.imshow(digits.train_x[first, 0], cmap="gray_r")
    ax.set_title(str(digit))
    ax.axis("off")
print("The first training image of each class, from 0 on the left to 9 on the right.")

# %% [markdown]
# ## A network, trained
#
# One hidden layer of 32 neurons: 64 pixels in, 10 classes out. The seed decides where training
# starts and in what order it sees the data, and nothing else does.


# %%
def train(seed, epochs=30):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x, y = digits.train_x.flatten(1), digits.train_y
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


# %%
def accuracy(net):
    x, y = digits.test_x.flatten(1), digits.test_y
    return (net(x).argmax(1) == y).float().mean().item()


# %%
nets = [train(seed) for seed in range(N_SEEDS)]
scores = [accuracy(net) for net in nets]
print(f"test accuracy of {N_SEEDS} networks: {np.mean(scores):.2f} on average")

# %% [markdown]
# ## Its weights: names and tensors
#
# All that training has found is in the weights. In wskit, weights are always the same thing: a
# mapping from names to tensors, whether it is a `state_dict`, a dictionary made by hand, or a
# file of many gigabytes.
#
# `open_checkpoint` gives that view of any of them.

# %%
net = nets[0]
weights = checkpoints.open_checkpoint(net)
print(weights)
weights

# %% [markdown]
# `save_weights` writes them in the safetensors format, in one piece or not at all. When the file
# is opened, only its header is read: shapes and types are known at once, and a tensor is read
# when it is asked for. That is why the next cell would take as long on a file of 100 GB.

# %%
folder = Path(tempfile.mkdtemp())
path = checkpoints.save_weights(weights, folder / "digits.safetensors")
print(f"{path.name}: {path.stat().st_size} bytes")

# %%
with checkpoints.open_checkpoint(path) as opened:
    print("tensors:", list(opened))
    print("first layer:", opened.shape("0.weight"), opened.dtype("0.weight"))
    same = torch.equal(opened["0.weight"], net[0].weight)
print("what was read is what was saved:", same)

# %% [markdown]
# ### A file may hold anything
#
# Checkpoints in Python's pickle format can carry
# code that runs when they are loaded; wskit never runs it, and says so in one sentence.

# %%
torch.save(net, folder / "whole_module.pt")  # a pickled class, not weights
try:
    checkpoints.open_checkpoint(folder / "whole_module.pt")
except WskitError as error:
    print(textwrap.fill(str(error).replace(f"{folder}/", ""), 90))

# %% [markdown]
# ## What is a matrix?
#
# Most of what follows in the tutorials looks at matrices. `inventory` lists every tensor, with
# the matrix that it holds, turned so that $N \ge M$, or the reason why it holds none.

# %%
print(spectra.inventory(weights).to_string(index=False))

# %% [markdown]
# A matrix can be looked at. Each row of the first layer has 64 entries, one for each pixel: as a
# picture, it is what that hidden neuron looks for.

# %%
fig, axs = plt.subplots(2, 8, figsize=(7, 2))
limit = weights["0.weight"].abs().max()
for ax, row in zip(axs.flat, weights["0.weight"], strict=False):
    ax.imshow(row.reshape(8, 8), cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.axis("off")
rms = weights["0.weight"].square().mean().sqrt()
print(f"Incoming weights of 16 hidden neurons, red above 0 and blue below; rms {rms:.2f}.")

# %% [markdown]
# ## A network is a point
#
# Write all weights one after the other, and the network is one vector $w \in \mathbb{R}^d$. Two
# networks then have a distance, $\lVert w - w' \rVert$, like any two points.


# %%
def flatten(weights):
    return torch.cat([W.flatten() for W in weights.values()])


# %%
points = torch.stack([flatten(net.state_dict()) for net in nets])
print(f"{len(points)} points in a space of {points.shape[1]} dimensions")
print(f"mean length of a point: {points.norm(dim=1).mean():.1f}")

# %% [markdown]
# **Predict first.** The networks were trained on the same data and are equally good. Are their
# points close together, compared with how far they lie from the origin? Decide, then run.

# %%
distances = torch.pdist(points)
print(f"distance between two networks: {distances.mean():.1f} ± {distances.std():.1f}")
cosines = nn.functional.cosine_similarity(points[:, None], points[None], dim=2)
between = cosines[np.triu_indices(N_SEEDS, 1)]
print(f"cosine between two networks:   {between.mean():.2f} ± {between.std():.2f}")

# %% [markdown]
# They are far apart: two networks are about as distant as two random directions of that length
# would be (a cosine near 0 means a right angle). That tells little about what they *know*.
# Part of the reason is a symmetry.

# %% [markdown]
# ## Many points, one function
#
# The network computes $f(x) = W_2\, \mathrm{relu}(W_1 x + b_1) + b_2$. Let $P$ be a permutation
# matrix. Since relu works on each neuron by itself, $\mathrm{relu}(P z) = P\, \mathrm{relu}(z)$,
# and since $P^\top P = 1$,
#
# $$ W_2 P^\top\, \mathrm{relu}(P W_1 x + P b_1) + b_2 = f(x). $$
#
# The hidden neurons have changed places and nothing else has happened.
#
# With 32 hidden neurons
# there are $32! \approx 2.6 \cdot 10^{35}$ such points for every network.


# %%
def permute_function(weights, seed):
    order = torch.randperm(32, generator=torch.Generator().manual_seed(seed))
    P = torch.eye(32)[order]
    return {
        "0.weight": P @ weights["0.weight"],
        "0.bias": P @ weights["0.bias"],
        "2.weight": weights["2.weight"] @ P.T,
        "2.bias": weights["2.bias"],
    }


# %% [markdown]
# ### Far away, and the same
#
# For each of the networks: how far does the permutation move the point, and how much does it
# change any of the outputs on the test set?

# %%
rows = []
for seed, net in enumerate(nets):
    moved = permute_function(net.state_dict(), seed)
    x = digits.test_x.flatten(1)
    change = torch.func.functional_call(net, moved, x) - net(x)
    distance = (flatten(moved) - points[seed]).norm().item()
    rows.append({"distance": distance, "change": change.abs().max().item()})
moves = pd.DataFrame(rows)
print(f"moved by {moves.distance.mean():.1f} ± {moves.distance.std():.1f}")
print("largest change of an output is below 1e-4:", bool((moves.change < 1e-4).all()))

# %% [markdown]
# The permuted network is about as far from itself as a stranger is, and is the same function up
# to the rounding of float32. Before two networks can be compared or averaged point by point,
# their neurons have to be matched; tutorial 03 does that.

# %% [markdown]
# ### A second symmetry is continuous
#
# Since $\mathrm{relu}(c z) = c\, \mathrm{relu}(z)$ for $c > 0$,
# a neuron's incoming weights may be multiplied by $c$ if its outgoing weights are divided by it.

# %%
rows = []
for c in (0.5, 1.0, 2.0, 10.0):
    w = net.state_dict()
    scaled = w | {"0.weight": c * w["0.weight"], "0.bias": c * w["0.bias"]}
    scaled["2.weight"] = w["2.weight"] / c
    change = torch.func.functional_call(net, scaled, x) - net(x)
    rows.append((c, flatten(scaled).norm().item(), change.abs().max().item() < 1e-3))
print(pd.DataFrame(rows, columns=["c", "length of w", "same function"]).round(1))

# %% [markdown]
# So the length of $w$, by itself, says nothing about the function. Whoever claims that "small
# weights generalise" has to say how that symmetry was ruled out.

# %% [markdown]
# ## What a symmetry leaves alone
#
# A good measure of a layer should not depend on how its neurons happen to be numbered. The
# eigenvalues of $W^\top W$ do not: $(PW)^\top (PW) = W^\top P^\top P W = W^\top W$.

# %%
moved = permute_function(net.state_dict(), seed=0)
for name in ("0.weight", "2.weight"):
    before = spectra.spectrum(net.state_dict()[name]).eigenvalues
    after = spectra.spectrum(moved[name]).eigenvalues
    print(f"{name}: {before.size} eigenvalues, the same after:", np.allclose(before, after))

# %% [markdown]
# That is one reason why tutorial 01 looks at spectra.
#
# ## Open something yourself
#
# The panel opens weights from the kit's catalogue (it shows size, licence and citation before
# anything is downloaded), from a path, from a network in this session, or from a small upload.
# **A goal:** choose *session* and open `net`. The cell below it is what the panel's `.code()`
# returns: everything that a panel does can be done by plain calls.

# %%
picker = widgets.CheckpointPicker()
picker.origin, picker.variable = "session", "net"
picker.load()
picker

# %%
print(picker.code())

# %% [markdown]
# ## What would have fooled us
#
# "The outputs did not change" proves something only if they *would* have changed after a wrong
# move. Here the first layer is permuted and the second is left alone, on each network.

# %%
broken = []
for seed, net in enumerate(nets):
    half = permute_function(net.state_dict(), seed) | {"2.weight": net[2].weight.detach()}
    outputs = torch.func.functional_call(net, half, x)
    broken.append((outputs.argmax(1) == digits.test_y).float().mean().item())
print(f"test accuracy, whole: {np.mean(scores):.2f}; half permuted: {np.mean(broken):.2f}")
print("guessing gives 0.10")

# %% [markdown]
# ## What the papers claim, and what these pages saw
#
# Each of the pages 01 to 05 sets the claims of its papers beside what it measured itself, and says
# where they did not hold. This table is gathered from those pages by the build, from what their
# cells printed; no figure in it was copied by hand.
#
# {{claims}}

# %% [markdown]
# ## Glossary
#
# One symbol means one thing in all tutorials. A letter that one formula needs for itself alone is
# explained beside it. In code, `alphas` of `landscape` are places on a line between two networks,
# and never the exponent $\alpha$.
#
# | symbol | in code | meaning | first met in |
# |---|---|---|---|
# | $w$, $w'$ | `weights` | all weights of a network, as one vector; those of another | [00](00_start_here.ipynb) |
# | $d$ | | the number of weights: $w \in \mathbb{R}^d$ | [00](00_start_here.ipynb) |
# | $f(x)$ | `net(x)` | the outputs of a network for an input $x$ | [00](00_start_here.ipynb) |
# | $W$, $W_1$, $W_2$ | `W`, `"0.weight"` | a weight matrix; that of the first layer, of the second | [00](00_start_here.ipynb) |
# | $b_1$, $b_2$ | `"0.bias"` | the biases of a layer | [00](00_start_here.ipynb) |
# | $P$ | `P`, `order` | a permutation matrix | [00](00_start_here.ipynb) |
# | $c$ | `c` | a factor above 0, by which a neuron is stretched | [00](00_start_here.ipynb) |
# | $N$, $M$ | `N`, `M` | the sides of a matrix, $N \ge M$ (transposed if need be) | [00](00_start_here.ipynb) |
# | $\lambda$ | `eigenvalues` | an eigenvalue of $W^\top W$, a squared singular value of $W$; always ascending | [00](00_start_here.ipynb) |
# | $Q$ | `Q` | the aspect ratio, $N/M$ | [01](01_esd.ipynb) |
# | $X$ | | $W^\top W / N$, where a formula has the $1/N$ | [01](01_esd.ipynb) |
# | $p(\lambda)$ | `pdf` | the density of eigenvalues; measured, it is the empirical spectral density (ESD), their histogram. Martin and Mahoney write $\rho(\lambda)$ | [01](01_esd.ipynb) |
# | $\sigma$ | `sigma` | the standard deviation of the entries of a random matrix | [01](01_esd.ipynb) |
# | $\lambda_-$, $\lambda_+$ | `lambda_plus` | the edges of the Marchenko-Pastur law | [01](01_esd.ipynb) |
# | $\alpha$ | `alpha` | the exponent of a power law, $p(\lambda) \propto \lambda^{-\alpha}$ | [01](01_esd.ipynb) |
# | $x_{\min}$ | `xmin` | where the tail begins, in units of $\lambda$ | [01](01_esd.ipynb) |
# | $n$, $k$ | `n_tail` | how many there are of what the sentence names; in 01, of eigenvalues in the tail | [01](01_esd.ipynb) |
# | $F(\lambda)$, $S(\lambda)$ | `F`, `S` | the distribution functions of a law and of the tail | [01](01_esd.ipynb) |
# | $D$ | `ks` | the Kolmogorov-Smirnov (KS) distance of a law and the data | [01](01_esd.ipynb) |
# | $\tau$ | `tau` | Kendall's rank correlation: 1 if two orders agree, -1 if they are opposite | [01](01_esd.ipynb) |
# | $a$ | `test_accuracy` | the accuracy of a network | [02](02_predicting_accuracy.ipynb) |
# | $\beta$ | `coef_` | the weights of a linear model of features | [02](02_predicting_accuracy.ipynb) |
# | $R^2$ | `r2` | the share of the variance that a prediction explains, on networks that it has not seen | [02](02_predicting_accuracy.ipynb) |
# | $\rho$ | `weight_correlation` | the mean absolute cosine between the neurons of a layer | [02](02_predicting_accuracy.ipynb) |
# | $w_0$ | `base` | the weights that a fine-tune began with; $w - w_0$ is its update, or task vector | [03](03_knowledge_regions.ipynb) |
# | $H$, $Y$, $B$ | | the outputs of a body, the labels, and the linear probe that is fitted between them | [03](03_knowledge_regions.ipynb) |
# | $\gamma$ | `decay` | the share of an exponential moving average (EMA) that is kept at a step | [04](04_swa.ipynb) |
# | $\eta$, $h$ | `rate`, `h` | the learning rate; the curvature of a bowl | [04](04_swa.ipynb) |
# | $\bar w$ | `average`, `mean` | a mean of several $w$: of one run (SWA), of an average that forgets (EMA), of many fine-tunes (a soup) | [04](04_swa.ipynb) |
#
# | panel | what it is for | first met in |
# |---|---|---|
# | `CheckpointPicker` | choose weights and open them | [00](00_start_here.ipynb) |
# | `EsdExplorer` | look at the spectrum of each layer, fit its tail | [01](01_esd.ipynb) |
# | `ZooExplorer` | predict the accuracy of many networks from their weights | [02](02_predicting_accuracy.ipynb) |
# | `RegionExplorer` | walk through a plane of weight space | [03](03_knowledge_regions.ipynb) |
# | `SwaExplorer` | choose what of a run is averaged | [04](04_swa.ipynb) |
# | `SoupKitchen` | choose what goes into a soup, and try it | [05](05_model_soups.ipynb) |
#
# Results are plain values, tables are pandas DataFrames, plots return matplotlib Axes, and a
# seed is always an argument.

# %% [markdown]
# ## Limits
#
# - The symmetry shown is that of dense layers with an elementwise activation. Convolutions have
#   it for channels; residual connections tie the permutations of several layers together;
#   attention has others.
# - Rounding: "the same function" is meant up to about $10^{-6}$ relative, the precision of
#   float32.
# - Permutations and rescaling are the symmetries that every such network has. One whose neurons
#   are never active, or are doubled, has more.

# %% [markdown]
# ## Exercises
#
# Each has a check that says what is wrong and never the answer, a hint, and a solution.
#
# ### Exercise 0.1 ★ (10 minutes)
#
# `permute_function` above multiplies by a permutation matrix. Write `permute_hidden(weights,
# order)` which takes any `order` (hidden neuron $i$ of the result is neuron `order[i]` of the
# old one) and uses indexing instead of a product. It must not change the weights it is given.


# %% tags=["exercise"]
# Exercise 0.1
def permute_hidden(weights, order):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_permute_hidden(permute_hidden))

# %% [markdown]
# <details><summary>Hint 0.1</summary>
#
# `W[order]` takes rows, `W[:, order]` takes columns. Ask of each of the four tensors: along
# which of its axes are hidden neurons counted?
#
# </details>
#
# <details><summary>Expected output 0.1</summary>
#
# ```text
# Passed: same function, other weights.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 0.1 (click to open)
def permute_hidden(weights, order):
    moved = dict(weights)
    moved["0.weight"], moved["0.bias"] = weights["0.weight"][order], weights["0.bias"][order]
    moved["2.weight"] = weights["2.weight"][:, order]
    return moved


print(exercises.check_permute_hidden(permute_hidden))

# %% [markdown]
# ### Exercise 0.2 ★ (5 minutes)
#
# How many weights has a checkpoint, when it is too large to be read? Write
# `count_weights(checkpoint)`: the number of entries of all its floating-point tensors, without
# reading one of them. Whole numbers, such as the counters of batch normalisation, do not count.


# %% tags=["exercise"]
# Exercise 0.2
def count_weights(checkpoint):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_count_weights(count_weights))

# %% [markdown]
# <details><summary>Hint 0.2</summary>
#
# `checkpoint[name]` reads; `checkpoint.shape(name)` and `checkpoint.dtype(name)` do not. Not
# every number has four bytes.
#
# </details>
#
# <details><summary>Expected output 0.2</summary>
#
# ```text
# Passed: all are counted, and none was read.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 0.2 (click to open)
def count_weights(checkpoint):
    floating = [name for name in checkpoint if checkpoint.dtype(name).is_floating_point]
    return sum(torch.Size(checkpoint.shape(name)).numel() for name in floating)


print(exercises.check_count_weights(count_weights))

# %% [markdown]
# ### Exercise 0.3 ★★ (10 minutes)
#
# Above, one $c$ stretched all hidden neurons alike. Write `rescale_hidden(weights, c)` with a
# tensor `c` of one factor above 0 for each hidden neuron: what comes into neuron $i$ gets
# `c[i]` times as large, and the function stays the same.


# %% tags=["exercise"]
# Exercise 0.3
def rescale_hidden(weights, c):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_rescale_hidden(rescale_hidden))

# %% [markdown]
# <details><summary>Hint 0.3</summary>
#
# Again: along which axis of each tensor are hidden neurons counted? `c[:, None]` is a column.
#
# </details>
#
# <details><summary>Expected output 0.3</summary>
#
# ```text
# Passed: same function, a vector of another length.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 0.3 (click to open)
def rescale_hidden(weights, c):
    moved = dict(weights)
    moved["0.weight"], moved["0.bias"] = c[:, None] * weights["0.weight"], c * weights["0.bias"]
    moved["2.weight"] = weights["2.weight"] / c
    return moved


print(exercises.check_rescale_hidden(rescale_hidden))

# %% [markdown]
# ### Exercise 0.4 ★★★ (open-ended, 20 minutes)
#
# Six files have come without a word. Some are `net`, moved by symmetries to a place far away; some
# only look like it; some should not be opened at all. Open them one after the other with the
# `CheckpointPicker` below (change the letter in its path), and look at what they hold by the lines
# that it returns.
#
# **Goal:** a function `sort_file(path, weights)` that says of a file `"same"` (the function of the
# network with these weights), `"other"`, or `"refused"`, and is right for all of 18 files like
# these. No image is needed: the weights tell it.

# %%
mysteries = folder / "mysteries"
mysteries.mkdir()
paths = exercises.write_mysteries(net.state_dict(), mysteries)
print([path.name for path in paths])
opener = widgets.CheckpointPicker()
opener.origin, opener.path = "path", str(paths[0])
opener


# %% tags=["exercise"]
# Exercise 0.4
def sort_file(path, weights):
    raise NotImplementedError("write me")


# %% tags=["check"]
print(exercises.check_sort_file(sort_file, net.state_dict()))

# %% [markdown]
# <details><summary>Hint 0.4</summary>
#
# A network of one hidden layer is a *set* of neurons: what comes in, its bias, what goes out.
# Which numbers of a neuron stay when it is stretched? And how are two sets compared whose
# elements have no order? Equal eigenvalues are not enough: a rotation leaves them alone too, and
# relu does not let it through.
#
# </details>
#
# <details><summary>Expected output 0.4</summary>
#
# ```text
# Passed: all 18 files are sorted right.
# ```
#
# </details>


# %% tags=["solution"]
# Solution 0.4 (click to open)
def sort_file(path, weights):
    try:
        pair = [dict(checkpoints.open_checkpoint(path)), weights]
    except WskitError:
        return "refused"
    for i, w in enumerate(pair):  # a neuron is a row, in units of its length
        into = torch.cat([w["0.weight"], w["0.bias"][:, None]], dim=1)
        length = into.norm(dim=1, keepdim=True)
        rows = [into / length, length * w["2.weight"].T, w["2.bias"].expand(len(into), -1)]
        pair[i] = torch.cat(rows, dim=1).unique(dim=0)  # in one order, whatever it was
    return "same" if torch.allclose(*pair, atol=1e-4) else "other"


print(exercises.check_sort_file(sort_file, net.state_dict()))

# %% [markdown]
# ## Summary
#
# - Weights are a mapping from names to tensors; a file of them is opened safely and lazily.
# - A network is a point $w$; independent trainings end at points nearly at right angles.
# - Permuting hidden neurons moves the point as far, and leaves the function unchanged; so does
#   rescaling through a relu.
# - Eigenvalues of $W^\top W$ do not depend on the numbering of neurons.

# %% [markdown]
# ## For discussion
#
# 1. Is a file of weights a model? What else has to be known before it can be run, and who should
#    say it: the file, the code, or the paper?
# 2. Two networks trained from two seeds are as far apart as strangers. Is distance the wrong
#    question, or is this the wrong space? What would a space be in which one function is one point?
# 3. A journal asks authors to publish their weights. Which formats should it take, and who bears
#    the risk of opening them?
# 4. "Small weights generalise" has been measured often. The length of $w$ can be made anything
#    without changing the function. How could such a claim still be made so that it can fail?

# %% [markdown] tags=["teacher"]
# <details><summary>For the teacher</summary>
#
# 1. The file has names and shapes only: not the activation, the order of layers, the normalisation
#    of the images, the meaning of class 7. A good answer names one of these that would go wrong
#    *silently*. Let them find what `open_checkpoint` shows and what it cannot.
# 2. Divide the space by the symmetries: one point for each orbit. The set of neurons of exercise
#    0.4 is that for one hidden layer. It gets hard for deeper networks, where matching is a search
#    (tutorial 03), and a function may have points that no symmetry connects. Distances between
#    functions, on data, are another answer; ask on which data.
# 3. Pickle runs code when it is loaded; safetensors and npz hold numbers only. The second half of
#    the question has no right answer: readers, editors and hosts can all look first, and none of
#    them can know what a network was trained to do.
# 4. By measuring what no symmetry changes (products along paths, a norm after each neuron is given
#    length 1), or by fixing how networks are trained, so that no one moves along the symmetry. Dinh
#    et al. (2017) make the point for sharpness.
#
# Where students go wrong: they permute rows where neurons are columns (`2.weight`), forget the
# bias, or change the tensors that they were given. In 0.4 most compare eigenvalues first; that is
# the best mistake of this page, let them make it. About 20 minutes for the page, 5 to 10 for each
# of the first three exercises, 20 for the last, 15 for a discussion of two questions.
#
# </details>

# %% [markdown]
# ## References
#
# 1. R. Hecht-Nielsen, *On the algebraic structure of feedforward network weight spaces*, in
#    Advanced Neural Computers, 1990, doi:10.1016/B978-0-444-88400-8.50019-4.
# 2. S. K. Ainsworth, J. Hayase and S. Srinivasa, *Git Re-Basin: merging models modulo
#    permutation symmetries*, ICLR 2023, arXiv:2209.04836.
# 3. L. Dinh, R. Pascanu, S. Bengio and Y. Bengio, *Sharp minima can generalize for deep nets*,
#    ICML 2017, arXiv:1703.04933.
# 4. E. Alpaydin and C. Kaynak, *Optical recognition of handwritten digits*, UCI Machine Learning
#    Repository, 1998, doi:10.24432/C50P49.
#
# **Next:** [01, the spectrum of a trained layer](01_esd.ipynb).
