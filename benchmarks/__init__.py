"""Benchmarks that are too slow for the tests, which run them at toy size."""
