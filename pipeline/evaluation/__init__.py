"""How good is a classifier, and why: scores, failures, comparison with baselines, layer by layer. Used by report and commands."""
