"""Run the command line from a checkout: python run_pipeline.py [COMMAND]."""

from pipeline.commands.cli import main

if __name__ == "__main__":
    main()
