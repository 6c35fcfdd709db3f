"""The sub-commands of run_pipeline.py, a file per group of them: thin, no logic of their own. Imported by cli."""
