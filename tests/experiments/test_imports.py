# SPDX-License-Identifier: Apache-2.0
"""Experiments stand on what the package offers to anybody, and on themselves."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(p.relative_to(ROOT) for p in (ROOT / "experiments").rglob("*.py"))
OPEN = {"alignjax", "configs", "experiments"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_what_is_public_is_used(path):
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        first, *rest = name.split(".")
        assert first != "tests" and not any(x.startswith("_") for x in rest), name
        if first == "experiments":  # what two of them need moves into the package
            assert rest[0] == path.parts[1], f"{path} imports {name}"
        if name.startswith("alignjax"):
            module = ROOT.joinpath(*name.split("."))
            assert (
                module.is_dir()
                or module.with_suffix(".py").exists()
                or (module.parent.with_suffix(".py").exists())
            ), name
    # Nor an attribute of one of these modules that is its own affair.
    ours = {name.split(".")[-1] for name in names if name.split(".")[0] in OPEN}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and node.value.id in ours
            assert not private, f"{path}:{node.lineno}: {node.value.id}.{node.attr}"


@pytest.mark.parametrize(
    "folder", sorted((ROOT / "experiments").glob("*/")), ids=lambda p: p.name
)
def test_every_question_has_an_answer_that_can_be_had_again(folder):
    if folder.name.startswith("__"):
        return
    text = (folder / "README.md").read_text()
    for word in ("Asked", "Command", "Came of it"):
        assert f"## {word}" in text, f"{folder.name}/README.md has no part {word!r}"
