# SPDX-License-Identifier: Apache-2.0
"""Rules of format as data: what an answer must look like, whatever its language.

    {"rule": "words", "least": 10, "most": 50}
    {"rule": "starts", "text": "Dear"}
    {"rule": "json", "keys": ["name"]}

words, lines, paragraphs, bullets and characters are counted, from `least` to `most`;
starts, ends, contains and lacks look for a `text` without regard to case; json is a
JSON value, with keys an object that has them; case is `to` "lower" or "upper". Spaces
part words, empty lines paragraphs; a bullet is a line that begins with -, *, a dot in
the middle or a number and a dot. Space around an answer does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from alignjax import bounds, config, errors, registry
from alignjax.storage import json_files

_FENCE = "```"
_BULLETS = ("- ", "* ", "\u2022")


def follows(text: str, rules: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether an answer follows each of the rules.

    Raises:
      ConfigError: as `check`.
    """
    text = text.strip()
    return [
        config.call(RULES[rule["rule"]], _options(rule), "", text) for rule in rules
    ]


def check(rules: Any, path: str) -> None:
    """Raises ConfigError, which names the field `path`, for what are no rules."""
    if not isinstance(rules, (list, tuple)) or not rules:
        raise errors.ConfigError(f"{path}: {rules!r:.60} is no list of rules; give one")
    for i, rule in enumerate(rules):
        where = f"{path}[{i}]"
        if not isinstance(rule, Mapping) or not isinstance(rule.get("rule"), str):
            raise errors.ConfigError(f'{where}: {rule!r:.60} is no {{"rule": NAME}}')
        if rule["rule"] not in RULES:  # names of functions are for configs, not data
            remedy = registry.closest(rule["rule"][:80], RULES)
            raise errors.ConfigError(f"{where}: no rule {rule['rule']!r:.80}; {remedy}")
        fields = config.fields(RULES[rule["rule"]], 1)
        values = config.fill(fields, _options(rule), where)
        least, most = values.get("least") or 0, values.get("most")
        if most is not None and most < least:
            raise errors.ConfigError(f"{where}: least {least} is above most {most}")


def _options(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rule.items() if name != "rule"}


def _counted(count: Callable[[str], int]) -> Callable[..., bool]:
    def within(
        text: str, least: bounds.CountOrZero = 0, most: bounds.CountOrZero | None = None
    ) -> bool:
        return least <= (number := count(text)) and (most is None or number <= most)

    return within


def _paragraphs(text: str) -> int:
    filled = [bool(line.strip()) for line in text.splitlines()]
    pairs = zip([False, *filled], filled, strict=False)
    return sum(now and not before for before, now in pairs)


def _is_bullet(line: str) -> bool:
    number, dot, rest = line.strip().partition(".")
    numbered = number.isdecimal() and dot and rest.startswith(" ")
    return bool(numbered) or line.strip().startswith(_BULLETS)


def _starts(answer: str, text: str) -> bool:
    return answer.casefold().startswith(text.casefold())


def _ends(answer: str, text: str) -> bool:
    return answer.casefold().endswith(text.casefold())


def _contains(answer: str, text: str) -> bool:
    return text.casefold() in answer.casefold()


def _lacks(answer: str, text: str) -> bool:
    return not _contains(answer, text)


def _case(answer: str, to: Literal["lower", "upper"]) -> bool:
    return answer == (answer.lower() if to == "lower" else answer.upper())


def _json(answer: str, keys: tuple[str, ...] | None = None) -> bool:
    """Also inside of one fence, which models like to write around it."""
    head, newline, rest = answer.partition("\n")
    if head.startswith(_FENCE) and newline and rest.endswith(_FENCE):
        answer = rest.removesuffix(_FENCE)
    try:
        value = json_files.parse(answer, "answer", object if keys is None else dict)
    except errors.DataError:
        return False
    return keys is None or set(keys) <= set(value)


RULES: dict[str, Callable[..., bool]] = {
    "words": _counted(lambda text: len(text.split())),
    "lines": _counted(lambda text: len(text.splitlines())),
    "paragraphs": _counted(_paragraphs),
    "bullets": _counted(lambda text: sum(map(_is_bullet, text.splitlines()))),
    "characters": _counted(len),
    "starts": _starts,
    "ends": _ends,
    "contains": _contains,
    "lacks": _lacks,
    "case": _case,
    "json": _json,
}
