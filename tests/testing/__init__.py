"""Tests of the kit that holds components to their contracts."""
