"""Hostile inputs: mutated files for every reader and command, random shapes for every C++ file."""
