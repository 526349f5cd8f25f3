"""The form of a graph: what goes in and comes out, for which sizes, and in which version of ONNX's operators.

Devices differ in what they take: a camera delivers bytes (B, H, W, 3), a compiler wants fixed sizes, and where only the
classes are wanted nobody needs to carry the logits.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segdistill.config.schema import Size, Strict

OPSET = 20
"""The newest opset that onnxruntime 1.17 of January 2024 reads in full; it refuses IR 10, which opset 21 brought."""
OLDEST_OPSET = 13
MAX_BATCH = 1024
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9}
"""IR version of the ONNX release that brought each opset (onnx, docs/Versioning.md): who reads the opset reads it."""

Returns = Literal["logits", "labels", "both"]
Takes = Literal["float", "uint8"]


class GraphForm(Strict):
    """How a graph takes images and returns what it finds."""

    output: Returns = "logits"
    """Outputs: `logits`, float32 (B, C, H, W); `labels`, uint8 (B, H, W), the class of each pixel, 255 where a network
    with a void output answers that; or both."""
    input: Takes = "float"
    """Images: float32 RGB 0..255 (B, 3, H, W), or uint8 RGB (B, H, W, 3) as cameras deliver them."""
    size: Size | None = None
    """Height and width of a graph of fixed sizes; None takes any."""
    batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] | None = None
    """Images at once of such a graph."""
    opset: Annotated[int, Field(ge=OLDEST_OPSET, le=OPSET)] = OPSET
    """Version of ONNX's operators."""

    @model_validator(mode="after")
    def _fixed_or_not(self) -> Self:
        if (self.size is None) != (self.batch is None):
            raise ValueError("a fixed size comes with a fixed batch")
        return self

    @property
    def is_static(self) -> bool:
        """Whether the sizes are fixed."""
        return self.size is not None

    @property
    def has_logits(self) -> bool:
        """Whether logits are returned."""
        return self.output != "labels"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in order."""
        return ("logits", "labels") if self.output == "both" else (self.output,)

    @property
    def ir_version(self) -> int:
        """IR version of the file."""
        return IR_VERSIONS[self.opset]

    @property
    def suffix(self) -> str:
        """What a file's name says of the form, behind a hyphen each; empty of the usual one."""
        parts: list[str] = []
        if self.output != "logits":
            parts.append(self.output)
        if self.input != "float":
            parts.append(self.input)
        if self.size is not None:
            parts.append(f"{self.batch}x{self.size[0]}x{self.size[1]}")
        if self.opset != OPSET:
            parts.append(f"opset{self.opset}")
        return "".join(f"-{part}" for part in parts)

    def describe(self) -> str:
        """Return the form in a few words, for the title of a table."""
        parts = [f"opset {self.opset}"]
        if self.input != "float":
            parts.append(f"{self.input} images")
        if self.output != "logits":
            parts.append("labels" if self.output == "labels" else "logits and labels")
        if self.size is not None:
            parts.append(f"fixed at {self.batch}x{self.size[0]}x{self.size[1]}")
        return ", ".join(parts)

    def describe_input(self) -> str:
        """Return the input in words, for a graph's metadata."""
        sizes = self._sizes()
        if self.input == "uint8":
            return f"image: uint8 RGB ({sizes[0]}, {sizes[1]}, {sizes[2]}, 3)"
        return f"image: float32 RGB 0..255 ({sizes[0]}, 3, {sizes[1]}, {sizes[2]})"

    def describe_output(self, channels: int) -> str:
        """Return the outputs in words, for a graph's metadata.

        Args:
            channels: of the logits.
        """
        sizes = self._sizes()
        words = {
            "logits": f"logits: float32 ({sizes[0]}, {channels}, {sizes[1]}, {sizes[2]}) before softmax, at the "
            "input's size",
            "labels": f"labels: uint8 ({sizes[0]}, {sizes[1]}, {sizes[2]}), class ids at the input's size",
        }
        return "; ".join(words[name] for name in self.outputs)

    def input_shape(self) -> list[int | None]:
        """Return the sizes of the input, None for those that vary."""
        batch, height, width = self._fixed()
        return [batch, height, width, 3] if self.input == "uint8" else [batch, 3, height, width]

    def output_shapes(self, channels: int) -> dict[str, list[int | None]]:
        """Return the sizes of each output by its name, None for those that vary."""
        batch, height, width = self._fixed()
        shapes: dict[str, list[int | None]] = {
            "logits": [batch, channels, height, width],
            "labels": [batch, height, width],
        }
        return {name: shapes[name] for name in self.outputs}

    def _fixed(self) -> tuple[int | None, int | None, int | None]:
        height, width = self.size or (None, None)
        return self.batch, height, width

    def _sizes(self) -> list[str]:
        return [letter if size is None else str(size) for letter, size in zip("BHW", self._fixed(), strict=True)]
