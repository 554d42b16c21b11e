"""What a check found: what was looked at, what is wrong, what is only doubtful, what was mended."""

from dataclasses import asdict, dataclass, field
from typing import Any

_SHOWN = 20  # of each kind


@dataclass(slots=True)
class Finding:
    """How often one kind of thing was found, and the first of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, text: str, count: int) -> None:
        """One more line, which stands for `count` of them."""
        self.count += count
        if len(self.examples) < _SHOWN:
            self.examples.append(text)

    def lines(self, word: str, kind: str) -> list[str]:
        """One line an example, and what was left out."""
        left = self.count - len(self.examples)
        more = [f"{word}: {kind}: and more, {self.count} in all"] if left > 0 and len(self.examples) == _SHOWN else []
        return [f"{word}: {kind}: {text}" for text in self.examples] + more


@dataclass(slots=True)
class Findings:
    """All that a check has to say. Memory does not grow with what is wrong."""

    checked: dict[str, int] = field(default_factory=dict)  # what -> how many were looked at
    problems: dict[str, Finding] = field(default_factory=dict)  # kind -> what breaks the promise
    warnings: dict[str, Finding] = field(default_factory=dict)  # kind -> what does not
    mended: list[str] = field(default_factory=list)
    version: int = 0  # of the table that was looked at

    def problem(self, kind: str, text: str, count: int = 1) -> None:
        """Something that must not be."""
        self.problems.setdefault(kind, Finding()).add(text, count)

    def warn(self, kind: str, text: str, count: int = 1) -> None:
        """Something that a person should know, and that harms nothing."""
        self.warnings.setdefault(kind, Finding()).add(text, count)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def lines(self) -> list[str]:
        """As a person reads it."""
        looked = ", ".join(f"{count} {what}" for what, count in self.checked.items())
        lines = [f"mended: {text}" for text in self.mended]
        for kind, found in self.warnings.items():
            lines += found.lines("note", kind)
        for kind, found in self.problems.items():
            lines += found.lines("wrong", kind)
        return [*lines, f"checked {looked}: {'all holds' if self.ok else self._counts()}"]

    def _counts(self) -> str:
        return "wrong are " + ", ".join(f"{kind} {found.count}" for kind, found in self.problems.items())

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"ok": self.ok, **asdict(self)}
