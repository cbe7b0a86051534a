"""How a request says what to steer: its fields, read into a plan or refused with what is allowed.

`steering` may stand at the top of the body, in `extra_body` (where clients put it that do not unfold that), or in
`vllm_xargs`; as a list of items, or as the flat list `[id, alpha, id, alpha, …]` of emotion-steering
(github.com/eigenweltlabs/emotion-steering), whose alpha multiplies the vector as it is stored and which steers every
position at the headline layer.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from affectome.serve.catalogue import Catalogue
from affectome.serve.plan import Change, Mode, Plan, Positions, Readout, Refused
from affectome.steering.strength import added_length, strength_of_alpha

# No model of any size writes language beyond this, whatever its owner allows.
STRONGEST = 2.0
MOST_CHANGES = 16
MOST_READ = 16
_LARGEST_ALPHA = 1e6


def _integral(value: Any) -> Any:
    """5 for 5.0, which JSON does not tell apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Layer = Annotated[int, Field(ge=0), BeforeValidator(_integral)]
Layers = Literal["auto"] | _Layer | Annotated[list[_Layer], Field(min_length=1, max_length=512)]


class SteeringItem(BaseModel):
    """One direction to steer along."""

    model_config = ConfigDict(extra="forbid", strict=True)

    emotion: str = Field(description="a name of GET /v1/emotions", examples=["calm"], min_length=1, max_length=200)
    strength: float = Field(
        0.05,
        description="fraction of the mean residual norm that is added at each layer; for `clamp` where the projection "
        "is held; without effect for `ablate`",
        examples=[0.05],
        ge=-STRONGEST,
        le=STRONGEST,
        allow_inf_nan=False,
    )
    layers: Layers = Field("auto", description="`auto` is the run's headline layer; a block number, or several")
    positions: Positions = Field("generated", description="which tokens: `generated`, those of the `prompt`, or `all`")
    mode: Mode = Field("add", description="`add` the vector, `clamp` the projection on it, or `ablate` it")
    family: str = Field("emotion", description="a family of GET /v1/emotions", max_length=60)


class ReadoutItem(BaseModel):
    """Directions whose projections are sent back for every generated token that the model reads."""

    model_config = ConfigDict(extra="forbid", strict=True)

    emotions: list[str] = Field(description="names of GET /v1/emotions", min_length=1, max_length=MOST_READ)
    layer: Literal["auto"] | _Layer = Field("auto", description="`auto` is the headline layer")


Steering = Annotated[
    list[SteeringItem] | list[float],
    Field(
        description="what to steer along: items, or the flat list [id, alpha, id, alpha, …]",
        max_length=2 * MOST_CHANGES,
        examples=[[{"emotion": "calm", "strength": 0.05}]],
    ),
]
_ITEMS = TypeAdapter(Annotated[list[SteeringItem], Field(max_length=MOST_CHANGES)])


def take_steering(body: dict[str, Any], catalogue: Catalogue, allow_unsafe: bool = False) -> Plan:
    """The plan of a request, whose own fields are taken out of `body`; () where it asks for none.

    Raises Refused for an unknown emotion, layer or form, for a number that is not finite, and for a strength outside
    the direction's safe range unless `allow_unsafe`. Ranges are of one layer, so what is added along a direction at
    several layers, or by several items, counts together.
    """
    given = _take(body, "steering")
    if given is None or given == []:
        return ()
    if not isinstance(given, list):
        raise Refused(400, f"steering is a list, not {_called(given)}; {_FORMS}", "steering")
    flat = all(isinstance(item, int | float) and not isinstance(item, bool) for item in given)
    plan, strengths = _flat(given, catalogue) if flat else _listed(given, catalogue)
    # Opposite pushes need not cancel, at other layers and tokens, so each way is counted by itself.
    for sign in (1, -1):
        for direction in dict(strengths):
            total = sum(strength for other, strength in strengths if other == direction and sign * strength > 0)
            _check_strength(catalogue, direction, total, allow_unsafe)
    return plan


def take_readout(body: dict[str, Any], catalogue: Catalogue) -> Readout | None:
    """What a request wants to be read, taken out of `body`; Refused where that cannot be."""
    given = _take(body, "readout")
    if given is None:
        return None
    try:
        item = ReadoutItem.model_validate(given)
    except ValidationError as error:
        raise Refused(400, f"readout: {explained(error)}", "readout") from error
    (layer,) = _layers(item.layer, catalogue)
    if int(body.get("n") or 1) != 1:
        raise Refused(400, "a readout is of one reply: leave n at 1", "readout")
    return Readout(layer, tuple(catalogue.find(emotion) for emotion in item.emotions))


_FORMS = (
    'write [{"emotion": "calm", "strength": 0.05}] or the flat list [id, alpha, id, alpha], with ids of '
    "GET /v1/emotions"
)


def explained(error: ValidationError) -> str:
    """One of pydantic's complaints in one line: of a field that may be several things, about what it nearly is."""
    errors = error.errors(include_url=False, include_input=False)
    # An item and its field; what follows is which of several things the field was taken for.
    place = errors[0]["loc"][:2]
    about = [one for one in errors if one["loc"][:2] == place]
    near = [one for one in about if not one["type"].endswith(("_type", "literal_error"))]
    said = list(dict.fromkeys(str(one["msg"]) for one in near[:1] or about))
    first, *others = (message.replace("Input should be", "should be") for message in said)
    return f"{'.'.join(map(str, place))}: {' or '.join([first, *others])}".removeprefix(": ")


def _take(body: dict[str, Any], name: str) -> Any:
    """The field `name`, from wherever it stands; Refused where it stands in several places."""
    found = []
    if name in body:
        found.append(body.pop(name))
    for place in ("extra_body", "vllm_xargs"):
        within = body.get(place)
        if isinstance(within, dict) and name in within:
            within = {key: value for key, value in within.items() if key != name}
            found.append(body[place][name])
            body[place] = within
            if not within:
                del body[place]
    found = [item for item in found if item is not None]
    if len(found) > 1:
        raise Refused(400, f"{name} stands in several places of the request; leave one", name)
    return found[0] if found else None


def _listed(given: list[Any], catalogue: Catalogue) -> tuple[Plan, list[tuple[int, float]]]:
    """The plan of a list of items, and what each adds along which direction."""
    try:
        items = _ITEMS.validate_python(given)
    except ValidationError as error:
        raise Refused(400, f"steering.{explained(error)}; {_FORMS}", "steering") from error
    changes: list[Change] = []
    strengths: list[tuple[int, float]] = []
    for item in items:
        direction = catalogue.find(item.emotion, item.family)
        layers = _layers(item.layers, catalogue)
        lengths = tuple((layer, added_length(item.strength, catalogue.norms[layer])) for layer in layers)
        changes.append(Change(direction, lengths, item.mode, item.positions))
        if item.mode == "add":
            strengths.append((direction, item.strength * len(layers)))
        elif item.mode == "clamp":
            strengths.append((direction, item.strength))
    return tuple(changes), strengths


def _flat(given: Sequence[float], catalogue: Catalogue) -> tuple[Plan, list[tuple[int, float]]]:
    """The plan of a flat list of ids and alphas, and what each adds along which direction."""
    if len(given) % 2 or len(given) > 2 * MOST_CHANGES:
        raise Refused(
            400, f"a flat steering list has pairs of id and alpha, at most {MOST_CHANGES}; {_FORMS}", "steering"
        )
    changes: list[Change] = []
    strengths: list[tuple[int, float]] = []
    layer = catalogue.headline
    for identity, alpha in zip(given[::2], given[1::2], strict=True):
        if not 0 <= identity < len(catalogue.directions) or identity != int(identity):
            raise Refused(
                400,
                f"{str(identity)[:20]} is no id of a direction; ids are 0 to {len(catalogue.directions) - 1}",
                "steering",
            )
        if not abs(alpha) <= _LARGEST_ALPHA:
            raise Refused(400, f"an alpha has to be a number of at most {_LARGEST_ALPHA:g} either way", "steering")
        direction, norm = int(identity), catalogue.norms[layer]
        strength = strength_of_alpha(
            alpha, catalogue.units[layer][direction] * catalogue.stored[layer][direction], norm
        )
        changes.append(Change(direction, ((layer, added_length(strength, norm)),), "add", "all"))
        strengths.append((direction, strength))
    return tuple(changes), strengths


def _layers(given: str | int | list[int], catalogue: Catalogue) -> list[int]:
    layers = [catalogue.headline] if given == "auto" else [given] if isinstance(given, int) else sorted(set(given))
    absent = [layer for layer in layers if layer not in catalogue.norms]
    if absent:
        known = list(catalogue.norms)
        listed = f"{known[0]} to {known[-1]}" if known == list(range(known[0], known[-1] + 1)) else str(known)[1:-1]
        raise Refused(400, f"there are no vectors of layer {absent[0]}; allowed: auto, {listed}", "steering")
    return layers


def _check_strength(catalogue: Catalogue, number: int, strength: float, allow_unsafe: bool) -> None:
    direction = catalogue.directions[number]
    low, high = direction.safe
    if not abs(strength) <= STRONGEST:
        raise Refused(
            400,
            f"strength {strength:g} along {direction.name} is beyond every model; at most {STRONGEST:g} either way",
            "steering",
            "strength_out_of_range",
        )
    if allow_unsafe or low - 1e-9 <= strength <= high + 1e-9:
        return
    layer = catalogue.headline
    norm, length = catalogue.norms[layer], float(catalogue.stored[layer][number])
    known = "measured" if direction.measured else "not measured; this is what most models bear"
    raise Refused(
        400,
        f"strength {strength:g} along {direction.name} is outside its safe range, {low:g} to {high:g} ({known}; as "
        f'alpha {low * norm / length:.3g} to {high * norm / length:.3g}); add "allow_unsafe": true to go further',
        "steering",
        "strength_out_of_range",
    )


def _called(value: Any) -> str:
    return {dict: "an object", str: "a text", bool: "true or false"}.get(type(value), "a number")
