"""Speed: pytest-benchmark suites for each op, and ``python -m benchmarks.compare`` for the side-by-side figures."""
