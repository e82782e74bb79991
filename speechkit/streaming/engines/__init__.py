"""What a net's step runs on: torch, one call of C++, or replayed CUDA graphs."""
