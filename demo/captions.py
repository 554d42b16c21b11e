"""Claims -> words: paraphrases, vaguer captions, and claims altered in one thing."""

from dataclasses import replace
from typing import Literal

import numpy as np

from demo.scenes import COLOURS, INVERSE, SHAPES, SIZES, Claim, Thing

Alteration = Literal["colours", "shapes", "relation", "word"]
SWAPS: tuple[Alteration, ...] = ("colours", "shapes", "relation")

PREFIXES = ("", "", "", "", "there is ", "a picture of ", "you can see ")
PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
}
SYNONYMS = {"small": "little", "large": "big"}


def words() -> list[str]:
    """Every word that a caption can have, in a fixed order."""
    phrases = [text for group in PHRASES.values() for text in group]
    texts = [*PREFIXES, *phrases, *COLOURS, *SHAPES, *SIZES, *SYNONYMS.values(), "a", "an", "the", "is"]
    found = {word for text in texts for word in text.split()}
    return sorted(found | {_capital(word) for word in found})


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _one_in(n: int, rng: np.random.Generator) -> bool:
    return int(rng.integers(n)) == 0


def _noun(thing: Thing, article: str, rng: np.random.Generator) -> str:
    size = SYNONYMS[thing.size] if thing.size and _one_in(8, rng) else thing.size
    described = " ".join(word for word in (size, thing.colour, thing.shape) if word)
    if article == "a" and described[0] in "aeiou":
        article = "an"
    return f"{article} {described}".strip()


def phrase(claim: Claim, rng: np.random.Generator) -> str:
    """One of the many ways to say `claim`, its objects in the order they stand in."""
    bare = _one_in(8, rng)
    prefix = "" if bare else PREFIXES[int(rng.integers(len(PREFIXES)))]
    said = _said(claim, prefix, bare, rng)
    return _capital(said) + "." if _one_in(8, rng) else said


def _said(claim: Claim, prefix: str, bare: bool, rng: np.random.Generator) -> str:
    if claim.second is None:
        return prefix + _noun(claim.first, "" if bare else "a", rng)
    options = PHRASES[claim.relation]
    relation = options[int(rng.integers(len(options)))]
    sentence = not bare and not prefix and _one_in(3, rng)
    article = "" if bare else "the" if sentence else "a"
    verb = " is " if sentence else " "
    return f"{prefix}{_noun(claim.first, article, rng)}{verb}{relation} {_noun(claim.second, article, rng)}"


def reordered(claim: Claim, percent_canonical: int, rng: np.random.Generator) -> Claim:
    """The canonical `claim` as it is in so many cases of a hundred, else with the other object first."""
    return claim if int(rng.integers(100)) < percent_canonical else claim.inverse


def vaguer(claim: Claim, rng: np.random.Generator) -> Claim:
    """The same claim, in every fourth case without the sizes or, rarely, about one object alone."""
    roll = int(rng.integers(100))
    if roll < 75 or claim.second is None:
        return claim
    first, second = replace(claim.first, size=""), replace(claim.second, size="")
    if roll < 92:
        return Claim(first, claim.relation, second)
    one = (claim.first, claim.second)[int(rng.integers(2))]
    return Claim(replace(one, size="") if _one_in(2, rng) else one)


def _another(now: str, choices: tuple[str, ...], rng: np.random.Generator) -> str:
    left = [choice for choice in choices if choice != now]
    return left[int(rng.integers(len(left)))]


def _reworded(thing: Thing, rng: np.random.Generator) -> Thing:
    """`thing` with another colour, shape or (if it is said) size."""
    attribute = int(rng.integers(5 if thing.size else 4))
    if attribute < 2:
        return replace(thing, colour=_another(thing.colour, tuple(COLOURS), rng))
    if attribute < 4:
        return replace(thing, shape=_another(thing.shape, SHAPES, rng))
    return replace(thing, size=_another(thing.size, tuple(SIZES), rng))


def altered(claim: Claim, how: Alteration, rng: np.random.Generator) -> Claim:
    """The claim with one thing changed.

    With "colours" or "shapes" the two objects swap them; with "relation" the objects change places;
    with "word" one object has another colour, shape or size. The result can be the same claim, or
    still be true, when the objects are alike: ask `is_true`.
    """
    first, second = claim.first, claim.second
    if second is None:
        return Claim(_reworded(first, rng))
    if how == "colours":
        return Claim(replace(first, colour=second.colour), claim.relation, replace(second, colour=first.colour))
    if how == "shapes":
        return Claim(replace(first, shape=second.shape), claim.relation, replace(second, shape=first.shape))
    if how == "relation":
        # Said in the same order of words as a true claim would be: "right of" alone must not tell.
        return Claim(second, claim.relation, first)
    if _one_in(2, rng):
        return Claim(_reworded(first, rng), claim.relation, second)
    return Claim(first, claim.relation, _reworded(second, rng))


def mirrored(claim: Claim) -> Claim:
    """What is true of the picture flipped left to right."""
    if claim.relation in ("left of", "right of"):
        return replace(claim, relation=INVERSE[claim.relation])
    return claim
