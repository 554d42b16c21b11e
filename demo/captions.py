"""Claims -> words: paraphrases, vaguer captions, and claims altered in one thing."""

from dataclasses import replace
from typing import Literal

import numpy as np

from demo.scenes import COLOURS, INVERSE, SHAPES, SIZES, Claim, Scene, Thing

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
JOINING = ("and", "with")  # said of three objects alone


def words() -> list[str]:
    """Every word that a caption of two objects can have, in a fixed order; JOINING are the others."""
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
    one_shape = claim.third and claim.first.shape not in (claim.second.shape, claim.third.shape)
    if one_shape and not bare and _one_in(2, rng):  # "the star" can be no other
        return prefix + _with_third(claim, rng)
    relation = _relation(claim.relation, rng)
    sentence = not bare and not prefix and _one_in(3, rng)
    article = "" if bare else "the" if sentence else "a"
    verb = " is " if sentence else " "
    said = f"{prefix}{_noun(claim.first, article, rng)}{verb}{relation} {_noun(claim.second, article, rng)}"
    if not claim.third:
        return said
    # "above a star and a ring", where both are below.
    also = "" if claim.also == claim.relation and _one_in(2, rng) else _relation(claim.also, rng) + " "
    return f"{said} and {also}{_noun(claim.third, article, rng)}"


def _relation(relation: str, rng: np.random.Generator) -> str:
    options = PHRASES[relation]
    return options[int(rng.integers(len(options)))]


def _with_third(claim: Claim, rng: np.random.Generator) -> str:
    """Both other objects as seen from the first: "a ring above a star, with a heart to the right of the star"."""
    first, second, third = (_noun(thing, "a", rng) for thing in claim.things)
    relation, also = _relation(INVERSE[claim.relation], rng), _relation(INVERSE[claim.also], rng)
    return f"{second} {relation} {first}, with {third} {also} the {claim.first.shape}"


def told(scene: Scene, rng: np.random.Generator) -> Claim:
    """What a caption in full may say of the scene: of three objects, as often of two of them as of all."""
    claims = scene.claims
    return claims[0] if len(claims) == 1 else claims[int(rng.integers(len(claims)))]


def reordered(claim: Claim, percent_canonical: int, rng: np.random.Generator) -> Claim:
    """The canonical `claim` as it is in so many cases of a hundred, else with its objects in the other order."""
    return claim if int(rng.integers(100)) < percent_canonical else claim.inverse


def vaguer(claim: Claim, rng: np.random.Generator) -> Claim:
    """The same claim, in every fourth case without the sizes or, rarely, about one object alone."""
    roll = int(rng.integers(100))
    if roll < 75 or claim.second is None:
        return claim
    if roll < 92:
        return claim.of([replace(thing, size="") for thing in claim.things])
    one = claim.things[int(rng.integers(len(claim.things)))]
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

    With "colours" or "shapes" two objects swap them; with "relation" two objects change places; with
    "word" one object has another colour, shape or size. The result can be the same claim, or still be
    true, when the objects are alike: ask `is_true`.
    """
    things = list(claim.things)
    if len(things) == 1 or how == "word":
        i = int(rng.integers(len(things))) if len(things) > 1 else 0
        things[i] = _reworded(things[i], rng)
        return claim.of(things)
    i, j = (0, 1) if len(things) == 2 else ((0, 1), (0, 2), (1, 2))[int(rng.integers(3))]
    one, other = things[i], things[j]
    if how == "colours":
        one, other = replace(one, colour=other.colour), replace(other, colour=one.colour)
    elif how == "shapes":
        one, other = replace(one, shape=other.shape), replace(other, shape=one.shape)
    else:
        # Said in the same order of words as a true claim would be: "right of" alone must not tell.
        one, other = other, one
    things[i], things[j] = one, other
    return claim.of(things)
