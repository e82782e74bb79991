"""Imports models from NVIDIA NeMo's files."""
