"""Benchmarks: each pairs Quatrain with a peer in one run, checks before it times, and writes its own result file."""
