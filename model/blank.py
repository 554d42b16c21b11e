"""A prompt with a blank in it, `<mask>`, and the whole words of a vocabulary that may stand there. No torch."""

from dataclasses import dataclass

from model.errors import ModelError
from model.prepare import Preparer

MASK = "<mask>"


@dataclass(frozen=True, slots=True)
class Blank:
    """What is asked of the MLM head: the `words` likeliest for the `<mask>` of a prompt."""

    prompt: str
    words: int

    def tokens(self, preparer: Preparer) -> tuple[list[int], int]:
        """The prompt's token ids, and which of them is the mask.

        Raises:
            ModelError: to this checkpoint's tokenizer it has no mask, or several, or it is too long.
        """
        mask = preparer.token(MASK)
        ((ids, cut),) = preparer.captions([self.prompt])
        if cut or ids.count(mask) != 1:
            why = f"is cut to {preparer.max_tokens} tokens" if cut else f"has {ids.count(mask)} masks"
            raise ModelError(f"the prompt {self.prompt!r} {why}, which must be whole and have {MASK} once")
        return ids, ids.index(mask)


def whole_words(preparer: Preparer) -> dict[str, list[int]]:
    """Words of two letters or more, in lower case -> the tokens that spell them, whatever the case.

    Raises:
        ModelError: the vocabulary has none.
    """
    words: dict[str, list[int]] = {}
    for token in preparer.tokens:
        text = preparer.text([token])  # with its blank before it, which tells the start of a word
        if len(text) > 2 and text[0] == " " and text[1:].isalpha():
            words.setdefault(text[1:].lower(), []).append(token)
    if not words:
        raise ModelError("the checkpoint's vocabulary has no whole words")
    return words
