"""The page: what it shows, and what happens when something on it is moved or pressed."""

import asyncio
import json
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

from nicegui import background_tasks, ui
from nicegui.elements.mixins.text_element import TextElement

from affectome.serve.client import curl
from affectome.serve.dashboard.elements import EmotionMap, Legend, Reply, Strength
from affectome.serve.dashboard.request import Asked, Pick, link, python, read_link
from affectome.serve.dashboard.scale import (
    colour_limit,
    inner,
    mixture,
    mixture_unit,
    share_of,
    strength_of,
)
from affectome.serve.dashboard.stream import Side, Written
from affectome.serve.plan import Refused
from affectome.serve.service import Service
from affectome.serve.steering import MOST_CHANGES, MOST_READ

log = logging.getLogger(__name__)

_FRAME_S = 1 / 12
_KEPT = 20
# Enough to be seen, and far from where replies break.
_FIRST_SHARE = 0.5

_MODES = {"add": "Add the vector", "clamp": "Clamp the projection", "ablate": "Ablate the direction"}
_POSITIONS = {"generated": "Generated tokens", "prompt": "Prompt tokens", "all": "All tokens"}
_KEYS = {
    "Ctrl + Enter": "Send",
    "Esc": "Stop",
    "/": "Go to the list of emotions",
    "← →": "Move a slider; step through a reply's tokens",
    "← → ↑ ↓": "On the map, go to the next emotion; Enter picks it",
    "D": "Dark or light",
    "?": "This help",
}
_HELP = (
    "A strength is a fraction of the mean residual norm at the steered layer. The safe range is what a trial of costs "
    "found the model to bear, or, where none was made, what most models bear.",
    "Both replies come from the same seed and settings, so that what differs is the steering.",
    "A token's colour is the projection of its residual on one emotion's direction, in units of the residual norm, "
    "before any steering at that layer. The last token of a reply is never read by the model and has none.",
    "The map has the emotions' vectors on their first two principal components. The ring is the current mixture: the "
    "sum of the picked emotions' places, each weighted by its strength.",
)


@dataclass(frozen=True)
class Exchange:
    """A prompt with the two replies it got."""

    asked: Asked
    baseline: Written
    steered: Written


class Page:
    """One browser tab's page. All its state is here, and goes with the tab."""

    def __init__(self, service: Service, base: str, request: str | None) -> None:
        self.service, self.catalogue, self.base = service, service.catalogue, base
        self.rows: dict[int, Strength] = {}
        self.read: tuple[str, ...] = ()
        self.task: asyncio.Task[None] | None = None
        self.history: deque[Exchange] = deque(maxlen=_KEPT)
        self.unit = mixture_unit(self.catalogue)
        # Signs of a text field, so that what it holds fits into a request however it is encoded.
        self.longest = service.limits.max_body_bytes // 8
        self.client = ui.context.client
        self._header()
        with ui.element("div").classes("page"):
            with ui.element("section").classes("controls").props('aria-label="Steering"'):
                self._controls()
            with ui.element("section").classes("centre").props('aria-label="Prompt and replies"'):
                self._centre()
            if self.catalogue.map:
                with ui.element("section").classes("aside").props('aria-label="Emotion map"'):
                    self._map()
        self.timer = ui.timer(_FRAME_S, self._draw, active=False)
        self.client.on_disconnect(self.stop)
        self._moved()
        self._paint()
        if request:
            self._follow_link(request)

    # What is there

    def _header(self) -> None:
        catalogue = self.catalogue
        with ui.element("header").classes("top"):
            ui.label("affectome").classes("brand")
            with ui.element("dl").classes("facts"):
                facts = {
                    "Run": catalogue.title,
                    "Model": catalogue.model,
                    "Engine": self.service.backend.name,
                    "Layer": f"{catalogue.headline} of {catalogue.blocks}",
                }
                for name, value in facts.items():
                    with ui.element("div"):
                        _text("dt", name)
                        _text("dd", value).props["title"] = value
            self.dark = ui.dark_mode(None)
            with ui.element("div").classes("tools"):
                _icon_button("contrast", "Dark or light", self._toggle_dark).props("data-key=dark")
                help_dialog = self._help()
                _icon_button("help_outline", "Help", help_dialog.open).props("data-key=help")

    def _help(self) -> ui.dialog:
        with ui.dialog() as dialog, ui.card().classes("sheet"):
            ui.label("Help").classes("title")
            with ui.element("dl").classes("keys"):
                for key, what in _KEYS.items():
                    _text("dt", key)
                    _text("dd", what)
            for paragraph in _HELP:
                _text("p", paragraph)
            ui.button("Close", on_click=dialog.close).props("flat no-caps").classes("end")
        return dialog

    def _controls(self) -> None:
        catalogue = self.catalogue
        ui.label("Steering").classes("title")
        if len(catalogue.families) > 1:
            families = {family: family.capitalize() for family in catalogue.families}
            self.family = ui.toggle(families, value=catalogue.families[0], on_change=self._set_options)
            self.family.props('unelevated no-caps spread aria-label="Family"').classes("families")
        else:
            self.family = None
        self.picks = ui.select({}, label="Emotions", multiple=True, with_input=True, on_change=self._picked)
        self.picks.props(f"outlined dense options-dense use-chips transition-duration=0 max-values={MOST_CHANGES}")
        self.picks.classes("pick wide")
        self._set_options()
        self.sliders = ui.element("div").classes("sliders")
        self.nothing = _text("p", "Pick one or more, or click on the map. Without any, both replies are the same.")
        self.nothing.classes("quiet")
        self.beyond = ui.switch("Beyond the safe range", on_change=self._beyond_changed).classes("beyond-switch")
        with ui.expansion("Advanced").classes("wide advanced").props("dense dense-toggle"):
            self.mode = ui.select(_MODES, value="add", label="Mode", on_change=self._moved)
            self.positions = ui.select(_POSITIONS, value="generated", label="Tokens steered")
            layers = {"auto": f"auto: {catalogue.headline}"} | {layer: str(layer) for layer in catalogue.norms}
            self.layer = ui.select(layers, value="auto", label="Layer")
            for field in (self.mode, self.positions, self.layer):
                field.props("outlined dense options-dense transition-duration=0").classes("wide")
            self.system = ui.textarea("System prompt").props("outlined dense autogrow").classes("wide")
            self.system.props(f"maxlength={self.longest}")
        with ui.element("div").classes("numbers"):
            most = self.service.limits.max_tokens
            self.max_tokens = ui.number("Max tokens", value=min(Asked.max_tokens, most), min=1, max=most, step=1)
            self.temperature = ui.number("Temperature", value=Asked.temperature, min=0, max=2, step=0.1)
            self.seed = ui.number("Seed", value=Asked.seed, min=0, step=1)
            for field in (self.max_tokens, self.temperature, self.seed):
                field.props("outlined dense")

    def _centre(self) -> None:
        with ui.element("div").classes("ask"):
            self.prompt = ui.textarea("Prompt").props('outlined autogrow input-style="min-height: 3.2em"')
            self.prompt.props(f"maxlength={self.longest}").classes("wide")
            with ui.element("div").classes("actions"):
                self.send_button = ui.button("Send", icon="send", on_click=self.send).props("unelevated no-caps")
                self.send_button.props("data-key=send")
                self.stop_button = ui.button("Stop", icon="stop", on_click=self.stop).props("outline no-caps")
                self.stop_button.props("data-key=stop").disable()
                ui.element("div").classes("space")
                ui.button("Share", icon="ios_share", on_click=self._share).props("flat no-caps")
        with ui.element("div").classes("colouring"):
            names = {"": "no colour"} | {name: name for name in self.catalogue.names("emotion")}
            self.colour = ui.select(names, value="", label="Colour tokens by", with_input=True, on_change=self._paint)
            self.colour.props("outlined dense options-dense transition-duration=0")
            self.legend = Legend()
            self.unread = _text("span", "read from the next reply on").classes("quiet")
        with ui.element("div").classes("replies"):
            self.baseline, self.steered = (self._side(name) for name in ("Baseline", "Steered"))
        with ui.element("section").classes("history").props('aria-label="Earlier exchanges"') as self.earlier:
            ui.label("Earlier in this tab").classes("title")
            self.exchanges = ui.element("div").classes("wide")
        self.earlier.set_visibility(False)

    def _side(self, name: str) -> Side:
        with ui.element("article").classes(f"side {name.lower()}"):
            with ui.element("div").classes("side-head"):
                _text("h2", name)
                summary = ui.label().classes("number quiet")
            return Side(Reply(f"{name} reply"), summary.set_text)

    def _map(self) -> None:
        first, second = self.catalogue.explained
        ui.label("Emotion map").classes("title")
        with ui.element("div").classes("plot"):
            _text("span", f"PC2 · {second:.0%} of variance").classes("y-axis")
            self.map = EmotionMap(self.catalogue.map, self._clicked)
            _text("span", f"PC1 · {first:.0%} of variance").classes("x-axis")
        with ui.element("p").classes("quiet key"):
            ui.element("span").classes("ring").props("aria-hidden=true")
            _text(
                "span",
                f"Mixture: the places of the picked emotions, each weighted by its strength (a strength of "
                f"{self.unit:g} counts once), added up.",
            )

    # What is moved

    def _set_options(self) -> None:
        """List the family that is chosen, beside what is picked already, which would be lost otherwise."""
        family = self.family.value if self.family else None
        chosen = self.picks.value or []
        self.picks.set_options(
            {
                number: direction.name
                for number, direction in enumerate(self.catalogue.directions)
                if family is None or direction.family == family or number in chosen
            },
            value=chosen,
        )

    def _picked(self) -> None:
        chosen = [number for number in self.picks.value or [] if isinstance(number, int)][:MOST_CHANGES]
        for number in [number for number in self.rows if number not in chosen]:
            self.rows.pop(number).frame.delete()
        for number in chosen:
            if number not in self.rows:
                safe = self.catalogue.directions[number].safe
                low, high = inner(safe)
                self._add_row(number, strength_of(_FIRST_SHARE if high else -_FIRST_SHARE if low else 0, safe))
        emotions = [row.direction.name for row in self.rows.values() if row.direction.family == "emotion"]
        if not self.colour.value and emotions:
            self.colour.set_value(emotions[0])
        self._moved()

    def _add_row(self, number: int, strength: float) -> None:
        def drop() -> None:
            self.picks.set_value([other for other in self.picks.value if other != number])

        with self.sliders:
            self.rows[number] = Strength(
                self.catalogue.directions[number], strength, bool(self.beyond.value), self._moved, drop
            )

    def _clicked(self, emotion: str) -> None:
        number = self.catalogue.find(emotion)
        if number in self.rows:
            self.rows[number].slider.run_method("focus")
        elif len(self.rows) < MOST_CHANGES:
            if number not in self.picks.options:
                self.family.set_value("emotion")
            self.picks.set_value([*self.picks.value, number])

    def _beyond_changed(self) -> None:
        """Make sliders that end where they may; what was beyond comes back to the end of the safe range."""
        strengths = {number: row.strength for number, row in self.rows.items()}
        self.sliders.clear()
        self.rows = {}
        for number, strength in strengths.items():
            safe = self.catalogue.directions[number].safe
            if not self.beyond.value:
                low, high = inner(safe)
                strength = strength_of(min(max(share_of(strength, safe), low), high), safe)
            self._add_row(number, strength)
        self._moved()

    def _moved(self) -> None:
        self.nothing.set_visibility(not self.rows)
        self.sliders.classes(**({"add": "idle"} if self.mode.value == "ablate" else {"remove": "idle"}))
        if self.catalogue.map:
            rows = [row for row in self.rows.values() if row.direction.family == "emotion"]
            picks = [(row.direction.name, row.strength) for row in rows] if self.mode.value == "add" else []
            self.map.show([row.direction.name for row in rows], mixture(picks, self.catalogue.map, self.unit))

    def _paint(self) -> None:
        """Colour both replies by the chosen emotion, to one scale."""
        name = self.colour.value or ""
        column = self.read.index(name) if name in self.read else None
        sides = (self.baseline, self.steered)
        self.unread.set_visibility(bool(name) and column is None and any(side.written.texts for side in sides))
        if column is None:
            self.legend.show(None)
            for side in sides:
                side.paint(None, name, 1.0)
            return
        values = [value for side in sides for value in side.written.column(column)]
        limit = colour_limit(values)
        self.legend.show(limit if values else None)
        for side in sides:
            side.paint(column, name, limit)

    async def _toggle_dark(self) -> None:
        self.dark.set_value(not await ui.run_javascript("Quasar.Dark.isActive"))

    # What is asked for

    def asked(self) -> Asked:
        """What the page stands at."""
        picks = tuple(Pick(row.direction.name, row.direction.family, row.strength) for row in self.rows.values())
        emotions = [pick.name for pick in picks if pick.family == "emotion"]
        read = tuple(dict.fromkeys([self.colour.value, *emotions]))[:MOST_READ] if self.colour.value else ()
        return Asked(
            str(self.prompt.value or ""),
            picks,
            self.mode.value,
            self.positions.value,
            self.layer.value,
            bool(self.beyond.value),
            _given(self.max_tokens, Asked.max_tokens),
            _given(self.temperature, Asked.temperature),
            _given(self.seed, Asked.seed),
            read,
            str(self.system.value or "").strip(),
        )

    def put(self, asked: Asked) -> None:
        """Set the page to `asked`; Refused where it has a direction that there is none of."""
        strengths = {self.catalogue.find(pick.name, pick.family): pick.strength for pick in asked.picks}
        layer = asked.layer if asked.layer in self.layer.options else "auto"
        self.picks.set_value([])
        self.beyond.set_value(asked.beyond)
        for number, strength in strengths.items():
            self._add_row(number, strength)
        self._options_for(strengths)
        self.prompt.set_value(asked.prompt)
        self.system.set_value(asked.system)
        for field, value in (
            (self.mode, asked.mode),
            (self.positions, asked.positions),
            (self.layer, layer),
            (self.max_tokens, asked.max_tokens),
            (self.temperature, asked.temperature),
            (self.seed, asked.seed),
            (self.colour, asked.read[0] if asked.read and asked.read[0] in self.colour.options else ""),
        ):
            field.set_value(value)
        self._moved()

    def _options_for(self, chosen: dict[int, float]) -> None:
        names = {number: self.catalogue.directions[number].name for number in chosen}
        self.picks.set_options({**self.picks.options, **names}, value=list(chosen))

    def _follow_link(self, text: str) -> None:
        try:
            self.put(read_link(text))
        except (ValueError, Refused) as error:
            ui.notify(str(error), type="negative", timeout=8000, close_button="Close")

    def send(self) -> None:
        """Ask for both replies, unless they are being written."""
        if self.task:
            return
        asked = self.asked()
        if not asked.prompt.strip():
            ui.notify("Write a prompt first", type="warning")
            return
        body = asked.body(self.catalogue.model)
        if len(json.dumps(body)) > self.service.limits.max_body_bytes:
            ui.notify("The prompt is too long for this server", type="negative")
            return
        exchange = Exchange(asked, Written(), Written())
        self._show(exchange)
        self.task = background_tasks.create(self._run(exchange), name="dashboard exchange")

    def stop(self) -> None:
        """End both replies where they are."""
        if self.task:
            self.task.cancel()

    async def _run(self, exchange: Exchange) -> None:
        self._busy(True)
        model = self.catalogue.model
        try:
            async with asyncio.TaskGroup() as group:
                runs = [
                    group.create_task(side.run(self.service, exchange.asked.body(model, steered)))
                    for side, steered in ((self.baseline, False), (self.steered, True))
                ]
            for failure in dict.fromkeys(run.result() for run in runs if run.result()):
                self._notify(failure)
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("a reply to the dashboard failed")
            self._notify("The server failed; its log says why")
        finally:
            self.task = None
            if not self.client.is_deleted:
                self._busy(False)
                self._draw()
                if exchange.baseline.texts or exchange.steered.texts:
                    self._keep(exchange)

    def _notify(self, text: str) -> None:
        if not self.client.is_deleted:
            with self.client.content:
                ui.notify(text, type="negative", timeout=10000, close_button="Close", multi_line=True)

    def _busy(self, busy: bool) -> None:
        self.send_button.set_enabled(not busy)
        self.stop_button.set_enabled(busy)
        self.timer.active = busy

    def _draw(self) -> None:
        self.baseline.draw()
        self.steered.draw()
        self._paint()

    def _show(self, exchange: Exchange) -> None:
        self.read = exchange.asked.read
        self.baseline.show(exchange.baseline)
        self.steered.show(exchange.steered)
        self._paint()

    # What was asked before

    def _keep(self, exchange: Exchange) -> None:
        self.history.appendleft(exchange)
        self.exchanges.clear()
        self.earlier.set_visibility(True)
        with self.exchanges:
            for earlier in self.history:
                self._entry(earlier)

    def _entry(self, exchange: Exchange) -> None:
        def put_back() -> None:
            if self.task:
                ui.notify("Stop the replies that are being written first", type="warning")
                return
            self.put(exchange.asked)
            self._show(exchange)

        asked = exchange.asked
        with ui.element("button").classes("exchange").on("click", put_back).props("type=button"):
            _text("span", " ".join(asked.prompt.split())[:160]).classes("exchange-prompt")
            _text("span", f"{asked.mixture} · seed {asked.seed:g}").classes("number quiet")

    def _share(self) -> None:
        body = self.asked().body(self.catalogue.model)
        key = bool(self.service.limits.api_key)
        forms: dict[str, str | None] = {
            "curl": curl(body, self.base, key),
            "Python": python(body, self.base, key),
            "Link": link(body, self.base),
        }
        with ui.dialog() as dialog, ui.card().classes("sheet"):
            ui.label("This request, elsewhere").classes("title")
            if key:
                _text("p", "Both read the key from the environment variable AFFECTOME_API_KEY.").classes("quiet")
            with ui.tabs().props("dense no-caps align=left") as tabs:
                for name in forms:
                    ui.tab(name)
            with ui.tab_panels(tabs, value="curl").classes("wide").props("animated=false"):
                for name, text in forms.items():
                    with ui.tab_panel(name):
                        _snippet(name, text)
            ui.button("Close", on_click=dialog.close).props("flat no-caps").classes("end")
        dialog.on("hide", dialog.delete)
        dialog.open()


def _snippet(name: str, text: str | None) -> None:
    if text is None:
        _text("p", "The request is too long for a link.")
        return
    code = _text("pre", text).classes("snippet").props(f'tabindex=0 aria-label="{name}"')
    ui.button("Copy", icon="content_copy").props("outline no-caps").on(
        "click", js_handler=f'() => copyTextOf("{code.html_id}")'
    )


def _text(tag: str, text: str) -> TextElement:
    return TextElement(tag=tag, text=text)


def _icon_button(icon: str, label: str, act: Any) -> ui.button:
    button = ui.button(icon=icon, on_click=act).props("flat round")
    button.props["aria-label"] = button.props["title"] = label
    return button


def _given(field: ui.number, otherwise: float) -> float:
    return otherwise if field.value is None else field.value
