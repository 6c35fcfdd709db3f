"""The tests: one file per module of pipeline/, plus contract, architecture, README and docs."""
