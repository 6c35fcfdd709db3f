"""Run the program from a checkout: python run_pipeline.py [COMMAND]; --help lists the commands."""

from pipeline.commands.cli import main

if __name__ == "__main__":
    main()
