"""What a request does to the residual stream, in the form that goes from the server to the engine.

Directions are named by their row in the directions file (`Catalogue.write_directions`), so that a plan is small and an
engine needs nothing but that file. The standard library alone is imported here: vLLM's processes load this module too.

What `positions` and `mode` mean is said by `affectome.steering.instrument.Intervention`; changes of one plan are
applied in order at each block.
"""

import json
import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Mode = Literal["add", "ablate", "clamp"]
Positions = Literal["all", "prompt", "generated"]


@dataclass(frozen=True)
class Change:
    """One change: along row `direction`, by the signed length of each of `lengths`, (layer, length), layers ascending.

    Lengths are in units of the residual stream; `ablate` takes no notice of them.
    """

    direction: int
    lengths: tuple[tuple[int, float], ...]
    mode: Mode = "add"
    positions: Positions = "generated"


Plan = tuple[Change, ...]


@dataclass(frozen=True)
class Readout:
    """Projections of generated tokens on `directions` at `layer` that are to be sent back; `id` is the engine's."""

    layer: int
    directions: tuple[int, ...]
    id: str = ""

    def named(self, name: str) -> "Readout":
        return replace(self, id=name)


class Refused(Exception):  # noqa: N818 - it is raised as a reply, and read so
    """What a client did wrong, or cannot have now: an HTTP `status` and a message that says what is allowed."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def encode(plan: Plan, readout: Readout | None = None) -> str:
    """`plan` and `readout` as JSON, which vLLM lets travel with a request as one string."""
    content: dict[str, Any] = {
        "plan": [[change.direction, change.mode, change.positions, change.lengths] for change in plan]
    }
    if readout:
        content["readout"] = {"id": readout.id, "layer": readout.layer, "directions": readout.directions}
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def decode(text: str) -> tuple[Plan, Readout | None]:
    """What `encode` wrote; ValueError for anything else."""
    try:
        content = json.loads(text)
        plan = tuple(_change(*item) for item in content["plan"])
        found = content.get("readout")
        readout = found and Readout(
            _whole(found["layer"]), tuple(map(_whole, found["directions"])), str(found.get("id", ""))
        )
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"no plan of affectome: {error!r}") from error
    return plan, readout or None


def _change(direction: Any, mode: Any, positions: Any, lengths: Any) -> Change:
    if mode not in get_args(Mode) or positions not in get_args(Positions):
        raise ValueError(f"no mode and positions: {mode!r}, {positions!r}")
    by_layer = tuple((_whole(layer), float(length)) for layer, length in lengths)
    if not by_layer or list(by_layer) != sorted(dict(by_layer).items()):
        raise ValueError("layers are not ascending, each once")
    if not all(math.isfinite(length) for _, length in by_layer):
        raise ValueError("a length is not finite")
    return Change(_whole(direction), by_layer, mode, positions)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no row or layer")
    return value
