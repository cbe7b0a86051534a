"""Trial `expression`: does steering along an emotion's vector make the model speak of that emotion?

Measured are the log-probability (nats) of each emotion's word set after open prompts, `logprob:{emotion}`, and in
stories that the model writes the log-odds that a classifier gives to each emotion, `classifier:{emotion}`. The
classifier learned from the corpus's stories, read by the unsteered model, and reads what was written the same way. With
a judge, `judge:{emotion}` is its answer, 0 to 1, to whether a story conveys the emotion that was steered or asked for;
stories of the baseline are judged for every emotion.
"""

from typing import Any

import numpy as np
import pandas as pd

from affectome.steering.bench import Bench, Item, asking
from affectome.steering.classifier import EmotionClassifier, train
from affectome.steering.framing import continuation
from affectome.steering.judges import Judge, JudgeItem, conversation
from affectome.steering.passes import Read, Row
from affectome.steering.sets import Expression


def run(
    bench: Bench, content: Expression, stories: pd.DataFrame, layer: int, judge: Judge | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of the trial, and notes on classifier and judge; `layer` is where the classifier reads."""
    classifier = train(
        bench.model,
        bench.tokenizer,
        stories,
        bench.directions.emotions,
        layer,
        bench.spec["generation"]["max_new_tokens"],
        bench.spec["token_budget"],
    )
    words = _words(bench, content)
    written, notes = _stories(bench, content, classifier, layer, judge)
    return pd.concat([words, written], ignore_index=True), {"classifier": classifier.notes, **notes}


def _words(bench: Bench, content: Expression) -> pd.DataFrame:
    items = [
        Item(condition, prompt.id, 0, bench.frame(prompt, asking(content.asking, condition)))
        for condition in bench.conditions
        for prompt in content.prompts
    ]
    emotions = bench.directions.emotions
    words = [(emotion, word) for emotion in emotions for word in content.words_of(emotion)]
    ways = {item.framed: [continuation(bench.tokenizer, item.framed, word) for _, word in words] for item in items}
    found = bench.logprobs("words", items, [ways[item.framed] for item in items])
    of_emotion = {emotion: [n for n, (of, _) in enumerate(words) if of == emotion] for emotion in emotions}
    scores = [
        {f"logprob:{emotion}": float(np.logaddexp.reduce(np.array(row)[own])) for emotion, own in of_emotion.items()}
        for row in found
    ]
    return bench.table(items, scores)


def _stories(
    bench: Bench, content: Expression, classifier: EmotionClassifier, layer: int, judge: Judge | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    items = bench.deal(content.generations, content.asking)
    written = bench.write(items)
    # Read after the prompt alone: words that asked for an emotion are no part of what was written.
    plain = {prompt.id: bench.frame(prompt).ids for prompt in content.generations}
    rows = [Row(plain[item.prompt] + text.ids) for item, text in zip(items, written, strict=True)]
    starts = [len(plain[item.prompt]) for item in items]

    def keep(found: list[Read]) -> list[list[float]]:
        return [classifier.log_odds(reading.pooled) for reading in found]

    found = bench.read("classifying", rows, starts, layer, keep)
    emotions = bench.directions.emotions
    scores = [{f"classifier:{emotion}": value for emotion, value in zip(emotions, row, strict=True)} for row in found]
    notes = _judge(bench, content, judge, items, [text.text for text in written], scores) if judge else {}
    return bench.table(items, scores, written), notes


def _judge(
    bench: Bench, content: Expression, judge: Judge, items: list[Item], texts: list[str], scores: list[dict[str, float]]
) -> dict[str, Any]:
    """Add a judge's answers to `scores`; notes on the judge."""
    prompts = {prompt.id: prompt for prompt in content.generations}
    asked = [
        (number, emotion)
        for number, item in enumerate(items)
        for emotion in bench.directions.emotions
        if item.condition.family == "baseline" or item.condition.direction == emotion
    ]
    judged = []
    for number, emotion in asked:
        question = content.judge.model_copy(update={"question": content.judge.question.replace("{emotion}", emotion)})
        before = conversation(prompts[items[number].prompt])
        judged.append(JudgeItem(f"{number} {emotion}", before, texts[number], question))
    values, notes = bench.judged(judge, judged)
    for (number, emotion), value in zip(asked, values, strict=True):
        scores[number][f"judge:{emotion}"] = value
    return notes
