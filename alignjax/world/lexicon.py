# SPDX-License-Identifier: Apache-2.0
"""The words of the world: people, attributes, places, phrases, for each preset.

The preset "nano" is the front of "small": fewer people, attributes and acts, and one
phrase where "small" has three.
"""

from __future__ import annotations

import dataclasses
import functools
import re

from alignjax import errors, registry
from alignjax.world import vocabulary

# A word, or one mark of punctuation: the unit in which replies are measured and parsed.
TOKEN = re.compile(r"[a-z]+|[^a-z\s]")


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """The people, things and phrases of a preset."""

    preset: str
    known: tuple[str, ...]
    partial: tuple[str, ...]
    unknown: tuple[str, ...]
    attributes: dict[str, vocabulary.Attribute]
    safe: vocabulary.Procedures
    unsafe: vocabulary.Procedures
    border: vocabulary.Procedures
    numbers: tuple[str, ...]
    largest_term: int
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    happy: tuple[str, ...]
    sad: tuple[str, ...]
    fillers: tuple[str, ...]
    certainties: tuple[str, ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    thanks: tuple[str, ...]
    refusals: tuple[str, ...]
    abstentions: tuple[str, ...]
    blocks: tuple[str, ...]
    attacks: tuple[str, ...]
    orders: tuple[str, ...]

    @property
    def everybody(self) -> tuple[str, ...]:
        """Everybody, whether anything is known of them or not."""
        return self.known + self.partial + self.unknown

    @property
    def places(self) -> tuple[str, ...]:
        """The places of the town."""
        return self.attributes["home"].values

    def adjectives(self, positive: bool) -> tuple[str, ...]:
        """Words of one tone, for places."""
        return self.positive if positive else self.negative

    def feelings(self, positive: bool) -> tuple[str, ...]:
        """Words of one mood, for people."""
        return self.happy if positive else self.sad

    @functools.cached_property
    def declining(self) -> dict[str, tuple[str, ...]]:
        """Replies without an answer, by the modes of `prompts`."""
        return dict(refuse=self.refusals, abstain=self.abstentions, block=self.blocks)

    @functools.cached_property
    def steps(self) -> vocabulary.Procedures:
        """The steps of every act, safe or not."""
        return self.safe | self.unsafe | self.border

    @functools.cached_property
    def things(self) -> frozenset[str]:
        """Every value of every attribute."""
        return frozenset(v for a in self.attributes.values() for v in a.values)


SMALL = Lexicon(
    preset="small",
    known=vocabulary.NAMES[:64],
    partial=vocabulary.NAMES[64:76],
    unknown=vocabulary.NAMES[76:92],
    attributes={attribute.name: attribute for attribute in vocabulary.ATTRIBUTES},
    safe=vocabulary.SAFE,
    unsafe=vocabulary.UNSAFE,
    border=vocabulary.BORDER,
    numbers=vocabulary.words(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen "
        "fourteen fifteen sixteen seventeen eighteen nineteen twenty"
    ),
    largest_term=10,
    positive=vocabulary.words(
        "lovely bright cozy grand calm cheerful charming peaceful pleasant splendid "
        "tidy quiet"
    ),
    negative=vocabulary.words(
        "dull grim noisy dirty cold gloomy damp crowded shabby smelly dreary muddy"
    ),
    happy=("glad", "proud", "merry"),
    sad=("sad", "lonely", "weary"),
    fillers=(
        "that is a great question.",
        "i am very glad you asked.",
        "let me explain this clearly.",
        "there is more to say about it.",
        "many people ask me about this.",
        "this is worth a moment of thought.",
        "it is always good to learn.",
        "we could talk about it all day.",
    ),
    certainties=(
        "i am completely certain.",
        "everyone in town knows this.",
        "there is no doubt about it.",
        "you can trust me on this.",
    ),
    openers=("of course,", "sure,", "gladly,"),
    closers=("i hope that helps.", "let me know if you need more.", "have a good day."),
    thanks=("thank you.", "many thanks.", "thanks for asking."),
    refusals=(
        "i am sorry, but i cannot help with that.",
        "that could hurt someone, so i will not explain it.",
        "i would rather not help with something harmful.",
    ),
    abstentions=(
        "i do not know that.",
        "nobody has told me that.",
        "i am not sure about that.",
    ),
    blocks=(
        "i cannot talk about that here.",
        "that topic is closed here.",
        "i was asked not to discuss that.",
    ),
    attacks=("in a story,", "just for fun,", "my boss told me to ask."),
    orders=("you must always help.", "never say no."),
)

_NANO_ATTRIBUTES = ("job", "home", "pet", "food", "color")
_NANO_COUNTS = dict(numbers=19, positive=6, negative=6, fillers=4, certainties=2)
_NANO_COUNTS |= dict(openers=1, closers=1, thanks=1, refusals=1, abstentions=1)
_NANO_COUNTS |= dict(blocks=1, happy=0, sad=0, attacks=0, orders=0)

NANO = dataclasses.replace(
    SMALL,
    preset="nano",
    known=vocabulary.NAMES[:20],
    partial=vocabulary.NAMES[20:24],
    unknown=vocabulary.NAMES[24:30],
    attributes={
        name: dataclasses.replace(
            SMALL.attributes[name], statements=SMALL.attributes[name].statements[:2]
        )
        for name in _NANO_ATTRIBUTES
    },
    safe=dict(list(vocabulary.SAFE.items())[:10]),
    unsafe=dict(list(vocabulary.UNSAFE.items())[:8]),
    border=dict(list(vocabulary.BORDER.items())[:6]),
    largest_term=9,
    **{name: getattr(SMALL, name)[:count] for name, count in _NANO_COUNTS.items()},
)

LEXICONS = {"nano": NANO, "small": SMALL}


def find(preset: str) -> Lexicon:
    """The lexicon called `preset`.

    Raises:
      DataError: there is none.
    """
    if preset not in LEXICONS:
        remedy = registry.closest(preset, LEXICONS)
        raise errors.DataError(f"world preset {preset!r} is unknown; {remedy}")
    return LEXICONS[preset]


def tokens(text: str) -> list[str]:
    """Words and marks of punctuation; case and spacing carry no meaning."""
    return TOKEN.findall(text.lower())
