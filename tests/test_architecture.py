# SPDX-License-Identifier: Apache-2.0
"""What may import what, read from the source; and what every file must have.

A room imports from levels below its own. A new room of `alignjax` is given its place in
LEVELS first.
"""

import ast
import collections
import functools
import graphlib
import os
import pathlib
import re
import subprocess
import sys
import warnings

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "alignjax"

LEVELS = [
    {"bounds", "errors", "registry", "trees", "types", "workers"},
    {"cli", "config", "patterns", "storage"},
    {"distributed", "losses", "tracking"},
    {"checkpoint", "data", "models"},
    {"huggingface", "objectives", "sampling"},
    {"gguf"},
    {"analysis", "training"},
    {"rewards"},
    {"rollouts"},
    {"experiment"},
    {"convert", "evals", "plan"},
    {"world"},
    {"judges"},
    {"evaluate"},
    {"feedback", "generate", "report", "score", "train"},
    {"ablation"},
]
# These know less than their level would let them.
ONLY = {
    "data": {"bounds", "config", "errors", "registry", "storage", "workers"},
    "losses": {"bounds", "config", "errors", "registry", "types"},
}
# Flax's modules stay in models/; elsewhere it gives one helper each.
FLAX = {
    "distributed": {"flax.linen"},  # from names of axes to a mesh
    "models": {"flax.linen", "flax.struct"},
    "training": {"flax.linen"},  # unboxing
    "types": {"flax.struct"},
}
# The package that a module comes from, where it is not called the same.
DISTRIBUTIONS = {"absl": "absl-py", "orbax": "orbax-checkpoint"}
# They run what a file says, which may be anybody's.
FORBIDDEN_MODULES = {"cloudpickle", "dill", "marshal", "pickle", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec"}
FORBIDDEN_OPTIONS = {"allow_pickle", "trust_remote_code"}


def sources(*folders):
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in files)


@functools.cache
def tree(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def unit(path):
    """`models` for alignjax/models/layers.py, `trees` for alignjax/trees.py."""
    return path.parts[1].removesuffix(".py")


def imports(path, nodes=None):
    """Full names of all that a file imports: `from a import b` gives `a.b`."""
    for node in ast.walk(tree(path)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def declared():
    """The packages that setup.py names: those of the core, and those of the extras."""
    lists = {"CORE": set(), "HUGGING_FACE": set(), "EXTRAS": set()}
    for node in tree(pathlib.Path("setup.py")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id in lists:
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant):
                    name = re.match(r"[\w-]+", part.value)[0].replace("_", "-")
                    lists[node.targets[0].id].add(name)
    return lists["CORE"], lists["EXTRAS"] | lists["HUGGING_FACE"]


CORE = sources("alignjax")
ALL = [
    *sources("alignjax", "configs", "experiments", "tests", "tools"),
    pathlib.Path("setup.py"),
]


def test_imports_go_down():
    """Between rooms, imports inside functions included; so rooms form no circle."""
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    rooms = {unit(path) for path in CORE} - {"__init__", "__main__"}
    assert rooms == set(level), "give each room a place in LEVELS"
    offenders = []
    for path in CORE:
        here = unit(path)
        for name in imports(path):
            if here in ("__init__", "__main__") or not name.startswith("alignjax."):
                continue
            there = name.split(".")[1]
            allowed = there in ONLY.get(here, level) and level[there] < level[here]
            if there != here and not allowed:
                offenders.append(f"{path} imports {name}")
    assert not offenders


def test_modules_form_no_circle():
    """Inside rooms too, and also through imports inside functions."""
    modules = {}
    for path in CORE:
        parts = path.with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        modules[".".join(parts)] = path
    edges = {
        name: {
            whole if whole in modules else whole.rpartition(".")[0]
            for whole in imports(path)
            if whole.startswith("alignjax.")
        }
        for name, path in modules.items()
        if name != "alignjax"
    }
    try:
        tuple(graphlib.TopologicalSorter(edges).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


def test_core_knows_nothing_of_what_stands_on_it():
    above = {"configs", "experiments", "tests", "tools"}
    offenders = [
        f"{path} imports {name}"
        for path in CORE
        for name in imports(path)
        if name.split(".")[0] in above
    ]
    assert not offenders


def test_flax_stays_in_models():
    offenders = [
        f"{path} imports {name}"
        for path in CORE
        for name in imports(path)
        if name.split(".")[0] == "flax" and name not in FLAX.get(unit(path), set())
    ]
    assert not offenders


def test_data_imports_no_jax():
    offenders = [
        f"{path} imports {name}"
        for path in sources("alignjax/data")
        for name in imports(path)
        if name.split(".")[0] in {"flax", "jax", "jaxlib", "optax", "orbax"}
    ]
    assert not offenders


def test_losses_know_arithmetic_alone():
    """What binds losses to a config, and their command, know more."""
    bind = {"catalogue.py", "__main__.py"}
    offenders = [
        f"{path} imports {name}"
        for path in sources("alignjax/losses")
        for name in imports(path)
        if path.name not in bind
        and name.startswith(("alignjax.config", "alignjax.errors"))
    ]
    assert not offenders


def test_public_apis_of_jax_only():
    offenders = []
    for path in CORE:
        names = [n.attr for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute)]
        if "_src" in names or any("._src" in name for name in imports(path)):
            offenders.append(str(path))
    assert not offenders


def packages(path, nodes=None):
    """The installable packages that a file, or some statements of it, imports."""
    ours = set(sys.stdlib_module_names) | {"alignjax"}
    tops = {name.split(".")[0] for name in imports(path, nodes)} - ours
    return {DISTRIBUTIONS.get(top, top).replace("_", "-") for top in tops}


def test_every_import_is_declared():
    """At the top of a file only what the core installs, inside functions extras too."""
    core, extras = declared()
    offenders = []
    for path in CORE:
        undeclared = packages(path, tree(path).body) - core
        undeclared |= packages(path) - core - extras
        offenders += [f"{path} imports {package}" for package in sorted(undeclared)]
    assert not offenders


def test_every_package_of_the_core_is_imported():
    core, _ = declared()
    through_others = {"array-record", "importlib-resources"}
    assert core - through_others == core & set.union(*map(packages, CORE))


def test_nothing_runs_what_a_file_says():
    offenders = []
    for path in ALL:
        tops = {name.split(".")[0] for name in imports(path)}
        offenders += [f"{path}: {name}" for name in tops & FORBIDDEN_MODULES]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                called = {getattr(node.func, "id", None)} & FORBIDDEN_CALLS
                options = {keyword.arg for keyword in node.keywords}
                called |= options & FORBIDDEN_OPTIONS
                offenders += [f"{path}:{node.lineno}: {name}" for name in called]
    assert not offenders


def test_every_file_says_what_it_is_for():
    offenders = []
    for path in ALL:
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        if lines[:1] != ["# SPDX-License-Identifier: Apache-2.0"]:
            offenders.append(f"{path}: no licence in its first line")
        if len((ast.get_docstring(tree(path)) or "").strip(". ")) < 10:
            offenders.append(f"{path}: no docstring")
        if path.stem in {"common", "helpers", "misc", "util", "utils"}:
            offenders.append(f"{path}: a name that says nothing")
        if len(lines) > 500:
            warnings.warn(
                f"{path} has {len(lines)} lines: is there a second idea?", stacklevel=1
            )
    assert not offenders


def python(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_files_of_tests_have_names_of_their_own():
    """Else pytest, which imports them by name, collects only the first."""
    names = collections.Counter(x.name for x in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_importing_the_package_takes_no_time_and_no_jax():
    result = python(
        "import sys, time\n"
        "began = time.perf_counter()\n"
        "import alignjax\n"
        "assert time.perf_counter() - began < 1\n"
        "assert 'jax' not in sys.modules\n"
    )
    assert result.returncode == 0, result.stderr


IMPORT_ALL = """
import importlib, pkgutil, {package} as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
"""


def test_importing_any_module_touches_no_device():
    """There is no such platform, so that asking for a device would fail."""
    program = IMPORT_ALL.format(package="alignjax")
    result = python(program, JAX_PLATFORMS="no_such_platform")
    assert result.returncode == 0, result.stderr
    touch = "import jax; jax.devices()"
    assert python(touch, JAX_PLATFORMS="no_such_platform").returncode != 0


def test_the_workers_of_data_load_no_jax():
    program = IMPORT_ALL.format(package="alignjax.data")
    program += "import sys; assert 'jax' not in sys.modules\n"
    result = python(program)
    assert result.returncode == 0, result.stderr
