"""A net's step for many sessions at once, in place, as CUDA graphs replay it."""
