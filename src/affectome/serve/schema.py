"""OpenAI's requests and replies, as far as a server of one steered model has use for them.

Names and bounds are those of OpenAI's reference (platform.openai.com/docs/api-reference). What clients send that means
nothing here is taken and dropped, and what would change the reply is refused by name. Unknown fields are refused: one
that is ignored (`steerng`) gives results that are not what they are taken for.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from affectome.serve.backend import Kind
from affectome.serve.plan import Refused
from affectome.serve.steering import ReadoutItem, Steering

MOST_CHOICES = 16
MOST_STOPS = 16
_UNSUPPORTED = frozenset(
    {
        "tools",
        "functions",
        "function_call",
        "audio",
        "prediction",
        "reasoning_effort",
        "web_search_options",
        "best_of",
        "suffix",
        "echo",
        "prompt_logprobs",
        "prompt_embeds",
        "use_beam_search",
        "length_penalty",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "structured_outputs",
        "documents",
        "chat_template",
        "truncate_prompt_tokens",
    }
)

_LARGEST = 2**31 - 1


def _integral(value: Any) -> Any:
    """`1.0` is an integer in JSON, whose writers need not know the two apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole(least: int, most: int = _LARGEST) -> Any:
    return Annotated[int, Field(ge=least, le=most), BeforeValidator(_integral)]


_TokenId = _whole(0)
_Stop = Annotated[str, Field(min_length=1, max_length=1000)]
_Dropped = Field(None, exclude=True, description="taken, and without effect")


class _Strict(BaseModel):
    # JSON has types of its own: `"1"` and `true` are no numbers.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    """A turn of the conversation. Fields that OpenAI's replies have are taken, so that a reply can be sent back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = _Dropped
    refusal: None = _Dropped
    audio: None = _Dropped
    function_call: None = _Dropped
    tool_calls: Annotated[list[None], Field(max_length=0)] | None = _Dropped
    annotations: Annotated[list[None], Field(max_length=0)] | None = _Dropped
    reasoning: str | None = _Dropped
    reasoning_content: str | None = _Dropped

    @field_validator("role")
    @classmethod
    def _as_templates_know_it(cls, role: str) -> str:
        return "system" if role == "developer" else role

    @field_validator("content")
    @classmethod
    def _as_one_text(cls, content: str | list[TextPart]) -> str:
        return content if isinstance(content, str) else "\n".join(part.text for part in content)


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = _Dropped


class ResponseFormat(_Strict):
    type: Literal["text"]


class Xargs(_Strict):
    steering: Steering | None = None
    readout: ReadoutItem | None = None


class _Request(_Strict):
    model: str | None = Field(None, description="the one of GET /v1/models; may be left out")
    max_tokens: _whole(1) | None = Field(None, description="of each reply")
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(None, description="only with `stream`")
    n: _whole(1, MOST_CHOICES) | None = Field(None, description="replies to each prompt")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: _whole(-(2**63), 2**63 - 1) | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024, json_schema_extra={"additionalProperties": False}),
        ]
        | None
    ) = None

    top_k: _whole(-1) | None = Field(None, description="as vLLM's: 0 and −1 are all tokens")
    min_p: float | None = Field(None, ge=0, le=1, description="as vLLM's")
    repetition_penalty: float | None = Field(None, gt=0, le=2, description="as vLLM's")
    min_tokens: _whole(0) | None = Field(None, description="as vLLM's; at most `max_tokens`")
    ignore_eos: bool | None = Field(None, description="as vLLM's: write on until `max_tokens`")
    stop_token_ids: Annotated[list[_TokenId], Field(max_length=MOST_STOPS)] | None = Field(
        None, description="as vLLM's"
    )
    skip_special_tokens: bool | None = Field(None, description="as vLLM's")

    steering: Steering | None = None
    readout: ReadoutItem | None = Field(None, description="projections to send back with the tokens; only with n = 1")
    allow_unsafe: bool | None = Field(None, description="lifts the directions' safe ranges")
    vllm_xargs: Xargs | None = Field(None, description="another place for `steering` and `readout`")

    user: str | None = _Dropped
    metadata: dict[str, str] | None = _Dropped
    store: bool | None = _Dropped
    service_tier: str | None = _Dropped
    safety_identifier: str | None = _Dropped
    prompt_cache_key: str | None = _Dropped

    @model_validator(mode="after")
    def _together(self) -> "_Request":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed with stream: true")
        if self.min_tokens and self.max_tokens and self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens is more than max_tokens")
        return self


class ChatRequest(_Request):
    """A request of `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: _whole(1) | None = Field(None, description="the later name of `max_tokens`")
    logprobs: bool | None = None
    top_logprobs: _whole(0, 20) | None = Field(None, description="only with `logprobs`")
    chat_template_kwargs: (
        Annotated[dict[str, bool | int | float | Annotated[str, Field(max_length=1000)]], Field(max_length=16)] | None
    ) = Field(None, description="as vLLM's: what the chat template asks for, such as `enable_thinking`")
    add_generation_prompt: bool | None = Field(None, description="as vLLM's")
    continue_final_message: bool | None = Field(None, description="as vLLM's; not with `add_generation_prompt`")

    response_format: ResponseFormat | None = _Dropped
    modalities: list[Literal["text"]] | None = _Dropped
    tool_choice: Literal["none", "auto"] | None = _Dropped
    parallel_tool_calls: bool | None = _Dropped
    prompt_cache_retention: str | None = _Dropped
    verbosity: Literal["low", "medium", "high"] | None = _Dropped

    @model_validator(mode="after")
    def _of_chat(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed with logprobs: true")
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                raise ValueError("max_tokens and max_completion_tokens differ; leave one")
            self.max_tokens, self.max_completion_tokens = self.max_completion_tokens, None
        if self.continue_final_message:
            if self.add_generation_prompt:
                raise ValueError("continue_final_message does not go with add_generation_prompt: true")
            self.add_generation_prompt = False
        return self


class TextRequest(_Request):
    """A request of `/v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES)]
        | Annotated[list[_TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[_TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MOST_CHOICES)]
    ) = Field(description="a text, several, or token ids")
    logprobs: _whole(0, 20) | None = None


_REQUESTS: dict[Kind, type[_Request]] = {"chat": ChatRequest, "text": TextRequest}


def parse(kind: Kind, body: Mapping[str, Any]) -> ChatRequest | TextRequest:
    """`body` as a request of `kind`; Refused, naming the field and what it may be, where it is none."""
    model = _REQUESTS[kind]
    given = {}
    for name, value in body.items():
        if name not in _UNSUPPORTED:
            given[name] = value
        elif value not in (None, [], False):
            raise Refused(400, f"this server does not support {name}", name, "unsupported_parameter")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _refused(error, model) from error


def _refused(error: ValidationError, model: type[BaseModel]) -> Refused:
    """The first of pydantic's complaints; the value itself is left out, as it may be long or a secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # Only what is a place in the body: pydantic puts the branches of unions there too.
    place = [str(part) for part in first["loc"] if isinstance(part, int) or str(part).isidentifier()]
    top = place[0] if place else None
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        name = place[-1] if place else str(first["loc"][-1])
        near = difflib.get_close_matches(name, model.model_fields, n=1) if len(first["loc"]) == 1 else []
        message = f"there is no such field{f'; did you mean {near[0]}?' if near else ''}"
    where = ".".join(place)[:200]
    return Refused(400, f"{where}: {message}" if where else message, top and top[:100], "invalid_value")


class _Loose(BaseModel):
    """A reply, whose engine may add to it."""

    model_config = ConfigDict(extra="allow")


class Usage(_Loose):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ReplyMessage(_Loose):
    role: Literal["assistant"]
    content: str | None


class ChatChoice(_Loose):
    index: int
    message: ReplyMessage
    finish_reason: str | None


class TextChoice(_Loose):
    index: int
    text: str
    finish_reason: str | None


class ReadoutReply(_Loose):
    """Projections of generated tokens, as fractions of the layer's mean residual norm, before steering at that layer.

    `values` has a row for each token and in it a number for each emotion; null for a token that the model wrote but has
    not read.
    """

    layer: int
    emotions: list[str]
    tokens: list[str]
    values: list[list[float] | None]


class ChatReply(_Loose):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    readout: ReadoutReply | None = None


class TextReply(_Loose):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    readout: ReadoutReply | None = None


class ModelCard(_Loose):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Loose):
    object: Literal["list"]
    data: list[ModelCard]


class Emotions(_Loose):
    """What can be steered along, and how far."""

    object: Literal["list"]
    model: str
    backend: str
    headline_layer: int
    layers: list[int]
    data: list[dict[str, Any]]
    limits: dict[str, float]


class Health(_Loose):
    status: Literal["ok", "unavailable"]
    backend: str
    model: str


class ErrorContent(_Loose):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(_Loose):
    error: ErrorContent
