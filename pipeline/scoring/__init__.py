"""Scoring tables of any size, every row exactly once: plan, shards, executors, parts."""
