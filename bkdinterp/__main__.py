"""``python -m bkdinterp``: the same door as the ``bkdinterp`` command."""

from bkdinterp.cli import main

if __name__ == "__main__":
    main()
