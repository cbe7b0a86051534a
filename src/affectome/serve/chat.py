"""`affectome chat`: a conversation in the terminal whose steering is changed by commands between turns."""

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from affectome.errors import UserError
from affectome.serve.client import curl
from affectome.serve.plan import Refused
from affectome.terminal import printable

HELP = """\
/steer calm 0.05      steer along an emotion from now on; a second call changes it, 0 takes it away
/steer                what is steered now
/off                  no steering
/emotions [text]      the emotions there are, or those whose names hold the text
/compare              show the unsteered reply too, from now on or no more
/colour calm          colour every token by what the model reads as calm in it; /colour ends it
/positions all        steer all tokens, those of the prompt, or those generated (the default)
/layer 12             steer at block 12; /layer auto
/unsafe               allow strengths beyond the safe range, or no more
/set temperature 0.7  also max_tokens, seed, top_p
/curl                 the next request, without the words you have yet to write, as a curl command
/undo                 take back the last exchange; /new forgets the conversation
/quit                 or Ctrl+D; Ctrl+C stops a reply
"""
# Of what a reply holds beside letters, these stay.
_LINES = "\n\t"
_POSITIONS = ("generated", "prompt", "all")
_SETTINGS = {"temperature": float, "max_tokens": int, "seed": int, "top_p": float}

# Projections of this share of the residual norm have the full colour.
_FULL = 0.1


class Source(Protocol):
    """Where replies come from: a server, or an engine in this process."""

    url: str

    async def emotions(self) -> dict[str, Any]: ...

    def stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]: ...


@dataclass
class Chat:
    """A conversation and how it is steered; `answer` takes what the user wrote and says what comes of it by `say`.

    `colours` says whether the terminal shows colours.
    """

    source: Source
    listed: dict[str, Any]
    say: Callable[[str], None]
    colours: bool = False
    messages: list[dict[str, str]] = field(default_factory=list)
    steering: dict[str, float] = field(default_factory=dict)
    positions: str = "generated"
    layer: str | int = "auto"
    unsafe: bool = False
    compare: bool = False
    colour: str | None = None
    settings: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.7, "max_tokens": 256, "seed": 1})

    @property
    def names(self) -> list[str]:
        return [entry["name"] for entry in self.listed["data"] if entry["family"] == "emotion"]

    def body(self, steered: bool = True) -> dict[str, Any]:
        """The request that comes next."""
        body: dict[str, Any] = {"model": self.listed["model"], "messages": self.messages, **self.settings}
        if steered and self.steering:
            common = {"positions": self.positions, "layers": self.layer}
            body["steering"] = [{"emotion": name, "strength": s, **common} for name, s in self.steering.items()]
            if self.unsafe:
                body["allow_unsafe"] = True
        if self.colour:
            body["readout"] = {"emotions": [self.colour]}
        return body

    async def answer(self, line: str) -> bool:
        """Act on one line of the user's; False where the conversation is over."""
        line = line.strip()
        if not line:
            return True
        if line.startswith("/"):
            return self.command(line)
        self.messages.append({"role": "user", "content": line})
        try:
            if self.compare:
                self.say("unsteered: ")
                await self._reply(self.body(steered=False))
                self.say("\nsteered:   " if self.steering else "\nsteered by nothing: ")
            reply = await self._reply(self.body())
        except (Refused, asyncio.CancelledError) as error:
            self.messages.pop()
            self.say(f"\n{error.message if isinstance(error, Refused) else '(stopped)'}\n")
            return True
        self.say("\n")
        self.messages.append({"role": "assistant", "content": reply})
        return True

    async def _reply(self, body: dict[str, Any]) -> str:
        """Stream one reply to the terminal and return its text."""
        text: list[str] = []
        tokens: list[str] = []
        shown = 0
        stream = self.source.stream(body)
        try:
            async for chunk in stream:
                if values := chunk.get("readout"):
                    for value in values["values"][shown - values["first"] :]:
                        if shown < len(tokens):
                            self.say(painted(tokens[shown], value[0], self.colours))
                            shown += 1
                for choice in chunk["choices"]:
                    piece = choice["delta"].get("content") or ""
                    text.append(piece)
                    tokens += choice.get("tokens") or []
                    if not self.colour:
                        self.say(printable(piece, _LINES))
        finally:
            with suppress(AttributeError):
                await stream.aclose()
        if self.colour:
            self.say(printable("".join(tokens[shown:]), _LINES))
        return "".join(text)

    # ------------------------------------------------------------ commands

    def command(self, line: str) -> bool:
        """Act on a command; False for /quit."""
        try:
            name, *rest = shlex.split(line)
        except ValueError as error:
            self.say(f"{error}\n")
            return True
        action = {
            "/steer": self._steer,
            "/off": lambda _: self.steering.clear(),
            "/emotions": self._emotions,
            "/compare": lambda _: setattr(self, "compare", not self.compare),
            "/colour": self._colour,
            "/color": self._colour,
            "/positions": self._positions,
            "/layer": self._layer,
            "/unsafe": lambda _: setattr(self, "unsafe", not self.unsafe),
            "/set": self._set,
            "/curl": lambda _: self.say(curl(self.body(), self.source.url, key=True) + "\n"),
            "/undo": lambda _: self.messages.__delitem__(slice(-2, None)),
            "/new": lambda _: self.messages.clear(),
            "/help": lambda _: self.say(HELP),
        }.get(name)
        if name in ("/quit", "/exit"):
            return False
        if action is None:
            self.say(f"there is no command {printable(name)}; /help lists them\n")
        else:
            action(rest)
            if name in ("/off", "/steer", "/compare", "/unsafe", "/positions", "/layer"):
                self.say(self.state() + "\n")
        return True

    def state(self) -> str:
        """How the next reply is steered, in a line."""
        if not self.steering:
            steered = "not steered"
        else:
            mix = ", ".join(f"{name} {strength:+g}" for name, strength in self.steering.items())
            steered = f"steered along {mix} (layer {self.layer}, positions {self.positions})"
        extras = [
            word for word, on in (("compared with unsteered", self.compare), ("unsafe allowed", self.unsafe)) if on
        ]
        return "; ".join([steered, *extras])

    def _steer(self, rest: list[str]) -> None:
        if not rest:
            return
        *words, last = rest
        try:
            strength = float(last)
        except ValueError:
            words, strength = rest, 0.05
        name = " ".join(words)
        if name not in self.names:
            self._emotions([name])
        elif strength == 0:
            self.steering.pop(name, None)
        else:
            self.steering[name] = strength

    def _emotions(self, rest: list[str]) -> None:
        wanted = " ".join(rest)
        found = [name for name in self.names if wanted in name]
        self.say(f"{', '.join(found)}\n" if found else f"no emotion has {printable(wanted)!r} in its name; /emotions\n")

    def _colour(self, rest: list[str]) -> None:
        name = " ".join(rest)
        if name and name not in self.names:
            self._emotions(rest)
        else:
            self.colour = name or None

    def _positions(self, rest: list[str]) -> None:
        if rest and rest[0] in _POSITIONS:
            self.positions = rest[0]
        else:
            self.say(f"positions are {', '.join(_POSITIONS)}\n")

    def _layer(self, rest: list[str]) -> None:
        layers = self.listed["layers"]
        if rest == ["auto"] or (rest and rest[0].isdecimal() and int(rest[0]) in layers):
            self.layer = "auto" if rest == ["auto"] else int(rest[0])
        else:
            self.say(f"layers are auto and {layers[0]} to {layers[-1]}\n")

    def _set(self, rest: list[str]) -> None:
        try:
            name, value = rest
            self.settings[name] = _SETTINGS[name](value)
        except (ValueError, KeyError):
            self.say(f"write /set NAME NUMBER, with one of {', '.join(_SETTINGS)}\n")


def painted(token: str, value: float, colours: bool) -> str:
    """`token` on a background from blue, against the direction, to red, along it."""
    if not colours:
        return printable(token, _LINES)
    share = max(-1.0, min(1.0, value / _FULL))
    fade = round(60 + 195 * (1 - abs(share)))
    red, green, blue = (255, fade, fade) if share > 0 else (fade, fade, 255)
    return f"\x1b[30;48;2;{red};{green};{blue}m{printable(token, _LINES)}\x1b[0m"


def converse(runner: asyncio.Runner, source: Source) -> None:
    """Talk with the user at this terminal until they leave; UserError where `source` does not answer."""
    try:
        listed = runner.run(source.emotions())
    except Refused as error:
        raise UserError(f"{source.url}: {error.message}") from error

    def say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    chat = Chat(source, listed, say, colours=sys.stdout.isatty())
    say(f"{listed['run']}: {listed['model']}, {len(chat.names)} emotions. /help lists commands.\n")
    _complete_names(chat)
    going = True
    while going:
        # Read outside the event loop, so that Ctrl+C ends reading at once; in a reply it cancels that.
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            say("\n")
            return
        going = runner.run(chat.answer(line))


def _complete_names(chat: Chat) -> None:
    """Have Tab complete commands and names, where the terminal can."""
    try:
        import readline
    except ImportError:
        return
    commands = [line.split()[0] for line in HELP.splitlines()]

    def complete(text: str, state: int) -> str | None:
        found = [word for word in (commands if text.startswith("/") else chat.names) if word.startswith(text)]
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
