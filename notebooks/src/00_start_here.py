# %% [markdown]
# # Start here: a network is a point
#
# **The claim of this page: a trained network is a point in a space of a few thousand dimensions,
# and many points are the same network.** You will build such a point, save it, open it again
# without reading it whole, move it far away, and find that it has not changed what it does.
#
# | | |
# |---|---|
# | **You will be able to** | train a small network on real digits; save its weights and open them safely and lazily; list which of its tensors are matrices; move a network by a symmetry and show that it is still the same function; say what such a move leaves alone |
# | **You should know** | what a layer and a training loop are, in PyTorch; matrix products |
# | **Time** | 20 minutes to read and do, under a minute to run on two CPU cores |
# | **Downloads** | none: the digits come with scikit-learn |

# %% tags=["setup"]
import tempfile
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

# %% [markdown]
# ## Real data
#
# `digits` holds 1 797 handwritten digits of 8 × 8 pixels from the UCI repository (optical
# recognition of handwritten digits, CC BY 4.0). It is small enough that a network is trained in
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
# file of many gigabytes. `open_checkpoint` gives that view of any of them.

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
# A file from the internet may hold anything. Checkpoints in Python's pickle format can carry
# code that runs when they are loaded; wskit never runs it, and says so in one sentence.

# %%
torch.save(net, folder / "whole_module.pt")  # a pickled class, not weights
try:
    checkpoints.open_checkpoint(folder / "whole_module.pt")
except WskitError as error:
    print(str(error).replace(f"{folder}/", ""))

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
#
# ## Many points, one function
#
# The network computes $f(x) = W_2\, \mathrm{relu}(W_1 x + b_1) + b_2$. Let $P$ be a permutation
# matrix. Since relu works on each neuron by itself, $\mathrm{relu}(P z) = P\, \mathrm{relu}(z)$,
# and since $P^\top P = 1$,
#
# $$ W_2 P^\top\, \mathrm{relu}(P W_1 x + P b_1) + b_2 = f(x). $$
#
# The hidden neurons have changed places and nothing else has happened. With 32 hidden neurons
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
#
# A second symmetry is continuous. Since $\mathrm{relu}(c z) = c\, \mathrm{relu}(z)$ for $c > 0$,
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
#
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
# ## Limits
#
# - The symmetry shown is that of dense layers with an elementwise activation. Convolutions have
#   it for channels; residual connections tie the permutations of several layers together;
#   attention has others.
# - Rounding: "the same function" is meant up to about $10^{-6}$ relative, the precision of
#   float32.
#
# ## Exercise 0.1 (10 minutes)
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


# %% tags=["solution"]
# Solution 0.1 (click to open)
def permute_hidden(weights, order):
    moved = dict(weights)
    moved["0.weight"], moved["0.bias"] = weights["0.weight"][order], weights["0.bias"][order]
    moved["2.weight"] = weights["2.weight"][:, order]
    return moved


print(exercises.check_permute_hidden(permute_hidden))

# %% [markdown]
# ## Conventions of the kit
#
# | symbol | meaning |
# |---|---|
# | $W$ | a weight matrix, $N \times M$ with $N \ge M$ (transposed if need be) |
# | $Q = N/M$ | its aspect ratio |
# | $\lambda$ | an eigenvalue of $W^\top W$: a squared singular value of $W$; always ascending |
# | ESD | empirical spectral density: the histogram of a layer's eigenvalues |
# | $w$ | all weights of a network as one vector |
#
# Results are plain values, tables are pandas DataFrames, plots return matplotlib Axes, and a
# seed is always an argument.
#
# ## Summary
#
# - Weights are a mapping from names to tensors; a file of them is opened safely and lazily.
# - A network is a point $w$; independent trainings end at points nearly at right angles.
# - Permuting hidden neurons moves the point as far, and leaves the function unchanged; so does
#   rescaling through a relu.
# - Eigenvalues of $W^\top W$ do not depend on the numbering of neurons.
#
# **Next:** [01, the spectrum of a trained layer](01_esd.ipynb).
#
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
