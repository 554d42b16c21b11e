"""What the command lines have in common."""


def listed(text: str) -> tuple[str, ...]:
    """The parts of an option with commas in it."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
