"""Run the program from a checkout: python run_pipeline.py [train | predict | evaluate | tokens | models | fetch]."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
