"""Elements that the component library has not: a reply of coloured tokens, the map, the legend, strengths."""

from collections.abc import Callable, Sequence

from nicegui import ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from affectome.serve.catalogue import Direction
from affectome.serve.dashboard.request import signed
from affectome.serve.dashboard.scale import FARTHEST, Range, inner, share_of, strength_of

_STEP = 0.02
_THROTTLE_S = 0.05


class Reply(Element, component="reply.js"):
    """The tokens of a reply, each coloured by one of its values."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._props["label"] = label

    def clear_tokens(self) -> None:
        self.run_method("clear")

    def append(self, texts: Sequence[str]) -> None:
        self.run_method("append", texts)

    def values(self, first: int, rows: Sequence[Sequence[float]]) -> None:
        """Values of token number `first` and those after it, one for each emotion that was read."""
        self.run_method("values", first, rows)

    def paint(self, column: int | None, name: str, limit: float) -> None:
        self.run_method("paint", column, name, limit)


class EmotionMap(Element, component="emotion_map.js"):
    """Emotions by name at their places; `pick` is called with the name of one that is clicked."""

    def __init__(self, places: dict[str, tuple[float, float]], pick: Callable[[str], None]) -> None:
        super().__init__()
        self._props["points"] = [{"name": name, "x": x, "y": y} for name, (x, y) in places.items()]
        self._props["picked"] = []
        self._props["mix"] = None
        self.on("pick", lambda event: pick(event.args) if event.args in places else None)

    def show(self, picked: Sequence[str], mix: tuple[float, float] | None) -> None:
        self._props["picked"] = list(picked)
        self._props["mix"] = mix
        self.update()


class Legend:
    """The scale of colours, from −`limit` to `limit` in residual norms."""

    def __init__(self) -> None:
        with ui.element("div").classes("legend") as self.frame:
            with ui.element("div").classes("legend-scale"):
                self.low, zero, self.high = (ui.label().classes("number") for _ in range(3))
                zero.set_text("0")
            ui.label("of the residual norm").classes("quiet")

    def show(self, limit: float | None) -> None:
        self.frame.set_visibility(limit is not None)
        if limit is not None:
            self.low.set_text(signed(-limit))
            self.high.set_text(signed(limit))


class Slider(Element, component="strength.js"):
    """A slider in safe ranges that ends at `ends`; `moved` is called with where it is."""

    def __init__(self, share: float, ends: Range, label: str, moved: Callable[[float], None]) -> None:
        super().__init__()
        low, high = ends
        said = {"share": share, "low": low, "high": high, "farthest": FARTHEST, "step": _STEP, "label": label}
        for name, value in said.items():
            self._props[name] = value

        def take(event: GenericEventArguments) -> None:
            # What a page sends may be anything.
            if isinstance(event.args, int | float):
                moved(min(max(float(event.args), low), high))

        self.on("move", take, throttle=_THROTTLE_S)

    def say(self, words: str) -> None:
        self._props["words"] = words


class Strength:
    """A picked direction with its slider; `changed` is called as that moves, `drop` when it is to go."""

    def __init__(
        self, direction: Direction, strength: float, beyond: bool, changed: Callable[[], None], drop: Callable[[], None]
    ) -> None:
        self.direction, self.strength, self._changed = direction, strength, changed
        low, high = inner(direction.safe)
        known = "measured" if direction.measured else "not measured: what most models bear"
        safe = f"safe from {signed(direction.safe[0])} to {signed(direction.safe[1])} ({known})"
        reliable = f"; reliability {direction.reliability:.2f}" if direction.reliability is not None else ""
        with ui.element("div").classes("strength" + (" beyond" if beyond else "")) as self.frame:
            self.frame.style(f"--low: {_place(low)}%; --high: {_place(high)}%")
            with ui.element("div").classes("strength-head"):
                ui.label(direction.name).classes("strength-name").props["title"] = safe + reliable
                self._read = ui.label().classes("number")
                button = ui.button(icon="close", on_click=drop).props("flat round dense size=sm")
                button.props["aria-label"] = f"Remove {direction.name}"
            self.slider = Slider(
                share_of(strength, direction.safe),
                (-FARTHEST, FARTHEST) if beyond else (low, high),
                f"Strength of {direction.name}, {safe}",
                self._move,
            )
            with ui.element("div").classes("strength-marks").props("aria-hidden=true"):
                marks = {_place(end): signed(safe) for end, safe in zip((low, high), direction.safe, strict=True)}
                for place, text in (marks | {50.0: "0"}).items():
                    ui.label(text).classes("number").style(f"left: {place}%")
                ui.label("unsafe").classes("unsafe")
                ui.label("unsafe").classes("unsafe at-end")
        self._say()

    def _move(self, share: float) -> None:
        self.strength = strength_of(share, self.direction.safe)
        self._say()
        self._changed()

    def _say(self) -> None:
        low, high = self.direction.safe
        percent = f"{abs(100 * share_of(self.strength, self.direction.safe)):.0f} %"
        unsafe = not low <= self.strength <= high
        self._read.set_text(f"{signed(self.strength)} · {percent} of safe")
        self.slider.say(f"{signed(self.strength)}, {percent} of the safe range" + (", unsafe" if unsafe else ""))
        self.frame.classes(**{"add" if unsafe else "remove": "is-unsafe"})


def _place(share: float) -> float:
    """Where a share of the safe range is on its slider, in percent of its length."""
    return round(50 + 50 * share / FARTHEST, 2)
