"""Judges of replies: language models that choose between two answers to a question about a reply.

Each reply is judged with the answers in both orders, because models favour a position: a judge that always says A
gives every reply the score 0.5, and is seen to do so in its position consistency. What is judged is untrusted text; the
rubric (a Jinja template) sets it between lines that the text itself cannot contain.
"""

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from affectome.corpus.writers import Reply, Request, Writer, persistent
from affectome.errors import UserError
from affectome.identity import fingerprint
from affectome.randomness import generator
from affectome.steering.sets import Behaviour, Question, Template, read_labelled

if TYPE_CHECKING:
    import jinja2

log = logging.getLogger(__name__)

LETTERS = ("A", "B")
REPEATS = 2

# Repeated answers are a sample of what the judge thinks only where it samples as it was trained to; some models refuse
# any other temperature.
TEMPERATURE = 1.0
CONCURRENCY = 8
ATTEMPTS = 4

# A service may refuse to read a few replies; one that leaves more than this unanswered is no judge of the others.
MOST_GIVEN_UP = 0.2


@dataclass(frozen=True)
class JudgeItem:
    """A reply to be judged, and the question about it; `conversation` is what led to the reply."""

    id: str
    conversation: str
    reply: str
    question: Question


@dataclass(frozen=True)
class Judgement:
    """What came of an item.

    `score` is how far the judge chose the positive answer, 0 to 1: the mean over both orders, None where one of them
    got no letter. `pairs` counts repetitions with a letter in both orders, `agreeing` those of them that chose the same
    answer, `unparsed` the letters that did not come even when asked for again.
    """

    id: str
    score: float | None
    pairs: int
    agreeing: int
    unparsed: int


class Judge(Protocol):
    """A language model that judges."""

    name: str

    def check(self) -> None:
        """Raise UserError where the judge could not judge: unreachable, no key or a wrong one, an unknown model."""

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """One judgement per item, in their order. Raises UserError as `check`, or where too few answers come."""


def judge_for(
    spec: dict[str, Any], prompt_file: str | Path, model: Any = None, tokenizer: Any = None, seed: int = 0
) -> Judge:
    """The judge that `spec` describes.

    `{"gemini": model}`, `{"openai": model, "base_url": address}`, `{"local": folder}` or `{"local": True}` for the
    `model` and `tokenizer` given; the first two may say `repeats`. Raises UserError where the prompt or a local model
    cannot be read.
    """
    settings = {"concurrency": CONCURRENCY, "temperature": TEMPERATURE, "config_key": "judge"}
    template = _template(Path(prompt_file))
    repeats = spec.get("repeats", REPEATS)
    if "gemini" in spec:
        from affectome.corpus.writers.gemini import Gemini

        return AskingJudge(Gemini(spec["gemini"], **settings), template, repeats, seed)
    if "openai" in spec:
        from affectome.corpus.writers.openai import OpenAI

        return AskingJudge(OpenAI(spec["openai"], spec["base_url"], **settings), template, repeats, seed)
    if spec["local"] is True:
        if model is None:
            raise UserError("judge.local: true needs a model that is loaded already; name the folder of one instead")
        return LocalJudge(model, tokenizer, template, "local")
    from affectome.models.load import load_model

    return LocalJudge(*load_model(spec["local"], "auto"), template, f"local:{Path(spec['local']).name}")


class AskingJudge:
    """A judge that is asked through a writer: Gemini, or a service that speaks OpenAI's protocol."""

    def __init__(self, writer: Writer, template: "jinja2.Template", repeats: int, seed: int) -> None:
        self.name = writer.name
        self._writer = writer
        self._template = template
        self._repeats = repeats
        self._seed = seed

    def check(self) -> None:
        replies: list[Reply] = []
        self._write([Request("check", "Answer with the letter A and nothing else.", 0)], replies.append)
        if replies[0].text is None:
            raise UserError(
                f"the judge {self.name} does not answer ({_listed(replies)}); check the connection and the address"
            )

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        asked = {
            f"{number}/{repeat}/{order}": (item, repeat, order, prompt)
            for number, item in enumerate(items)
            for order, prompt in enumerate(_prompts(self._template, item))
            for repeat in range(self._repeats)
        }

        def requests(names: Iterable[str], turn: int) -> list[Request]:
            drawn = []
            for name in names:
                item, repeat, order, prompt = asked[name]
                rng = generator(self._seed, "judge", item.id, repeat, order, turn)
                drawn.append(Request(name, prompt, int(rng.integers(2**31))))
            return drawn

        letters = self._letters(requests(asked, 0), len(asked))
        # Asked with another seed, not with a sterner prompt: the two would not be the same measurement.
        letters |= self._letters(requests([name for name, letter in letters.items() if not letter], 1), len(asked))
        judgements = []
        for number, item in enumerate(items):
            found = [[letters.get(f"{number}/{repeat}/{order}") for repeat in range(self._repeats)] for order in (0, 1)]
            favours = [[_favour(letter, order) for letter in found[order]] for order in (0, 1)]
            judgements.append(_judgement(item.id, *favours, unparsed=sum(order.count("") for order in found)))
        return judgements

    def _write(self, requests: list[Request], keep: Callable[[Reply], None]) -> None:
        self._writer.write(requests, persistent(requests, keep, ATTEMPTS))

    def _letters(self, requests: list[Request], of: int) -> dict[str, str]:
        """The letter that came for each request, "" for anything else; unanswered requests are left out.

        Raises UserError as soon as too many of `of` requests are unanswered.
        """
        letters: dict[str, str] = {}
        lost: list[Reply] = []

        def keep(reply: Reply) -> None:
            if reply.text is not None:
                letters[reply.id] = parse(reply.text)
                return
            lost.append(reply)
            if len(lost) > MOST_GIVEN_UP * of:
                raise UserError(
                    f"the judge {self.name} left {len(lost)} of {of} requests unanswered ({_listed(lost)}), which is "
                    f"more than {MOST_GIVEN_UP:.0%}; rerun when it answers again"
                )

        if requests:
            self._write(requests, keep)
        if lost:
            log.warning("the judge %s left %d of %d requests unanswered: %s", self.name, len(lost), of, _listed(lost))
        return letters


class LocalJudge:
    """A judge whose score is the probability that the next token is the positive answer's letter.

    It is the probability relative to that of the other letter. Nothing is sampled, so nothing is repeated; a prompt
    that is longer than the model's context counts as unparsed. The model must not be steered meanwhile.
    """

    def __init__(self, model: Any, tokenizer: Any, template: "jinja2.Template", name: str) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        self._template = template
        added = tokenizer.added_tokens_decoder.values()
        self._special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)

    def check(self) -> None:
        self._letter_tokens()

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        letters = self._letter_tokens()
        judgements = []
        for item in items:
            safe = JudgeItem(item.id, self._plain(item.conversation), self._plain(item.reply), item.question)
            first, second = (self._first_letter(prompt, letters) for prompt in _prompts(self._template, safe))
            favours = [first], [None if second is None else 1 - second]
            judgements.append(_judgement(item.id, *favours, unparsed=(first is None) + (second is None)))
        return judgements

    def _letter_tokens(self) -> list[list[int]]:
        """The tokens that are each letter, with and without a space before it."""
        tokens = []
        for letter in LETTERS:
            variants = [self._tokenizer.encode(text, add_special_tokens=False) for text in (letter, f" {letter}")]
            tokens.append(sorted({variant[0] for variant in variants if len(variant) == 1}))
        if not all(tokens):
            raise UserError(f"the judge {self.name} has no token for the letters A and B; choose another model")
        return tokens

    def _plain(self, text: str) -> str:
        """`text` without the strings that the tokenizer would read as the end of a turn and the like."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _first_letter(self, prompt: str, letters: list[list[int]]) -> float | None:
        """Probability that the next token is the first letter rather than the second."""
        import torch

        from affectome.models.anatomy import text_config

        templated = bool(self._tokenizer.chat_template)
        if templated:
            turn = [{"role": "user", "content": prompt}]
            prompt = self._tokenizer.apply_chat_template(
                turn, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        ids = self._tokenizer(prompt, add_special_tokens=not templated, return_tensors="pt")["input_ids"]
        longest = getattr(text_config(self._model.config), "max_position_embeddings", None)
        if longest and ids.shape[1] > longest:
            return None
        # The whole table of logits of a long prompt can be larger than the model.
        can_cut = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        with torch.no_grad():
            output = self._model(input_ids=ids.to(self._model.device), **({"logits_to_keep": 1} if can_cut else {}))
        logits = output.logits[0, -1].double()
        first, second = (torch.logsumexp(logits[tokens], dim=0) for tokens in letters)
        return float(torch.sigmoid(first - second))


def parse(answer: str) -> str:
    """The letter that `answer` consists of, apart from punctuation around it; "" where it is anything else."""
    letter = answer.strip().strip("()[]*\"'`.: ")
    return letter if letter in LETTERS else ""


def consistency(judgements: Sequence[Judgement]) -> dict[str, float | int | None]:
    """How far the answers can be relied on.

    `n` items, how many are `scored`, `unparsed` letters, and `position_consistency`: the share of pairs that chose the
    same answer in both orders (None without pairs). Chance alone would make it 0.5.
    """
    pairs = sum(judgement.pairs for judgement in judgements)
    return {
        "n": len(judgements),
        "scored": sum(judgement.score is not None for judgement in judgements),
        "unparsed": sum(judgement.unparsed for judgement in judgements),
        "position_consistency": sum(judgement.agreeing for judgement in judgements) / pairs if pairs else None,
    }


def labelled_items(content: Behaviour) -> tuple[list[JudgeItem], list[int]]:
    """The replies of a behaviour set that people labelled, and their labels (1 positive, 0 negative)."""
    prompts = {prompt.id: prompt for prompt in content.prompts}
    rows = read_labelled(content.labelled)
    items = [
        JudgeItem(f"labelled {number}", conversation(prompts[row.prompt]), row.reply, content.score.judge)
        for number, row in enumerate(rows)
    ]
    return items, [row.label for row in rows]


def conversation(prompt: Template) -> str:
    """What a model is given to answer, as a judge reads it: the bare text, or the turns under their speakers."""
    if prompt.messages is None:
        return prompt.text
    turns = [(message.role, message.content) for message in prompt.messages]
    turns += [("assistant", prompt.reply)] if prompt.reply else []
    return "\n\n".join(f"[{role}]\n{text}" for role, text in turns)


def agreement(judge: Judge, items: Sequence[JudgeItem], labels: Sequence[int]) -> dict[str, Any]:
    """How far `judge` agrees with the labels that people gave to `items`.

    A score of 0.5 decides nothing and agrees with no label; items without a score are left out. Returns `accuracy`
    with its 95 % Wilson interval `ci`, Cohen's `kappa` (None where it is not defined) and what `consistency` gives.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import cohen_kappa_score

    judgements = judge.judge(items)
    scored = [
        (label, 2 if judgement.score == 0.5 else int(judgement.score > 0.5))
        for label, judgement in zip(labels, judgements, strict=True)
        if judgement.score is not None
    ]
    result = {"judge": judge.name, **consistency(judgements)}
    if not scored:
        return result | {"accuracy": None, "ci": None, "kappa": None}
    labels, found = zip(*scored, strict=True)
    right = sum(a == b for a, b in scored)
    interval = binomtest(right, len(scored)).proportion_ci(0.95, method="wilson")
    # Where judge and labels know one and the same answer only, chance explains everything.
    kappa = float(cohen_kappa_score(labels, found)) if len({*labels, *found}) > 1 else None
    return result | {"accuracy": right / len(scored), "ci": [float(interval.low), float(interval.high)], "kappa": kappa}


def _template(path: Path) -> "jinja2.Template":
    """The rubric's template; raises UserError where it cannot be used."""
    import jinja2

    # Prompts are plain text, so nothing in them is to be escaped.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
    try:
        template = environment.from_string(path.read_text(encoding="utf-8"))
        _prompts(template, JudgeItem("", "", "", Question(question="?", positive="yes", negative="no")))
    except jinja2.TemplateError as error:
        names = "marker, conversation, reply, question, option_a, option_b"
        raise UserError(f"{path}: {error.message}; a rubric is a Jinja template that can use {names}") from error
    return template


def _prompts(template: "jinja2.Template", item: JudgeItem) -> tuple[str, str]:
    """The prompt with the positive answer as A, and that with it as B."""
    # A text cannot contain a digest of itself.
    marker = f"#{fingerprint(asdict(item))[:12]}"
    options = item.question.positive, item.question.negative
    given = {"marker": marker, "question": item.question.question}
    given |= {"conversation": item.conversation, "reply": item.reply}
    return tuple(template.render(given, option_a=a, option_b=b).strip() for a, b in (options, options[::-1]))  # type: ignore[return-value]


def _favour(letter: str | None, order: int) -> float | None:
    """1 where the letter stands for the positive answer, which is A in order 0 and B in order 1."""
    return float(letter == LETTERS[order]) if letter else None


def _judgement(name: str, first: list[float | None], second: list[float | None], unparsed: int) -> Judgement:
    """The judgement from how far the positive answer was favoured in either order, repetition by repetition."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    known = [[value for value in order if value is not None] for order in (first, second)]
    score = float(np.mean([np.mean(order) for order in known])) if all(known) else None
    return Judgement(name, score, len(pairs), sum((a - 0.5) * (b - 0.5) > 0 for a, b in pairs), unparsed)


def _listed(replies: Sequence[Reply]) -> str:
    reasons = Counter(reply.problem for reply in replies if reply.problem)
    return ", ".join(f"{reason} × {count}" for reason, count in reasons.most_common())
