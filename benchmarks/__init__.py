"""The benchmark harness: ``python -m benchmarks [NAME…]``. Speeds are told as ratios to peers in the same run."""
