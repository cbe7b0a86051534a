"""Trial `cost`: what a condition does to the model's fluency, knowledge and manners, whatever it does to emotion.

Outcomes: `nll_neutral`, the mean negative log-likelihood (nats per token) of neutral texts under the steered model;
`nll_text`, that of texts written by the steered model under the unsteered one; `repetition` of those texts; `complete`,
whether they came to an end by themselves; `correct`, whether a multiple-choice question is answered rightly; `valid`,
whether the likeliest next token is one of the letters asked for.
"""

from collections.abc import Sequence

import pandas as pd

from affectome.steering.bench import Bench, Item, nll_only
from affectome.steering.framing import continuation
from affectome.steering.passes import Row
from affectome.steering.scorers import completed, repetition
from affectome.steering.sets import LETTERS, Choice, Cost, Prompt, Template, read_questions, read_texts


def run(bench: Bench, content: Cost) -> pd.DataFrame:
    """The table of the trial; config may ask for fewer `texts` and `questions` than the set has."""
    questions = read_questions(content.questions)[: bench.spec["questions"]]
    parts = [
        _neutral(bench, content),
        _correct(bench, content, questions),
        _valid(bench, content.question_prompt, questions),
        _texts(bench, content),
    ]
    return pd.concat(parts, ignore_index=True)


def _neutral(bench: Bench, content: Cost) -> pd.DataFrame:
    texts = read_texts(content.texts)[: bench.spec["texts"]]
    framed = {text.id: bench.frame(Prompt(id=text.id, text=text.text)) for text in texts}
    items = [Item(condition, text.id, 0, framed[text.id]) for condition in bench.conditions for text in texts]
    rows = [Row(item.framed.ids, bench.plan(item.condition, "all")) for item in items]
    found = bench.read("neutral texts", rows, [1] * len(rows), None, nll_only)
    return bench.table(items, [{"nll_neutral": nll} for nll in found])


def _correct(bench: Bench, content: Cost, questions: Sequence[Choice]) -> pd.DataFrame:
    """By the likeliest words where the set has a cloze prompt, by the likeliest letter elsewhere."""
    cloze = content.cloze_prompt
    asked = {question.id: bench.frame(_filled(cloze or content.question_prompt, question)) for question in questions}
    ways = {
        question.id: [
            continuation(bench.tokenizer, asked[question.id], choice if cloze else LETTERS[number])
            for number, choice in enumerate(question.choices)
        ]
        for question in questions
    }
    items = [Item(condition, q.id, 0, asked[q.id]) for condition in bench.conditions for q in questions]
    found = bench.logprobs("questions", items, [ways[item.prompt] for item in items])
    answers = {question.id: question.answer for question in questions}
    scores = [
        {"correct": float(max(range(len(row)), key=row.__getitem__) == answers[item.prompt])}
        for item, row in zip(items, found, strict=True)
    ]
    return bench.table(items, scores)


def _valid(bench: Bench, template: Template, questions: Sequence[Choice]) -> pd.DataFrame:
    asked = {question.id: bench.frame(_filled(template, question)) for question in questions}
    letters = {
        question.id: {
            continuation(bench.tokenizer, asked[question.id], LETTERS[number])[0]
            for number in range(len(question.choices))
        }
        for question in questions
    }
    items = [Item(condition, q.id, 1, asked[q.id]) for condition in bench.conditions for q in questions]
    found = bench.top_tokens("answer format", items)
    scores = [{"valid": float(token in letters[item.prompt])} for item, token in zip(items, found, strict=True)]
    return bench.table(items, scores)


def _filled(template: Template, question: Choice) -> Prompt:
    """The template with the question and its lettered choices in it."""
    options = "\n".join(f"{LETTERS[number]}. {choice}" for number, choice in enumerate(question.choices))

    def fill(text: str | None) -> str | None:
        return text and text.replace("{question}", question.question).replace("{options}", options)

    messages = template.messages and [
        message.model_copy(update={"content": fill(message.content)}) for message in template.messages
    ]
    kind = "cloze" if "{options}" not in template.wording else "letters"
    return Prompt(id=f"{question.id}.{kind}", text=fill(template.text), messages=messages, reply=template.reply)


def _texts(bench: Bench, content: Cost) -> pd.DataFrame:
    items = bench.deal(content.generations)
    written = bench.write(items)
    rows = [Row(item.framed.ids + text.ids) for item, text in zip(items, written, strict=True)]
    found = bench.read("reading", rows, [len(item.framed.ids) for item in items], None, nll_only)
    scores = [
        {"nll_text": nll, "repetition": repetition(text.text), "complete": completed(text.finished)}
        for text, nll in zip(written, found, strict=True)
    ]
    return bench.table(items, scores, written)
