"""What recording costs, as ratios against a bare step in the same run. `make bench`, or `python -m benchmarks NAME ...`."""
