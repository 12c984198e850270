# SPDX-License-Identifier: Apache-2.0
"""The prompts of a suite as a file, for who judges answers to them.

JSON lines, one a prompt in the order of the rows' `prompt`: its `turns`, and whatever
decides its scores. `rows.digest_of` them is the `suite_digest` of the rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from alignjax import errors
from alignjax.data import messages, records, sources
from alignjax.evals import rows
from alignjax.storage import atomic


def write(path: str | os.PathLike, prompts: Sequence[Mapping[str, Any]]) -> None:
    """Writes the prompts of a suite, each with its `turns`."""
    lines = (json.dumps(prompt, ensure_ascii=False) for prompt in prompts)
    atomic.write(path, "".join(f"{line}\n" for line in lines))


def read(path: str | os.PathLike, digest: str) -> list[dict[str, Any]]:
    """The prompts of the suite that has this digest.

    Raises:
      DataError: no such file; by file and line, a prompt without turns; or prompts of
        another suite.
    """
    prompts = []
    for where, prompt in sources.rows(os.fspath(path)):
        if isinstance(prompt, records.BadRow):
            raise errors.DataError(f"{where}: {prompt.reason}")
        turns = prompt.get("turns")
        try:
            messages.chat(turns, "turns")
        except errors.DataError as error:
            raise errors.DataError(f"{where}: {error}") from error
        prompts.append(prompt)
    if (actual := rows.digest_of(prompts)) != digest:
        raise errors.DataError(
            f"{path}: prompts of the suite {actual:.8}, and the answers are to "
            f"{digest:.8}; give the file of their own suite"
        )
    return prompts
