"""``python -m papers``."""

from papers.command_line import main

if __name__ == "__main__":
    main()
