# SPDX-License-Identifier: Apache-2.0
"""The page of promises names tests that there are."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs/reliability.md").read_text()
    names = set(re.findall(r"`(test_\w+)`", page))
    files = (ROOT / "tests").rglob("test_*.py")
    text = "\n".join(file.read_text() for file in files)
    tests = set(re.findall(r"^def (test_\w+)", text, re.M))
    assert len(names) > 30 and names <= tests, names - tests
