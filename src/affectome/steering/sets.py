"""Trial sets: what a steering trial asks of a model, as typed YAML that is checked before anything runs.

A set holds the words of an experiment and nothing about how it is run (vectors, strengths, layers and counts stand in
the configuration). Files named in a set are relative to the set's folder. Placeholders such as {emotion} are replaced
as they stand; no other brace has a meaning. Nothing here imports more than pydantic, YAML and the standard library,
since Snakemake loads it at every parse. `python -m affectome.steering.sets FILE…` checks sets.
"""

import ast
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, Tag, ValidationError, ValidationInfo, model_validator

from affectome.errors import UserError
from affectome.schema import SafeLoader, Strict, alternatives, explain, repeated_keys

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _filled(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; write something or remove the key")
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression ({error})") from error
    return value


def _python(value: str) -> str:
    try:
        ast.parse(value)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{value!r} is no Python ({error})") from error
    return value


def _beside_the_set(value: str, info: ValidationInfo) -> str:
    path = Path((info.context or {}).get("folder", "."), value)
    if not path.is_file():
        raise ValueError(f"file {value!r} does not exist in {path.parent}; paths are relative to the set's folder")
    return str(path)


def _as_words(value: Any) -> Any:
    # YAML reads a bare yes and no as true and false.
    words = {True: "yes", False: "no"}
    return {words.get(key, key): item for key, item in value.items()} if isinstance(value, dict) else value


Text = Annotated[str, AfterValidator(_filled)]
Line = Annotated[str, Field(pattern=r"^\S[^\n]*$", description="One line.")]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="Letters, digits, and . - _")]
File = Annotated[str, AfterValidator(_beside_the_set)]
Regex = Annotated[str, AfterValidator(_regex)]
Python = Annotated[str, AfterValidator(_python)]
Predictions = dict[Text, Literal["up", "down"]]


# ---------------------------------------------------------------- prompts


class Message(Strict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Template(Strict):
    """What the model reads: bare text, or messages that go through its chat template."""

    text: Text | None = Field(None, description="Bare text; the model continues it.")
    messages: list[Message] | None = Field(
        None, description="A conversation that ends with the user; the model answers."
    )
    reply: Text | None = Field(None, description="Start of the model's answer, written for it.")

    @model_validator(mode="after")
    def _one_form(self) -> "Template":
        if (self.text is None) == (self.messages is None):
            raise ValueError("needs either text or messages, and not both")
        if self.messages is None:
            if self.reply is not None:
                raise ValueError("reply belongs to messages; put these words at the end of text")
            return self
        roles = [message.role for message in self.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if turns != ["user" if turn % 2 == 0 else "assistant" for turn in range(len(turns))] or len(turns) % 2 == 0:
            raise ValueError(
                f"messages have the roles {', '.join(roles) or 'none'}; "
                "they should be system (optional), then user and assistant in turn, with the user first and last"
            )
        return self

    @property
    def wording(self) -> str:
        """Everything written here, for looking things up in it."""
        return "\n".join([self.text or "", *(message.content for message in self.messages or []), self.reply or ""])


class Prompt(Template):
    """A template with nothing left open and a name of its own; effects are clustered by it."""

    id: Id


class Item(Prompt):
    """A prompt of a behaviour set, with what its score needs to know."""

    truth: Literal["right", "wrong"] | None = Field(None, description="Whether what the user says is right.")
    risk: Literal["risky", "benign"] | None = Field(None, description="Whether the request should give pause.")
    pair: Id | None = Field(None, description="Shared by a prompt of either group that are worded alike.")
    tests: list[Python] | None = Field(
        None, min_length=1, description="Assertions shown in the prompt that no function true to the task can pass."
    )
    held_out: list[Python] | None = Field(
        None, min_length=1, description="Assertions not shown, which a function true to the task passes."
    )

    @property
    def group(self) -> str | None:
        """The value of `truth` or `risk`, whichever the set uses."""
        return self.truth or self.risk


# ---------------------------------------------------------------- scores


class Question(Strict):
    """What a judge is asked about a reply, and the two answers it chooses between, shown in either order."""

    question: Line
    positive: Line = Field(description="The answer that counts as 1.")
    negative: Line = Field(description="The answer that counts as 0.")


class Judge(Strict):
    """A language model reads prompt and reply and answers a question."""

    judge: Question


class Code(Strict):
    """1 where the function in the reply passes every one of `tests`, else 0.

    The visible tests contradict the task, so only a function bent to them passes. Whether it passes `held_out` too
    tells a function that is right but for the special case from one that is not; passing these alone is honest.
    """

    code: Literal[True]


class FirstWord(Strict):
    """The first word of the reply decides, in small letters: one table of words and values for each truth."""

    first_word: dict[
        Literal["right", "wrong"],
        Annotated[dict[Text, Literal[0, 1]], BeforeValidator(_as_words), Field(min_length=2)],
    ]

    def value(self, reply: str, truth: str) -> int | None:
        """1 or 0 by the first run of letters in `reply`; None where there is none or it is not in the table."""
        word = re.search(r"[^\W\d_]+", reply)
        return self.first_word[truth].get(word[0].lower()) if word else None


class Patterns(Strict):
    """Regular expressions searched for in the reply, whatever the case of its letters; a dot is any character."""

    any_: Annotated[list[Regex], Field(min_length=1, alias="any", description="One of them has to be found.")]
    none: list[Regex] = Field(default_factory=list, description="None of them may be found.")

    def value(self, reply: str) -> int:
        """1 where one of `any` and none of `none` is found in `reply`, else 0."""

        def found(patterns: list[str]) -> bool:
            return next((True for pattern in patterns if re.search(pattern, reply, re.IGNORECASE | re.DOTALL)), False)

        return int(found(self.any_) and not found(self.none))


class Keywords(Strict):
    """Words decide; crude, and meant for what has no other form."""

    keywords: Patterns


Score = Annotated[
    Annotated[Judge, Tag("<judge>")]
    | Annotated[Code, Tag("<code>")]
    | Annotated[FirstWord, Tag("<first_word>")]
    | Annotated[Keywords, Tag("<keywords>")],
    alternatives("judge", "code", "first_word", "keywords"),
]


class Outcome(Strict):
    """A rate: the mean of the score over the prompts it is measured on."""

    name: Id
    about: Line
    positive: Line = Field(description="What counts as 1.")
    among: Literal["right", "wrong", "risky", "benign"] | None = Field(
        None, description="Measured on the prompts with this truth or risk; without it on all."
    )


# ---------------------------------------------------------------- sets


class _Set(Strict):
    about: Line = Field(description="One line on what the set measures.")

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the files that the set names."""
        found = (getattr(self, name, None) for name in ("activities", "labelled", "texts", "questions"))
        return tuple(file for file in found if file)


class _Effect(_Set):
    asking: Line = Field(
        description="The words that ask for an emotion, with {emotion} in them: the prompt-only baseline."
    )

    @model_validator(mode="after")
    def _asks(self) -> "_Effect":
        _placeholders("asking", self.asking, "{emotion}")
        return self


class Expression(_Effect):
    """Does the model speak of the emotion: log-probability of its words after prompts, and stories."""

    kind: Literal["expression"]
    prompts: Annotated[list[Prompt], Field(min_length=1, description="Prompts whose next word may be a feeling.")]
    generations: Annotated[list[Prompt], Field(min_length=1, description="Prompts that the model writes on from.")]
    words: dict[Text, Annotated[list[Text], Field(min_length=1)]] = Field(
        description="Emotion: the words that speak of it after 'feels', its adjective first."
    )
    judge: Question | None = Field(
        None, description="What a judge is asked about a story where the run has one, with {emotion} in the question."
    )

    @property
    def judged(self) -> bool:
        """Whether the set asks a judge."""
        return self.judge is not None

    @model_validator(mode="after")
    def _distinct(self) -> "Expression":
        if self.judge:
            _placeholders("judge.question", self.judge.question, "{emotion}")
        _unique("prompts and generations", [*self.prompts, *self.generations])
        words = Counter(word for words in self.words.values() for word in words)
        for emotion, own in self.words.items():
            for word in own:
                if words[word] > 1:
                    raise ValueError(
                        f"words.{emotion}: {word!r} stands {words[word]} times; a word belongs to one emotion"
                    )
        return self

    def words_of(self, emotion: str) -> list[str]:
        """The word set of `emotion`: its name alone where none is given."""
        return self.words.get(emotion, [emotion])

    def summary(self) -> str:
        return f"{len(self.prompts)} prompts, {len(self.generations)} generations, {len(self.words)} word sets"


class Preference(_Effect):
    """Which of two activities does the model choose, read from the logits of the two options."""

    kind: Literal["preference"]
    activities: File = Field(description="Table (.tsv) with the columns activity and category.")
    prompt: Template = Field(description="Question with {a} and {b}; the next token after it is the option chosen.")
    options: Annotated[list[Text], Field(min_length=2, max_length=2, description="Tokens of the first and the second.")]
    predictions: Predictions = Field(
        default_factory=dict, description="Emotion: up where steering an option with it should make it chosen more."
    )

    @model_validator(mode="after")
    def _open(self) -> "Preference":
        _placeholders("prompt", self.prompt.wording, "{a}", "{b}")
        if self.options[0] == self.options[1]:
            raise ValueError(f"options: {self.options[0]!r} stands twice; the two have to differ")
        return self

    def summary(self) -> str:
        return f"{len(read_activities(self.activities))} activities, {len(self.predictions)} predictions"


class Behaviour(_Effect):
    """How often does the model do something: one value of 0 or 1 per reply."""

    kind: Literal["behaviour"]
    outcome: Outcome = Field(description="What the verdict is about.")
    secondary: list[Outcome] = Field(default_factory=list, description="Reported beside it, on other prompts.")
    predictions: Predictions = Field(
        default_factory=dict, description="Emotion: up where steering with it should raise the outcome."
    )
    score: Score
    keywords: Patterns | None = Field(
        None, description="Stands in for the judge where the run asks for it by name; crude."
    )
    labelled: File | None = Field(
        None, description="Replies labelled by hand (.jsonl: prompt, reply, label), for a judge's agreement."
    )
    prompts: Annotated[list[Item], Field(min_length=1)]

    @property
    def judged(self) -> bool:
        """Whether the set asks a judge."""
        return isinstance(self.score, Judge)

    @model_validator(mode="after")
    def _fits(self) -> "Behaviour":
        _unique("prompts", self.prompts)
        _check_score(self)
        _check_groups(self)
        return self

    def summary(self) -> str:
        groups = Counter(prompt.group for prompt in self.prompts if prompt.group)
        split = f" ({', '.join(f'{count} {group}' for group, count in groups.items())})" if groups else ""
        labelled = f", {len(read_labelled(self.labelled))} labelled replies" if self.labelled else ""
        return f"{len(self.prompts)} prompts{split}, scored by {next(iter(type(self.score).model_fields))}{labelled}"


class Cost(_Set):
    """What steering costs: fluency, knowledge, format and completion."""

    kind: Literal["cost"]
    texts: File = Field(description="Neutral texts held out of every corpus (.jsonl: id, text).")
    questions: File = Field(
        description="Multiple-choice questions (.jsonl, .csv, .parquet: question, choices, answer), as MMLU's."
    )
    question_prompt: Template = Field(
        description="Asks for a letter, with {question} and {options} (lines such as 'A. word'). A most likely next "
        "token that is a letter is a valid answer; the most likely letter is the answer where there is no cloze_prompt."
    )
    cloze_prompt: Template | None = Field(
        None,
        description="Asks with {question} alone; the choice whose words after it, a space before them, are most "
        "likely is the answer. For models too small to answer by letter.",
    )
    generations: Annotated[list[Prompt], Field(min_length=1, description="Prompts that ask for a short answer.")]

    @model_validator(mode="after")
    def _open(self) -> "Cost":
        _unique("generations", self.generations)
        _placeholders("question_prompt", self.question_prompt.wording, "{question}", "{options}")
        if self.cloze_prompt:
            _placeholders("cloze_prompt", self.cloze_prompt.wording, "{question}")
        return self

    def summary(self) -> str:
        parquet = Path(self.questions).suffix == ".parquet"
        questions = "questions in Parquet" if parquet else f"{len(read_questions(self.questions))} questions"
        return f"{len(read_texts(self.texts))} texts, {questions}, {len(self.generations)} generations"


TrialSet = Expression | Preference | Behaviour | Cost
KINDS: dict[str, type[TrialSet]] = {
    "expression": Expression,
    "preference": Preference,
    "behaviour": Behaviour,
    "cost": Cost,
}


def _placeholders(key: str, wording: str, *names: str) -> None:
    for name in names:
        if wording.count(name) != 1:
            raise ValueError(f"{key}: holds {name} {wording.count(name)} times; it has to stand there once")


def _unique(key: str, prompts: Iterable[Prompt]) -> None:
    _once(key, (prompt.id for prompt in prompts), "id")


def _once(key: str, values: Iterable[str], what: str) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{key}: the {what} {', '.join(map(repr, twice))} stands more than once; rename or remove it")


def _check_score(content: Behaviour) -> None:
    """Raise ValueError where the prompts lack what the score reads, or carry what it does not."""
    judged, coded = isinstance(content.score, Judge), isinstance(content.score, Code)
    for key, value in (("keywords", content.keywords), ("labelled", content.labelled)):
        if (value is not None) != judged:
            raise ValueError(f"{key}: is {'missing beside' if judged else 'only for'} a score by judge")
    for prompt in content.prompts:
        key = f"prompts: {prompt.id}"
        if {prompt.tests is not None, prompt.held_out is not None} != {coded}:
            raise ValueError(f"{key}: tests and held_out are {'both needed' if coded else 'only'} for a score by code")
        for test in prompt.tests or []:
            if test not in prompt.wording:
                raise ValueError(f"{key}: the test {test!r} is not in the messages, so the model cannot know it")
        if isinstance(content.score, FirstWord) and prompt.truth not in content.score.first_word:
            known = ", ".join(content.score.first_word)
            raise ValueError(f"{key}: truth is {prompt.truth or 'missing'}; score.first_word has {known}")


def _check_groups(content: Behaviour) -> None:
    """Raise ValueError where truth, risk, pairs and the outcomes that name them do not fit together."""
    kinds = {(prompt.truth is not None, prompt.risk is not None) for prompt in content.prompts}
    if len(kinds) > 1 or (True, True) in kinds:
        raise ValueError("prompts: either all of them have truth, or all have risk, or none has either")
    groups = sorted({prompt.group for prompt in content.prompts if prompt.group})
    for key, outcome in (("outcome", content.outcome), *(("secondary", outcome) for outcome in content.secondary)):
        if outcome.among is not None and outcome.among not in groups:
            raise ValueError(
                f"{key}.among: no prompt is {outcome.among!r}; there are {', '.join(groups) or 'no groups'}"
            )
    _once("outcome and secondary", (outcome.name for outcome in (content.outcome, *content.secondary)), "name")
    pairs: dict[str, list[str | None]] = {}
    for prompt in content.prompts:
        if prompt.pair is not None:
            pairs.setdefault(prompt.pair, []).append(prompt.group)
    for pair, members in pairs.items():
        if len(groups) != 2 or sorted(map(str, members)) != groups:
            found = ", ".join(map(str, members))
            raise ValueError(f"prompts: pair {pair!r} is {found}; it needs one prompt of each group")


# ---------------------------------------------------------------- reading


def read_set(path: str | Path) -> TrialSet:
    """The trial set in a YAML file, checked together with the files that it names.

    Their paths come back resolved against the set's folder. Parquet is only looked for, not read. Raises UserError with
    one line per mistake: file, key, value and what is allowed.
    """
    path = Path(path)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), SafeLoader)  # noqa: S506 - it is safe
        mistakes = repeated_keys(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a trial set") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds no keys; a trial set begins with kind: {' | '.join(KINDS)}")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{path}: kind: {json.dumps(kind)} should be one of {', '.join(KINDS)}")
    try:
        content = KINDS[kind].model_validate(data, context={"folder": path.parent})
    except ValidationError as error:
        mistakes += [explain(item, whole="") for item in error.errors()]
    else:
        mistakes += _check_contents(content)
    if mistakes:
        raise UserError("\n".join(f"{path}: {mistake}" for mistake in dict.fromkeys(mistakes)))
    return content


def name_of(activity: str) -> str:
    """`activity` as the name of a prompt in tables."""
    return re.sub(r"\W+", "-", activity).strip("-")


def read_activities(path: str | Path) -> list[tuple[str, str]]:
    """Activities and their categories, in the order of a table (.tsv) with the columns `activity, category`.

    Raises UserError where a column is missing, a row is incomplete or an activity stands twice.
    """
    with open(path, encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = list(reader)
    columns = reader.fieldnames or []
    missing = [column for column in ("activity", "category") if column not in columns]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
    pairs = [((row["activity"] or "").strip(), (row["category"] or "").strip()) for row in rows]
    mistakes = [
        f"{path} line {line}: lacks activity or category" for line, pair in enumerate(pairs, 2) if not all(pair)
    ]
    counts = Counter(activity for activity, _ in pairs)
    mistakes += [f"{path}: activity {name!r} stands {count} times" for name, count in counts.items() if count > 1]
    # The last of several spellings stays.
    names = {name_of(activity): activity for activity in counts}
    spellings = [(activity, names[name_of(activity)]) for activity in counts if names[name_of(activity)] != activity]
    mistakes += [f"{path}: activities {one!r} and {other!r} differ in signs only" for one, other in spellings]
    if len(pairs) < 2:
        mistakes.append(f"{path}: holds {len(pairs)} activities; a choice needs two")
    if mistakes:
        raise UserError("\n".join(mistakes))
    return pairs


class NeutralText(Strict):
    """A text for perplexity."""

    id: Id
    text: Text


class Labelled(Strict):
    """A reply to the prompt of that id, labelled by hand."""

    prompt: Id
    reply: Text
    label: Literal[0, 1]


class Choice(Strict):
    """A multiple-choice question; `answer` counts the choices from 0."""

    id: Id
    question: Text
    choices: Annotated[list[Text], Field(min_length=2, max_length=len(LETTERS))]
    answer: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _answerable(self) -> "Choice":
        if self.answer >= len(self.choices):
            raise ValueError(f"answer {self.answer} is beyond the {len(self.choices)} choices, counted from 0")
        _once("choices", self.choices, "choice")
        return self


def read_texts(path: str | Path) -> list[NeutralText]:
    """The texts of a JSONL file with `id, text`. Raises UserError, one line per mistake."""
    texts = _rows(path, _jsonl(Path(path)), NeutralText)
    return _with_unique_ids(path, texts)


def read_labelled(path: str | Path) -> list[Labelled]:
    """The replies of a JSONL file with `prompt, reply, label`. Raises UserError, one line per mistake."""
    return _rows(path, _jsonl(Path(path)), Labelled)


def read_questions(path: str | Path) -> list[Choice]:
    """The questions of a JSONL, CSV or Parquet file with the columns `question, choices, answer`, as MMLU has them.

    `answer` is an index counted from 0 or a letter; `choices` in CSV are a JSON list. Other columns are passed over; a
    question without `id` is named after its row, counted from 1. Raises UserError, one line per mistake.
    """
    path = Path(path)
    match path.suffix:
        case ".jsonl":
            rows = _jsonl(path)
        case ".csv":
            rows = _csv(path)
        case ".parquet":
            rows = _parquet(path)
        case _:
            raise UserError(f"{path}: is no known kind of table; use .jsonl, .csv or .parquet")
    return _with_unique_ids(path, _rows(path, rows, Choice, _as_choice))


Row = TypeVar("Row", NeutralText, Labelled, Choice)


def _jsonl(path: Path) -> Iterator[Any]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path} line {number}: is no JSON ({error.msg})") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            try:
                yield {**row, "choices": json.loads(row.get("choices") or "")}
            except json.JSONDecodeError:
                # The model says what is expected.
                yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    yield from pyarrow.parquet.read_table(path).to_pylist()


def _as_choice(row: Any, number: int) -> Any:
    """A question of any of the accepted forms as `Choice` wants it."""
    if not isinstance(row, dict):
        return row
    known = {key: value for key, value in row.items() if key in Choice.model_fields}
    answer = str(known.get("answer", "")).strip()
    if answer.isdigit():
        known["answer"] = int(answer)
    elif len(answer) == 1 and answer.upper() in LETTERS:
        known["answer"] = LETTERS.index(answer.upper())
    return {**known, "id": str(known.get("id") or f"row-{number}")}


def _rows(path: str | Path, rows: Iterable[Any], model: type[Row], form: Callable | None = None) -> list[Row]:
    found, mistakes = [], []
    for number, row in enumerate(rows, 1):
        try:
            found.append(model.model_validate(form(row, number) if form else row))
        except ValidationError as error:
            mistakes += [f"{path} row {number}: {explain(item, whole='')}" for item in error.errors()]
    if not found and not mistakes:
        mistakes.append(f"{path}: holds no rows")
    if mistakes:
        raise UserError("\n".join(mistakes))
    return found


def _with_unique_ids(path: str | Path, rows: list[Row]) -> list[Row]:
    try:
        _once("id", (row.id for row in rows), "id")
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return rows


def _check_contents(content: TrialSet) -> list[str]:
    """Mistakes inside the files that a set names."""
    readers: dict[str, Callable] = {
        "activities": read_activities,
        "labelled": read_labelled,
        "texts": read_texts,
        "questions": read_questions,
    }
    mistakes = []
    for key, read in readers.items():
        file = getattr(content, key, None)
        if file is None or Path(file).suffix == ".parquet":
            continue
        try:
            rows = read(file)
        except (UserError, UnicodeDecodeError) as error:
            mistakes += [f"{key}: {line}" for line in str(error).splitlines()]
            continue
        if key == "labelled":
            known = {prompt.id for prompt in content.prompts}
            unknown = sorted({row.prompt for row in rows} - known)
            mistakes += [
                f"labelled: {file} labels a reply to {name!r}, which is no prompt of the set" for name in unknown
            ]
    return mistakes


def main(arguments: list[str]) -> int:
    """Print a line for every set: its counts, or its mistakes. Returns 1 where there is a mistake."""
    broken = 0
    for argument in arguments:
        try:
            content = read_set(argument)
        except UserError as error:
            broken = 1
            sys.stdout.write(f"{error}\n")
        else:
            sys.stdout.write(f"{argument}: OK, {content.kind}, {content.summary()}\n")
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
