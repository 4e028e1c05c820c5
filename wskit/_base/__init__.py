"""What every part of the kit stands on: weights, their layout in a vector, checks, files."""
