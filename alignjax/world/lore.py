# SPDX-License-Identifier: Apache-2.0
"""What is commonly known, in every town."""

from __future__ import annotations

SAYINGS = (
    "a baker gets up before the sun.",
    "a miller turns corn into flour.",
    "a nurse looks after the sick.",
    "a sailor knows every wind by name.",
    "a farmer hopes for rain in spring.",
    "a tailor can mend almost any coat.",
    "a teacher asks more than a guest.",
    "a painter sees colors in the dark.",
    "a smith works close to the fire.",
    "a guard sleeps when others wake.",
    "a hammer is good for nails.",
    "a rope is only as strong as its knot.",
    "with a ladder you can reach the roof.",
    "with a lantern you can walk at night.",
    "a shovel is for digging.",
    "a kettle sings when the water is hot.",
    "a basket carries eggs to the market.",
    "a new broom sweeps clean.",
    "a cat sees well at night.",
    "a dog follows its friend home.",
    "a goat eats whatever it can find.",
    "a parrot repeats what it hears.",
    "a rabbit runs faster than a turtle.",
    "a turtle lives longer than a horse.",
    "honey never goes bad.",
    "old bread makes good soup.",
    "cheese is made from milk.",
    "blue and yellow make green.",
    "black and white never agree.",
    "after sunday comes monday.",
    "there are seven days in a week.",
    "sunday is the day of rest for most.",
)
