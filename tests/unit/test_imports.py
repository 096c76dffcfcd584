"""The import map, read off the AST: a folder imports itself and what stands before it in ORDER, nothing else.

Imports inside functions and under TYPE_CHECKING count like any other.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "bkdinterp"
ROOT = "(root)"  # bkdinterp/__init__.py
ORDER = (
    "errors",
    "values",
    "version",
    "reprs",
    "places",
    "sites",
    "progress",
    "stats",
    "metrics",
    "plotting",
    "prompts",
    "interventions",
    "results",
    "model",
    "engine",
    "doctor",
    "methods",
    "pcp",
    "organisms",
    "detection",
    "report",
    "forensics",
    "demo",
    ROOT,
    "cli",
    "__main__",
)
# Within methods/: a room imports itself and what stands before it here.
ROOMS = (
    "_guards",
    "_options",
    "readout",
    "behaviour",
    "attribution",
    "circuits",
    "probe",
    "vector",
    "pcp",
    "weights",
)
# Names that say nothing of what a module holds.
EMPTY_NAMES = {"common", "share", "partial", "utils", "util", "helpers", "misc"}
# Who may import what; an empty set means nobody.
RESERVED = {
    "nnsight": {"model", "engine"},
    "transformers": {"model", "organisms"},
    "peft": {"model", "organisms"},
    "beartype": set(),
}
# Extras that draw: imported inside functions only.
DRAWERS = {"matplotlib", "plotly"}
# Sent to a server as source text: no decorators, no imports of the package.
WIRE = {"bkdinterp/engine/program.py", "bkdinterp/metrics/scores.py"}


@dataclass
class Checker(ast.NodeVisitor):
    """Collects the complaints about one module; ``path`` is relative to the repository, with slashes."""

    path: str
    found: list[str] = field(default_factory=list)
    depth: int = 0  # how many functions we are in
    typing_only: int = 0  # how many `if TYPE_CHECKING:` blocks we are in

    @property
    def parts(self) -> list[str]:
        """The module's dotted name, as parts: bkdinterp/prompts/__init__.py -> [bkdinterp, prompts]."""
        parts = self.path.removesuffix(".py").split("/")
        return parts[:-1] if parts[-1] == "__init__" else parts

    @property
    def folder(self) -> str:
        return self.parts[1] if len(self.parts) > 1 else ROOT

    def say(self, node: ast.AST, text: str) -> None:
        self.found.append(f"{self.path}:{getattr(node, 'lineno', 0)}: {text}")

    def check(self, source: str) -> list[str]:
        if self.folder not in ORDER:
            self.found.append(f"{self.path}: {self.folder} has no place in ORDER")
        else:
            self.visit(ast.parse(source))
        return self.found

    def edge(self, node: ast.AST, target: str) -> None:
        top, *rest = target.split(".")
        if top == "bkdinterp":
            folder = rest[0] if rest else ROOT
            if self.path in WIRE:
                self.say(node, f"travels as source and imports {target}")
            elif folder not in ORDER:
                self.say(node, f"imports {target}, which has no place in ORDER")
            elif ORDER.index(folder) > ORDER.index(self.folder):
                self.say(node, f"{self.folder} imports {folder}, which stands after it")
            elif folder == self.folder == "methods" and len(self.parts) > 2:
                self.room_edge(node, rest[1] if len(rest) > 1 else "")
        elif top == "papers":
            self.say(node, f"imports {target}: papers use the package, not the other way round")
        elif top in RESERVED and self.folder not in RESERVED[top]:
            self.say(node, f"{self.folder} imports {top}")
        elif top in DRAWERS and not self.depth and not self.typing_only:
            self.say(node, f"imports {top} outside a function")

    def room_edge(self, node: ast.AST, room: str) -> None:
        own = self.parts[2]
        if room not in ROOMS or own not in ROOMS:
            self.say(node, f"methods/{own} imports methods/{room}; one of them has no place in ROOMS")
        elif ROOMS.index(room) > ROOMS.index(own):
            self.say(node, f"methods/{own} imports methods/{room}, which stands after it")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.edge(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            package = self.parts if self.path.endswith("__init__.py") else self.parts[:-1]
            above = package[: len(package) - node.level + 1]
            base = ".".join([*above, *([base] if base else [])])
        for name in sorted({alias.name for alias in node.names}):
            # `from bkdinterp import sites` is an edge to sites; `from bkdinterp import Site` one to the root.
            self.edge(node, f"bkdinterp.{name}" if base == "bkdinterp" and name in ORDER else base)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in {"import_module", "__import__"} and node.args and isinstance(node.args[0], ast.Constant):
            self.edge(node, str(node.args[0].value))
        if isinstance(node.func, ast.Name) and called == "print" and self.folder != "cli":
            self.say(node, "calls print; only the commands print")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        guard = ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        self.typing_only += guard
        for child in node.body:
            self.visit(child)
        self.typing_only -= guard
        self.visit(node.test)
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        if self.path in WIRE and node.decorator_list:
            self.say(node, f"travels as source and decorates {node.name}")
        inside = not isinstance(node, ast.ClassDef)  # a class body runs when the module is imported
        self.depth += inside
        self.generic_visit(node)
        self.depth -= inside

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_ClassDef = visit_FunctionDef


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE.parent).as_posix(), path.read_text(encoding="utf-8")


def test_every_module_keeps_to_the_map():
    found = [complaint for path, source in modules() for complaint in Checker(path).check(source)]
    assert not found, "\n".join(found)


def test_every_module_has_a_name_of_its_own_that_says_what_it_holds():
    paths = [p for p, _ in modules() if not p.endswith("__.py")]
    names = {path: Path(path).stem.strip("_") for path in paths}
    twice = {name for name, n in Counter(names.values()).items() if n > 1}
    assert not [path for path, name in names.items() if name in twice | EMPTY_NAMES]


def test_the_modules_that_travel_exist():
    missing = [path for path in sorted(WIRE) if not (PACKAGE.parent / path).is_file()]
    assert not missing


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bkdinterp/stats/_mean.py", "from bkdinterp.metrics import f"),
        ("bkdinterp/errors.py", "import bkdinterp.sites"),
        ("bkdinterp/model/_model.py", "def f():\n    from bkdinterp.engine import plan"),
        ("bkdinterp/model/_model.py", "if TYPE_CHECKING:\n    from bkdinterp.engine import Plan"),
        (
            "bkdinterp/model/_model.py",
            "try:\n    pass\nexcept E:\n    import bkdinterp.methods.probe._backdoor_probe as p",
        ),
        ("bkdinterp/methods/vector/_v.py", "from bkdinterp.methods.pcp import PCP"),
        ("bkdinterp/methods/vector/__init__.py", "from bkdinterp.methods.pcp._p import PCP"),
        ("bkdinterp/methods/_guards.py", "from bkdinterp.methods.readout import Means"),
        ("bkdinterp/methods/vector/_v.py", "from bkdinterp.methods import Means"),
        ("bkdinterp/methods/attic/_v.py", "from bkdinterp.methods.readout import Means"),
        ("bkdinterp/methods/vector/_v.py", "from bkdinterp.pcp import PCP"),
        ("bkdinterp/methods/_probe.py", "import bkdinterp"),
        ("bkdinterp/methods/_probe.py", "from bkdinterp import Model"),
        ("bkdinterp/methods/_probe.py", "from bkdinterp import organisms"),
        ("bkdinterp/sites.py", "from bkdinterp import errors, stats"),
        ("bkdinterp/prompts/_trigger.py", "from ..model import Model"),
        ("bkdinterp/prompts/__init__.py", "from ..model._model import Model"),
        ("bkdinterp/prompts/_trigger.py", "from .. import model"),
        ("bkdinterp/prompts/_trigger.py", "importlib.import_module('bkdinterp.model')"),
        ("bkdinterp/report/_html.py", "from bkdinterp.demo import run_demo"),
        ("bkdinterp/cli/_app.py", "from papers import load_paper"),
        ("bkdinterp/organisms/_organism.py", "def f():\n    import papers.lamparth"),
        ("bkdinterp/__init__.py", "from bkdinterp.cli import main"),
        ("bkdinterp/sites.py", "from bkdinterp.surprise import x"),
        ("bkdinterp/surprise/_new.py", "x = 1"),
        ("bkdinterp/methods/_probe.py", "import nnsight"),
        ("bkdinterp/interventions/_apply.py", "from nnsight.intervention import x"),
        ("bkdinterp/prompts/_builder.py", "def f():\n    from transformers import AutoTokenizer"),
        ("bkdinterp/methods/_probe.py", "import peft"),
        ("bkdinterp/engine/_run.py", "import transformers"),
        ("bkdinterp/model/_model.py", "from beartype import beartype"),
        ("bkdinterp/plotting/_heat.py", "import matplotlib.pyplot as plt"),
        ("bkdinterp/plotting/_heat.py", "class A:\n    from matplotlib.figure import Figure"),
        ("bkdinterp/plotting/_heat.py", "import plotly.graph_objects as go"),
        ("bkdinterp/methods/_probe.py", "def f():\n    print(1)"),
        ("bkdinterp/engine/program.py", "@no_grad()\ndef f():\n    pass"),
        ("bkdinterp/engine/program.py", "@dataclass\nclass A:\n    pass"),
        ("bkdinterp/engine/program.py", "def f():\n    from bkdinterp.sites import Site"),
        ("bkdinterp/metrics/scores.py", "from . import _text"),
    ],
)
def test_the_checker_catches(path, source):
    assert len(Checker(path).check(source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bkdinterp/sites.py", "from bkdinterp.errors import SiteError"),
        (
            "bkdinterp/prompts/_trigger.py",
            "from bkdinterp.prompts._prompts import Prompts\nfrom . import _prompts",
        ),
        ("bkdinterp/engine/_local.py", "import nnsight\nfrom bkdinterp import sites"),
        (
            "bkdinterp/organisms/_poison.py",
            "import peft, transformers\nfrom bkdinterp.methods import evaluate",
        ),
        ("bkdinterp/methods/pcp/_p.py", "from bkdinterp.methods.readout import Means"),
        ("bkdinterp/methods/pcp/_p.py", "from bkdinterp.methods.pcp import _q"),
        ("bkdinterp/methods/__init__.py", "from bkdinterp.methods.pcp import PCP"),
        ("bkdinterp/plotting/_heat.py", "def f():\n    import matplotlib.pyplot as plt"),
        ("bkdinterp/plotting/_heat.py", "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"),
        ("bkdinterp/plotting/_heat.py", "def f():\n    from plotly.subplots import make_subplots"),
        ("bkdinterp/__init__.py", "from bkdinterp.demo import run_demo"),
        ("bkdinterp/cli/_app.py", "import bkdinterp as bk\nprint(bk)"),
        ("bkdinterp/__main__.py", "from bkdinterp.cli import main"),
        ("bkdinterp/engine/program.py", "import torch\ndef f(x):\n    return x"),
        ("bkdinterp/methods/_probe.py", "@property\ndef f(self):\n    'no print(1) here'"),
    ],
)
def test_the_checker_lets_pass(path, source):
    assert Checker(path).check(source) == []


PAPERS = PACKAGE.parent / "papers"
# What papers/ may use besides `import bkdinterp as bk`: sub-modules whose names the API pages list.
PUBLIC = {
    *(
        "engine",
        "errors",
        "interventions",
        "methods",
        "metrics",
        "model",
        "organisms",
        "plotting",
        "progress",
    ),
    *("prompts", "results", "sites", "stats"),
}


def listed(module: str) -> set[str]:
    """Names that a public module offers: what its ``__init__`` passes on or defines, and its public modules."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    names = {x.stem for x in path.glob("*") if x.suffix == ".py" or (x / "__init__.py").is_file()}
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {
                name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
            }
    return {name for name in names if not name.startswith("_")}


def private_uses(source: str) -> list[str]:
    """What a module of papers/ uses of the package that is not public."""
    found, tree = [], ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = [(alias.name, alias.asname) for alias in node.names]
            found += [
                name
                for name, own in named
                if name.startswith("bkdinterp") and (name, own) != ("bkdinterp", "bk")
            ]
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("bkdinterp")):
            base, *inner = (node.module or "").split(".")
            open_ = (
                base == "bkdinterp" and inner and inner[0] in PUBLIC and not any(x[0] == "_" for x in inner)
            )
            known = listed(node.module or "") if open_ else set()
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in known]
        elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            whole = ast.unparse(node)
            found += [whole] if whole.startswith("bk.") else []
    return found


def test_papers_use_public_names_only():
    paths = sorted(PAPERS.rglob("*.py"))
    found = [
        f"{path.name}: {name}" for path in paths for name in private_uses(path.read_text(encoding="utf-8"))
    ]
    assert len(paths) > 40 and not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from bkdinterp.results._files import write_text", ["bkdinterp.results._files.write_text"]),
        ("def f():\n    from bkdinterp.values import as_path", ["bkdinterp.values.as_path"]),
        ("from bkdinterp.places import writable_file", ["bkdinterp.places.writable_file"]),
        ("from bkdinterp.stats import Interval, _mean", ["bkdinterp.stats._mean"]),
        ("from bkdinterp.methods import as_pcp", ["bkdinterp.methods.as_pcp"]),
        ("from bkdinterp import stats", ["bkdinterp.stats"]),
        ("import bkdinterp.cli", ["bkdinterp.cli"]),
        ("from .. import paper", ["None.paper"]),
        ("import bkdinterp as bk\nbk.results._files.disk", ["bk.results._files"]),
        ("import bkdinterp as bk\nbk.stats.wilson(1, 2)", []),
        ("from bkdinterp.organisms.natural import Story", []),
        ("from bkdinterp.organisms import toy", []),
        ("from bkdinterp.sites import Site\nself._store.read()", []),
    ],
)
def test_what_of_the_package_is_public(source, names):
    assert private_uses(source) == names


def papers_graph() -> dict[str, set[str]]:
    """Module of papers/ -> the modules of papers/ that it imports; a package stands for its ``__init__``."""
    graph: dict[str, set[str]] = {}
    for path in sorted(PAPERS.rglob("*.py")):
        module = ".".join(path.relative_to(PAPERS.parent).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "papers":
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[module] |= {node.module or "", *inner}
    return {module: uses & set(graph) - {module} for module, uses in graph.items()}


def test_no_module_of_papers_stands_on_itself():
    TopologicalSorter(papers_graph()).prepare()


def test_files_of_papers_have_names_of_their_own():
    """One name, one file, but for those that both papers have alike."""
    alike = {"__init__.py", "__main__.py", "published.py", "stages.py", "table_times.py"}
    names = [path.name for path in PAPERS.rglob("*.py") if path.name not in alike]
    assert sorted(set(names)) == sorted(names) and not set(names) & {p.name for p in PACKAGE.rglob("*.py")}
