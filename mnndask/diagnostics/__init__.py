"""Diagnostics of one correction: a sample of its cells, measures, and findings in words."""
