"""The sub-commands of run_pipeline.py."""
