"""Speed beside peers; see docs/benchmarks.md."""
