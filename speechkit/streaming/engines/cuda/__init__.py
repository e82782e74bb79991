"""The step of a net for many sessions at once, in place, replayed as CUDA graphs."""
