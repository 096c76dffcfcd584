"""In every server process: what a stranger's server does not have cannot be imported here either."""

import sys


class Absent:
    """Refuses the package and what only its own side needs."""

    names = ("bkdinterp", "jaxtyping", "beartype")

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r} (kept away from the server)", name=name)


sys.meta_path.insert(0, Absent())
