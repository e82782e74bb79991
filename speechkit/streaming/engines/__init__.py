"""Engines for the step of a net: torch, one call of C++, or replayed CUDA graphs."""
