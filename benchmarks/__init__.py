"""Speed compared with other packages; see docs/benchmarks.md."""
