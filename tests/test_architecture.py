# SPDX-License-Identifier: Apache-2.0
"""What may import what, read from the source; and what every file must have.

A module imports from levels below its own, and inside its level where an arrow says so.
A new module of `alignjax` is given its place in LEVELS first.
"""

import ast
import functools
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "alignjax"

LEVELS = [
    {"exit_codes", "journal", "progress", "registry", "throughput", "trees", "types"},
    {"bounds", "config", "interruption", "losses", "placing", "sharding", "watchdog"},
    {"data", "models", "optim", "schedules", "writer"},
    {"checkpoint", "huggingface", "moving", "objectives", "sampling", "state"},
    {"commands", "evaluate", "sections", "start", "step"},
    {"experiment"},
    {"parameters", "reference"},
    {"loop"},
    {"assessment", "collect", "generate", "report", "train"},
]
ARROWS = {
    ("bounds", "config"),
    ("checkpoint", "huggingface"),
    ("checkpoint", "objectives"),
    ("checkpoint", "sampling"),
    ("collect", "assessment"),
    ("losses", "bounds"),
    ("losses", "config"),
    ("optim", "schedules"),
    ("reference", "parameters"),
    ("report", "assessment"),
    ("sharding", "config"),
}
# These know less than their level would let them.
ONLY = {
    "data": {"config", "exit_codes", "registry"},
    "evaluate": {"types"},
    "losses": {"bounds", "config", "registry", "types"},
    "step": {"moving", "trees", "types"},
}
# Flax's modules stay in models/; elsewhere it gives one helper each.
FLAX = {
    "models": {"flax.linen"},
    "sharding": {"flax.linen"},  # from names of axes to a mesh
    "state": {"flax.linen"},  # unboxing
    "types": {"flax.struct"},
}
# The package that a module comes from, where it is not called the same.
DISTRIBUTIONS = {"absl": "absl-py", "orbax": "orbax-checkpoint"}
# They need an extra as a whole, and are imported inside functions.
OF_EXTRAS = {"alignjax.data.chat.sandbox"}
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


@pytest.mark.parametrize("path", CORE, ids=str)
def test_imports_go_down(path):
    if path == pathlib.Path("alignjax/__init__.py"):
        assert list(imports(path)) == []
        return
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    here = unit(path)
    assert here in level, f"give {here} a place in LEVELS"
    for name in imports(path):
        if not name.startswith("alignjax."):
            continue
        there = name.split(".")[1]
        down = level[there] < level[here] or (here, there) in ARROWS
        allowed = there in ONLY[here] if here in ONLY else down
        assert there == here or allowed, f"{path} imports {there}"


def test_the_arrows_are_no_cycle():
    assert not any((there, here) in ARROWS for here, there in ARROWS)


@pytest.mark.parametrize("path", CORE, ids=str)
def test_core_knows_nothing_of_what_stands_on_it(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops.isdisjoint({"configs", "experiments", "tests", "tools"})


@pytest.mark.parametrize("path", CORE, ids=str)
def test_flax_stays_in_models(path):
    used = {name for name in imports(path) if name.split(".")[0] == "flax"}
    assert used <= FLAX.get(unit(path), set())


@pytest.mark.parametrize("path", sources("alignjax/data"), ids=str)
def test_data_imports_no_jax(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops.isdisjoint({"flax", "jax", "jaxlib", "optax", "orbax"})


@pytest.mark.parametrize("path", CORE, ids=str)
def test_public_apis_of_jax_only(path):
    assert not any("._src" in name for name in imports(path))
    attributes = [n.attr for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute)]
    assert "_src" not in attributes


def packages(path, nodes=None):
    """The installable packages that a file, or some statements of it, imports."""
    ours = set(sys.stdlib_module_names) | {"alignjax"}
    tops = {name.split(".")[0] for name in imports(path, nodes)} - ours
    return {DISTRIBUTIONS.get(top, top).replace("_", "-") for top in tops}


@pytest.mark.parametrize("path", CORE, ids=str)
def test_every_import_is_declared(path):
    """At the top of a file only what the core installs, inside functions extras too."""
    core, extras = declared()
    name = ".".join(path.with_suffix("").parts)
    top = core | extras if name in OF_EXTRAS else core
    assert packages(path, tree(path).body) <= top
    assert packages(path) <= core | extras
    assert OF_EXTRAS.isdisjoint(imports(path, tree(path).body))


def test_every_package_of_the_core_is_imported():
    core, _ = declared()
    through_others = {"array-record", "importlib-resources"}
    assert core - through_others == core & set.union(*map(packages, CORE))


@pytest.mark.parametrize("path", ALL, ids=str)
def test_nothing_runs_what_a_file_says(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops.isdisjoint(FORBIDDEN_MODULES)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", None)
            options = {keyword.arg for keyword in node.keywords}
            assert called not in FORBIDDEN_CALLS, f"{path}:{node.lineno}"
            assert options.isdisjoint(FORBIDDEN_OPTIONS), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", ALL, ids=str)
def test_every_file_says_what_it_is_for_and_is_short(path):
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    assert lines[:1] == ["# SPDX-License-Identifier: Apache-2.0"]
    assert ast.get_docstring(tree(path)), f"{path} has no docstring"
    assert len(lines) <= 400, f"{path} has {len(lines)} lines; find the second idea"
    assert path.stem not in {"common", "helpers", "misc", "util", "utils"}


def python(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


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
