# SPDX-License-Identifier: Apache-2.0
"""Whether a name that stands in somebody's file may become the name of a file here."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

MAX_BYTES = 255  # of a name, on the common file systems
# Separators and what marks a drive, with characters that are drawn like a separator
# and that NFKC leaves as they are: fraction and division slash, set minus, big solidus,
# reverse solidus operator, big reverse solidus.
_SEPARATORS = frozenset("/\\:\u2044\u2215\u2216\u29f5\u29f8\u29f9")


def is_plain(name: Any) -> bool:
    """Whether `name` names a file in whichever folder it is joined to, and no other.

    A plain name is text of 1 to 255 bytes in UTF-8 without separators, drives, NUL and
    other control characters, also once compatibility characters are normalized (NFKC),
    as some file systems do; and it is neither "." nor "..".
    """
    if not isinstance(name, str):
        return False
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False
    normal = unicodedata.normalize("NFKC", name)
    return (
        0 < size <= MAX_BYTES
        and normal not in (".", "..")
        and not any(
            c in _SEPARATORS or unicodedata.category(c) in ("Cc", "Cf") for c in normal
        )
    )


def not_plain(names: Iterable[Any]) -> list[str]:
    """Those of `names` that are not plain, as an error message shows them."""
    return [repr(name)[:80] for name in names if not is_plain(name)]
