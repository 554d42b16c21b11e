"""What may be asked of the embedding of millions of pairs: words for each picture, and to be compiled. No torch."""

from dataclasses import dataclass

from model.blank import Blank


@dataclass(frozen=True, slots=True)
class Extras:
    """`blank`: for which the MLM head tells words of each picture; None leaves that head out."""

    blank: Blank | None = None
    compile: str = "auto"  # on, off, or auto: on GPUs alone; on a CPU layers are then not packed, which may cost more

    def compiles(self, device: str) -> bool:
        """Whether the stages are compiled on this device, "cpu" or "cuda"."""
        return self.compile == "on" or (self.compile == "auto" and device == "cuda")
