"""The experiments behind docs/experiments.md."""
