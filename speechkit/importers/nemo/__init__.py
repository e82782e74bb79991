"""Models in NVIDIA NeMo's files."""
