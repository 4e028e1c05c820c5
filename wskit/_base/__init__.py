"""What every part of the kit stands on: weights, their layout in a vector, checks, files.

Nothing is imported here: `wskit.data` takes `files` and needs no torch.
"""
