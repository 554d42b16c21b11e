"""DataFusion's words for things -> the user's."""

import re

from pipeline.stores.storage import redact

_LONGEST = 600
_UNNAMED = "?table?"  # a table without a name, as a search's rows are
_LAYERS = re.compile(  # through which an error came; none of them is the user's
    r"(?:DataFusion|SQL|Schema|Arrow|External|FFI|Internal|Execution|Compute|Query Execution|Invalid argument) error: "
    r"|Error during planning: |Error applying filter expression to batch: |Optimizer rule '\w+' failed|caused by$"
    r"|This issue was likely caused by a bug in DataFusion's code\.[^\n]*?/issues\."
    r"|This feature is not implemented: |Invalid user input: |^type_coercion$|^resolve_grouping_function$",
    re.MULTILINE | re.IGNORECASE,
)
_TEXT = re.compile(r"\b(?:Large)?Utf8(?:View)?\(\"(.*?)\"\)", re.DOTALL)
_TYPED = re.compile(r"\b(?:(?:Large)?Utf8(?:View)?|U?Int(?:8|16|32|64)|Float(?:16|32|64)|Boolean)\(([^()]*)\)")
_FUNCTION_ROWS = re.compile(r'"?\b\w+\(\)"?\.')
_IN_LIBRARY = re.compile(r",? (?:/|[A-Za-z]:\\)\S*\.rs:\d+(?::\d+)?")


def expression(text: str) -> str:
    """An expression as a person may write it: no types on literals, no placeholder's name on columns."""
    return _FUNCTION_ROWS.sub("", _TYPED.sub(r"\1", _TEXT.sub(r"'\1'", text))).replace("datafusion.public.", "")


def reason(said: str) -> str:
    """What an error says, in one line."""
    text = expression(_LAYERS.sub("", _IN_LIBRARY.sub("", redact(said))))
    line = "; ".join(part.strip() for part in text.split("\n") if part.strip()) or "DataFusion gave no reason"
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def plan(text: str) -> str:
    """A plan as EXPLAIN gives it, with a search's rows called hits, and no secrets."""
    return redact(text.replace(_UNNAMED, "hits"))
