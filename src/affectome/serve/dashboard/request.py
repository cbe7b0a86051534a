"""What the page asks for: as a request body, as a snippet that sends it, as a link, and read back from one."""

import json
import pprint
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from pydantic import TypeAdapter

from affectome.serve.plan import Mode, Positions
from affectome.serve.steering import MOST_CHANGES, MOST_READ, ReadoutItem, SteeringItem

_STEERING = TypeAdapter(list[SteeringItem])

# Longer ones are cut or refused by some server, proxy or chat on their way.
LONGEST_LINK = 4000


@dataclass(frozen=True)
class Pick:
    """A direction that was picked, and how strongly."""

    name: str
    family: str
    strength: float


@dataclass(frozen=True)
class Asked:
    """What the page stands at when Send is pressed; `read` are the emotions whose values come back per token."""

    prompt: str
    picks: tuple[Pick, ...] = ()
    mode: Mode = "add"
    positions: Positions = "generated"
    layer: Literal["auto"] | int = "auto"
    beyond: bool = False
    max_tokens: float = 200
    temperature: float = 0.7
    seed: float = 1
    read: tuple[str, ...] = ()
    system: str = ""

    def body(self, model: str, steered: bool = True) -> dict[str, Any]:
        """The body of `POST /v1/chat/completions`; without `steered`, of the reply to compare with."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [*([_said("system", self.system)] if self.system else []), _said("user", self.prompt)],
            "max_tokens": _number(self.max_tokens),
            "temperature": _number(self.temperature),
            "seed": _number(self.seed),
        }
        items = [self._item(pick) for pick in self.picks if pick.strength or self.mode != "add"]
        if steered and items:
            body["steering"] = items
            if self.beyond:
                body["allow_unsafe"] = True
        if self.read:
            body["readout"] = {"emotions": list(self.read)}
        return body

    def _item(self, pick: Pick) -> dict[str, Any]:
        item: dict[str, Any] = {"emotion": pick.name, "strength": pick.strength}
        said = {"layers": self.layer, "positions": self.positions, "mode": self.mode, "family": pick.family}
        usual = SteeringItem(emotion=pick.name)
        return item | {name: value for name, value in said.items() if value != getattr(usual, name)}

    @property
    def mixture(self) -> str:
        """The picks in a few words."""
        return ", ".join(f"{pick.name} {signed(pick.strength)}" for pick in self.picks) or "nothing steered"


def read_link(text: str) -> Asked:
    """What a link holds in its `request`; ValueError unless it is something that this page can ask for."""
    try:
        body = json.loads(text)
        said = {message["role"]: message["content"] for message in body["messages"]}
        prompt, system = said["user"], said.get("system", "")
        items = _STEERING.validate_python(body.get("steering", []))
        read = ReadoutItem.model_validate(body["readout"]).emotions if "readout" in body else []
        numbers = [body[name] for name in ("max_tokens", "temperature", "seed")]
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError("the link holds no request") from error
    if not all(isinstance(text, str) for text in (prompt, system)):
        raise ValueError("the link holds no request")
    if len(said) != len(body["messages"]) or said.keys() - {"system", "user"}:
        raise ValueError("the link holds a conversation, which this page cannot show")
    if not all(type(n) in (int, float) and abs(n) < 2**63 for n in numbers):
        raise ValueError("the link holds no request")
    if len({(item.mode, item.positions, str(item.layers)) for item in items}) > 1 or len(items) > MOST_CHANGES:
        raise ValueError("the link steers in several ways at once, which this page cannot show")
    usual = items[0] if items else SteeringItem(emotion="none")
    if isinstance(usual.layers, list):
        raise ValueError("the link steers several layers, which this page cannot show")
    return Asked(
        prompt,
        tuple(Pick(item.emotion, item.family, item.strength) for item in items),
        usual.mode,
        usual.positions,
        usual.layers,
        body.get("allow_unsafe") is True,
        *numbers,
        read=tuple(read[:MOST_READ]),
        system=system,
    )


def python(body: dict[str, Any], base: str, key: bool) -> str:
    """A program with OpenAI's client that sends `body`, whose fields of ours go in `extra_body`."""
    own = {name: body[name] for name in ("steering", "allow_unsafe", "readout") if name in body}
    arguments = {name: value for name, value in body.items() if name not in own}
    if own:
        arguments["extra_body"] = own
    lines = [f"    {name}={_literal(value)}," for name, value in arguments.items()]
    secret = 'os.environ["AFFECTOME_API_KEY"]' if key else '"none"'
    return "\n".join(
        [
            *(["import os", ""] if key else []),
            "from openai import OpenAI",
            "",
            f"client = OpenAI(base_url={base + '/v1'!r}, api_key={secret})",
            "reply = client.chat.completions.create(",
            *lines,
            ")",
            "print(reply.choices[0].message.content)",
        ]
    )


def link(body: dict[str, Any], base: str) -> str | None:
    """The address of the page with everything set as in `body`; None where it would be too long."""
    address = f"{base}/?request={quote(json.dumps(body, separators=(',', ':'), ensure_ascii=False))}"
    return address if len(address) <= LONGEST_LINK else None


def signed(value: float) -> str:
    """A number with its sign, and a real minus."""
    return f"{value:+.3g}".replace("-", "−") if value else "0"


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=88, sort_dicts=False).replace("\n", "\n    ")


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value
