"""Writing with Gemini's batch mode: half the price, within a day instead of within a minute.

Requests go out in batch jobs, which go on at the service whatever becomes of this process. Each has a small file of
its own here, written before it is submitted, so that whoever runs next asks what became of it instead of paying twice.
"""

import json
import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from affectome.corpus.writers import Keep, Purse, Reply, Request, request_key
from affectome.corpus.writers.asking import FIRST_TRIES, TIMEOUT_S, TRIES, Answer, BusyError, backoff, on_one_line
from affectome.corpus.writers.gemini import WHERE, Gemini, answer_in, open_client
from affectome.errors import UserError
from affectome.files import read_json, write_json

if TYPE_CHECKING:
    from google.genai import Client

log = logging.getLogger(__name__)

# The service takes 20 MB and 100 jobs at once; what is lost with a job that fails should not be too much either.
REQUESTS_PER_JOB = 1000
BYTES_PER_JOB = 15_000_000
MOST_JOBS = 20

# What a request takes besides its prompt: its seed, its form, its number.
_BYTES_AROUND = 1000

POLL_S = 15.0
LOG_INTERVAL_S = 30.0

# Jobs in a row that may end without a single answer.
MOST_EMPTY_JOBS = 3

_ENDED = {"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}

# Of single requests, as google.rpc.Code or as HTTP status: cancelled, unknown, too late, exhausted, aborted, internal,
# unavailable.
_PASSING = {1, 2, 4, 8, 10, 13, 14, 408, 429, 499}

_Result = TypeVar("_Result")


class _FullError(Exception):
    """The service takes no more jobs until one of those under way ends."""


@dataclass
class _Job:
    """A batch job: its `requests` by number, those whose replies are there left out; `name` is the service's for it."""

    file: Path
    label: str
    keys: list[str]
    requests: dict[int, Request]
    name: str | None = None
    state: str = ""

    def save(self) -> None:
        write_json(self.file, {"label": self.label, "name": self.name, "requests": self.keys})


@dataclass
class _Operation:
    """What the service says of a batch job.

    The client's own type of it lacks the reason of a failure, and does not admit the details of a request's error.
    """

    name: str
    said: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_api_response(cls, api_response: Any, is_vertex_ai: bool = False) -> "_Operation":  # noqa: ARG003
        said = api_response if isinstance(api_response, dict) else {}
        return cls(said.get("name", ""), said)

    @property
    def state(self) -> str:
        state = str((self.said.get("metadata") or {}).get("state", "")).rpartition("_STATE_")[2]
        return "FAILED" if self.said.get("error") and state not in _ENDED else state

    @property
    def responses(self) -> list[dict[str, Any]]:
        for output in ((self.said.get("metadata") or {}).get("output"), self.said.get("response")):
            found = ((output or {}).get("inlinedResponses") or {}).get("inlinedResponses")
            if found:
                return [response for response in found if isinstance(response, dict)]
        return []


class GeminiBatch:
    """A writer that asks the model `gemini` in batch jobs, whose names it keeps in `folder`.

    Other arguments are those of `Gemini`.
    """

    def __init__(
        self,
        gemini: str,
        temperature: float,
        folder: Path,
        thinking_tokens: int | None = None,
        timeout: float = TIMEOUT_S,
        config_key: str = "corpora.*.writer",
    ) -> None:
        self._gemini = Gemini(gemini, temperature, 1, thinking_tokens, config_key=config_key)
        self.name = self._gemini.name
        self._model = gemini
        self._sampling = [gemini, temperature, thinking_tokens]
        self._folder = folder
        self._timeout = timeout
        self._config_key = config_key

    def write(self, requests: Sequence[Request], keep: Keep, purse: Purse | None = None) -> None:
        """Hand `keep` one reply per request, and go on with those it returns.

        Batch jobs of an earlier process that hold some of the requests are waited for before anything is submitted.
        Raises UserError as `Gemini.write`, and where a batch job fails.
        """
        client, key = open_client(self._timeout)
        try:
            _Writing(self, client, key, requests, keep, purse).run()
        finally:
            client.close()

    def request_key(self, request: Request) -> str:
        """What identifies the reply to `request`."""
        return request_key(request, self._sampling)


class _Writing:
    def __init__(
        self,
        writer: GeminiBatch,
        client: "Client",
        key: str,
        requests: Sequence[Request],
        keep: Keep,
        purse: Purse | None,
    ) -> None:
        self._writer, self._client, self._key, self._keep, self._purse = writer, client, key, keep, purse
        self._gemini, self._folder = writer._gemini, writer._folder
        self._waiting = deque(requests)
        self._failures: dict[str, list[str]] = {}
        self._jobs: list[_Job] = []
        self._exhausted = self._full = False
        self._reached = False
        self._empty_jobs = 0
        self._answered = 0
        self._told = time.monotonic()

    def run(self) -> None:
        self._resume()
        self._submit()
        while self._jobs:
            time.sleep(POLL_S)
            for job in list(self._jobs):
                self._look_at(job)
            self._submit()
            self._tell()
        if self._exhausted and self._purse:
            raise self._purse.exhausted()

    def _resume(self) -> None:
        """Take up the jobs of earlier processes that hold requests of ours."""
        wanted: dict[str, deque[Request]] = {}
        for request in self._waiting:
            wanted.setdefault(self._writer.request_key(request), deque()).append(request)
        for file in sorted(self._folder.glob("*.json")):
            content = read_json(file)
            keys = content["requests"]
            requests = {number: wanted[key].popleft() for number, key in enumerate(keys) if wanted.get(key)}
            if not requests:
                continue
            job = _Job(file, content["label"], keys, requests, content["name"])
            if job.name is None:
                # The process may have been killed just before or just after the service took the job.
                job.name = self._patiently(lambda job=job: self._find(job))  # type: ignore[misc]
            if job.name is None:
                file.unlink()
                continue
            job.save()
            self._jobs.append(job)
        if self._jobs:
            taken = {id(request) for job in self._jobs for request in job.requests.values()}
            self._waiting = deque(request for request in self._waiting if id(request) not in taken)
            log.info("%d batch jobs of an earlier run are waited for (%d requests)", len(self._jobs), len(taken))

    def _submit(self) -> None:
        while self._waiting and not self._exhausted and not self._full and len(self._jobs) < MOST_JOBS:
            requests = self._load()
            if not requests:
                return
            label = f"affectome-{uuid.uuid4().hex}"
            keys = [self._writer.request_key(request) for request in requests]
            job = _Job(self._folder / f"{label}.json", label, keys, dict(enumerate(requests)))
            self._folder.mkdir(parents=True, exist_ok=True)
            job.save()
            try:
                job.name = self._patiently(self._creation(job))
            except _FullError:
                job.file.unlink()
                self._waiting.extendleft(reversed(requests))
                self._full = True
                log.info("the service takes no more batch jobs for now; waiting for one to end")
                return
            job.save()
            self._jobs.append(job)
            log.info("batch job %s: submitted (%d requests)", job.name, len(requests))

    def _load(self) -> list[Request]:
        """The requests of the next job: as many as it holds, and as can be paid for."""
        under_way = sum(len(job.requests) for job in self._jobs)
        requests: list[Request] = []
        size = 0
        while self._waiting and len(requests) < REQUESTS_PER_JOB:
            size += len(json.dumps(self._waiting[0].prompt)) + _BYTES_AROUND
            if requests and size > BYTES_PER_JOB:
                break
            if self._purse and not self._purse.allow(under_way + len(requests)):
                self._exhausted = True
                break
            requests.append(self._waiting.popleft())
        return requests

    def _creation(self, job: _Job) -> Callable[[], str]:
        """What submits `job` once, however often it is called."""
        from google.genai.types import CreateBatchJobConfig, InlinedRequest

        inlined = [
            InlinedRequest(
                contents=request.prompt, config=self._gemini.generation(request), metadata={"key": str(number)}
            )
            for number, request in job.requests.items()
        ]
        uncertain = False

        def create() -> str:
            nonlocal uncertain
            if uncertain and (name := self._find(job)):
                return name
            uncertain = True
            try:
                with self._gemini.complaints(self._key):
                    created = self._client.batches.create(
                        model=self._writer._model, src=inlined, config=CreateBatchJobConfig(display_name=job.label)
                    )
            except BusyError as error:
                if str(error) == "429":
                    uncertain = False
                    if self._jobs:
                        raise _FullError from None
                raise
            return str(created.name)

        return create

    def _find(self, job: _Job) -> str | None:
        """The service's name for a job that may have been submitted, None where it was not."""
        from google.genai.types import ListBatchJobsConfig

        with self._gemini.complaints(self._key):
            listed = self._client.batches.list(config=ListBatchJobsConfig(page_size=50))
            return next((found.name for found in listed if found.display_name == job.label), None)

    def _look_at(self, job: _Job) -> None:
        operation = self._patiently(lambda: self._ask_about(job))
        if operation is None:
            log.warning("batch job %s: no longer known to the service; its requests are submitted again", job.name)
            self._end(job, "forgotten", empty=True)
            return
        if operation.state != job.state:
            job.state = operation.state
            log.info("batch job %s: %s (%d requests)", job.name, job.state.lower(), len(job.requests))
        if not (operation.said.get("done") or job.state in _ENDED):
            return
        responses = operation.responses
        self._collect(job, responses)
        error = operation.said.get("error") or {}
        if job.state == "FAILED" and not responses and not _passing(error.get("code")):
            job.file.unlink()
            said = on_one_line(f"{error.get('code', '')}: {error.get('message') or 'no reason given'}", self._key)
            raise UserError(f"the batch job {job.name} failed ({said}); check {self._writer._config_key} and rerun")
        self._end(job, job.state.lower(), empty=not responses)

    def _ask_about(self, job: _Job) -> _Operation | None:
        from google.genai.errors import ClientError

        with self._gemini.complaints(self._key):
            try:
                return self._client.operations.get(_Operation(job.name or ""))  # type: ignore[type-var]
            except ClientError as error:
                if error.code == 404:
                    return None
                if error.code == 403:
                    raise UserError(
                        f"the key in GEMINI_API_KEY may not see the batch job {job.name}; set the one it was submitted "
                        f"with, or delete {job.file} to pay for its {len(job.requests)} requests again"
                    ) from None
                raise

    def _collect(self, job: _Job, responses: list[dict[str, Any]]) -> None:
        """Hand on the answers, and have asked again what failed in passing."""
        for number, response in _numbered(job, responses):
            request = job.requests.pop(number, None)
            if request is None:
                continue
            error = response.get("error")
            if error and _passing(error.get("code")):
                self._again(request, str(error.get("code")))
                continue
            self._answered += 1
            if error:
                said = on_one_line(f"error {error.get('code')}: {error.get('message') or 'no reason given'}", self._key)
                self._hand_on(request, Answer(problem=said))
            else:
                self._hand_on(request, _answer(response.get("response") or {}, request.texts))

    def _hand_on(self, request: Request, answer: Answer) -> None:
        failures = tuple(self._failures.pop(request.id, ()))
        reply = Reply(request.id, answer.texts, answer.problem, True, answer.read, answer.written, failures)
        self._waiting.extend(self._keep(reply))

    def _again(self, request: Request, failure: str) -> None:
        """Ask for a reply once more, unless that has been tried often enough."""
        failures = self._failures.setdefault(request.id, [])
        failures.append(failure)
        if len(failures) < TRIES:
            self._waiting.append(request)
            return
        *earlier, last = self._failures.pop(request.id)
        self._waiting.extend(self._keep(Reply(request.id, problem=last, answered=False, failures=tuple(earlier))))

    def _end(self, job: _Job, state: str, empty: bool) -> None:
        """Forget a job all of whose answers have been handed on; ask again for those that did not come."""
        self._jobs.remove(job)
        job.file.unlink()
        self._full = False
        self._empty_jobs = self._empty_jobs + 1 if empty else 0
        if self._empty_jobs >= MOST_EMPTY_JOBS:
            raise UserError(
                f"{WHERE} ended {MOST_EMPTY_JOBS} batch jobs in a row without an answer (the last {state}); rerun "
                f"later, or without batch mode"
            )
        for request in job.requests.values():
            self._again(request, f"batch job {state}" if empty else "no answer")

    def _patiently(self, call: Callable[[], _Result]) -> _Result:
        """What `call` returns once the service is not too busy for it."""
        for attempt in count(1):
            try:
                result = call()
            except BusyError as error:
                if error.unreachable and not self._reached and attempt >= FIRST_TRIES:
                    raise UserError(f"{WHERE} cannot be reached ({error}); see that it is up, then rerun") from None
                if attempt >= TRIES:
                    told = f"answers nothing any more ({error}, {TRIES} times)"
                    raise UserError(f"{WHERE} {told}; rerun when it does") from None
                time.sleep(max(backoff(0, attempt), error.retry_after))
            else:
                self._reached = True
                break
        return result

    def _tell(self) -> None:
        now = time.monotonic()
        if self._jobs and now - self._told >= LOG_INTERVAL_S:
            self._told = now
            states = Counter(job.state.lower() or "submitted" for job in self._jobs)
            listed = ", ".join(f"{number} {state}" for state, number in states.most_common())
            under_way = sum(len(job.requests) for job in self._jobs)
            log.info(
                "batch jobs: %s (%d requests); answered: %d; to be submitted: %d",
                listed, under_way, self._answered, len(self._waiting),
            )  # fmt: skip


def _numbered(job: _Job, responses: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The responses with the numbers of their requests.

    The service promises the order of the requests, but has been seen to return another
    (github.com/googleapis/python-genai, issue 1909): only the number that came back with a response counts. Raises
    UserError where none did.
    """
    given = [str((response.get("metadata") or {}).get("key", "")) for response in responses]
    if any(given):
        return [(int(key), response) for key, response in zip(given, responses, strict=True) if key.isdecimal()]
    if responses:
        raise UserError(
            f"the answers of batch job {job.name} do not say which requests they are for, and a text under the wrong "
            f"emotion is worse than none; write without batch mode"
        )
    return []


def _answer(response: dict[str, Any], texts: int) -> Answer:
    from google.genai.types import GenerateContentResponse

    try:
        return answer_in(GenerateContentResponse._from_response(response=response, kwargs={}), texts)
    except ValueError:
        return Answer(problem="unreadable")


def _passing(code: object) -> bool:
    """Whether what failed with `code` may succeed another time."""
    return isinstance(code, int) and (code in _PASSING or code >= 500)
