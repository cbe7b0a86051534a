"""The parts of the dashboard that need no browser: scales, requests, what is shared, and who may enter."""

import asyncio
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectome.serve.client import curl
from affectome.serve.dashboard.login import Attempts
from affectome.serve.dashboard.request import LONGEST_LINK, Asked, Pick, link, python, read_link, signed
from affectome.serve.dashboard.scale import (
    FARTHEST,
    colour_limit,
    inner,
    mixture,
    mixture_unit,
    share_of,
    strength_of,
)
from affectome.serve.dashboard.stream import Written
from affectome.serve.service import Limits, Service
from affectome.serve.steering import take_steering
from tests.unit.dashboarding import PLACES, Scripted, serving, small_catalogue

AWKWARD = 'It\'s "quoted",\n\t$HOME `id` $(id) \\n %s !! \' " \u0007 \U0001f600 世界 </script>'
ASKED = Asked(AWKWARD, (Pick("calm", "emotion", 0.15), Pick("random:0", "random", -0.05)), read=("calm", "sad"))

ends = st.floats(0, 1.5).map(lambda value: round(value, 3))


@given(low=ends, high=ends, share=st.floats(-FARTHEST, FARTHEST))
def test_a_slider_within_its_safe_marks_asks_for_nothing_unsafe(low: float, high: float, share: float) -> None:
    safe = (-low, high)
    first, last = inner(safe)
    strength = strength_of(share, safe)
    assert abs(strength) <= 2
    assert math.copysign(1, strength) == math.copysign(1, share) or strength == 0
    if first <= share <= last:
        assert safe[0] <= strength <= safe[1]
    if abs(strength) < 2 and abs(strength) > 0.01:
        assert share_of(strength, safe) == pytest.approx(share, rel=0.02)


def test_the_marks_of_a_slider_are_the_ends_of_the_safe_range_to_the_last_bit() -> None:
    safe = (-0.123456789, 0.3)
    assert strength_of(-1, safe) == safe[0]
    assert strength_of(1, safe) == safe[1]
    assert strength_of(0.5, safe) == 0.15
    assert strength_of(2, safe) == 0.6
    assert inner((0.0, 0.1)) == (0.0, 1.0)
    assert strength_of(-1, (0.0, 0.1)) == -0.1


def test_every_strength_that_a_slider_can_stand_at_is_accepted_by_the_server() -> None:
    catalogue = small_catalogue()
    for direction in catalogue.directions:
        first, last = inner(direction.safe)
        for share in (first, first / 3, last / 3, last, -FARTHEST, FARTHEST):
            asked = Asked("x", (Pick(direction.name, direction.family, strength_of(share, direction.safe)),))
            take_steering(asked.body("tiny"), catalogue, allow_unsafe=not first <= share <= last)


def test_a_mixture_is_the_sum_of_places_weighted_by_strength() -> None:
    unit = mixture_unit(small_catalogue())
    assert unit == 0.3
    assert mixture([("calm", 0.3)], PLACES, unit) == pytest.approx(PLACES["calm"])
    assert mixture([("calm", 0.15), ("afraid", -0.3)], PLACES, unit) == pytest.approx((1 + 2, 0.5 - 1))
    assert mixture([("calm", 0.0), ("random:0", 0.1)], PLACES, unit) is None


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ([0.013, -0.041], 0.05),
        ([-0.05], 0.05),
        ([0.0501], 0.06),
        ([7.2], 8),
        ([8.1], 10),
        ([1.0], 1),
        ([], 1e-6),
        ([math.nan], 1e-6),
    ],
)
def test_colours_end_at_the_next_round_number(values: list[float], limit: float) -> None:
    assert colour_limit(values) == limit


@given(st.lists(st.floats(-1e3, 1e3), min_size=1))
def test_no_value_is_beyond_the_colours(values: list[float]) -> None:
    assert max(map(abs, values)) <= colour_limit(values) * (1 + 1e-6)


def test_numbers_have_a_real_minus_and_no_sign_at_zero() -> None:
    assert [signed(value) for value in (0.05, -0.1, 0.0)] == ["+0.05", "−0.1", "0"]


def test_the_baseline_differs_in_its_steering_alone() -> None:
    asked = dataclasses.replace(ASKED, beyond=True)
    steered, baseline = asked.body("tiny"), asked.body("tiny", steered=False)
    assert steered.pop("steering")[1] == {"emotion": "random:0", "strength": -0.05, "family": "random"}
    assert steered.pop("allow_unsafe") is True
    assert steered == baseline


def test_a_system_prompt_comes_first() -> None:
    messages = Asked("Hello", system="Be brief.").body("tiny", steered=False)["messages"]
    assert messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def test_what_has_no_effect_is_not_sent() -> None:
    still = Asked("x", (Pick("calm", "emotion", 0.0),))
    assert "steering" not in still.body("tiny")
    assert dataclasses.replace(still, mode="ablate").body("tiny")["steering"][0]["mode"] == "ablate"


@pytest.mark.parametrize(
    "asked",
    [
        ASKED,
        Asked("x"),
        dataclasses.replace(ASKED, mode="clamp", positions="all", layer=1, beyond=True, temperature=0),
        Asked("x", system=AWKWARD),
    ],
)
def test_a_link_brings_back_what_was_asked(asked: Asked) -> None:
    address = link(asked.body("tiny"), "http://host")
    (text,) = parse_qs(urlsplit(address).query)["request"]
    assert read_link(text) == asked


def test_a_link_that_is_too_long_is_none() -> None:
    assert link(Asked("x" * LONGEST_LINK).body("tiny"), "http://host") is None


@pytest.mark.parametrize(
    "change",
    [
        {"messages": []},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "system", "content": 3}, {"role": "user", "content": "x"}]},
        {"messages": [{"role": ["system"], "content": "x"}, {"role": "user", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}] * 2},
        {"messages": [{"role": "system", "content": "x"}] * 2 + [{"role": "user", "content": "x"}]},
        {"seed": True},
        {"seed": 10**400},
        {"steering": [0, 1.5]},
        {"steering": [{"emotion": "calm"}, {"emotion": "sad", "mode": "clamp"}]},
        {"steering": [{"emotion": "calm", "layers": [1, 2]}]},
        {"steering": [{"emotion": "calm"}] * 17},
        {"readout": {"emotions": []}},
    ],
)
def test_links_that_hold_something_else_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="link"):
        read_link(json.dumps(Asked("x").body("tiny") | change))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"x"', "[" * 5000])
def test_links_that_hold_no_request_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="link"):
        read_link(text)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Scripted]]:
    backend = Scripted()
    with serving(Service(small_catalogue(), backend, Limits(api_key="it's secret")), dashboard=False) as base:
        yield base, backend


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_curl_command_sends_the_request_as_it_is(shell: str, server: tuple[str, Scripted]) -> None:
    base, backend = server
    body = ASKED.body("tiny")
    command = curl(body, base, key=True)
    assert "secret" not in command
    done = subprocess.run(
        [shell, "-c", command],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"AFFECTOME_API_KEY": "it's secret"},
        timeout=30,
    )
    plan = take_steering(dict(body), small_catalogue())
    expected = "".join(backend.tokens(body, plan))
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == expected


def test_the_python_program_sends_the_request_as_it_is(server: tuple[str, Scripted]) -> None:
    base, backend = server
    body = ASKED.body("tiny")
    program = python(body, base, key=True)
    assert "secret" not in program
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"AFFECTOME_API_KEY": "it's secret"},
        timeout=60,
    )
    assert done.stdout.removesuffix("\n") == "".join(backend.tokens(body, take_steering(dict(body), small_catalogue())))


def test_addresses_cannot_leave_their_quotes() -> None:
    base = "http://a';id;'\"b"
    assert re.search(r"^curl -sS 'http://a'\"'\"';id", curl({}, base, key=False))
    compile(python({}, base, key=False), "program", "exec")


def test_wrong_keys_are_limited_by_address_and_in_all() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(5):
        assert attempts.allowed("a")
        attempts.wrong("a")
    assert not attempts.allowed("a")
    assert attempts.allowed("b")
    now[0] = 60.0
    assert attempts.allowed("a")
    for number in range(100):
        attempts.wrong(str(number))
    assert not attempts.allowed("new")


def test_a_reply_counts_its_tokens_and_keeps_its_values() -> None:
    async def chunks() -> list[dict[str, object]]:
        service = Service(small_catalogue(), Scripted(0), Limits())
        body = dataclasses.replace(ASKED, max_tokens=5).body("tiny")
        stream = service.stream("chat", body | {"stream": True, "stream_options": {"include_usage": True}})
        return [chunk async for chunk in stream]

    written = Written()
    for number, chunk in enumerate(asyncio.run(chunks())):
        written.take(chunk, float(number))
    assert len(written.texts) == written.tokens == 5
    assert written.column(0) == pytest.approx([0.05 * math.sin(number) for number in range(4)])
    assert written.summary.startswith("5 tokens · ")
    assert written.summary.endswith("cut at max tokens")


def test_the_page_shows_nothing_of_the_catalogue_without_the_key() -> None:
    with serving(Service(small_catalogue(), Scripted(), Limits(api_key="secret"))) as base:
        page = httpx.get(base + "/")
        assert page.status_code == 200
        assert "secret" not in page.text
        for word in ("afraid", "refusal", "scripted", "tiny"):
            assert word not in page.text
        assert httpx.get(base + "/nothing").status_code == 404
        assert httpx.get(base + "/health").json()["status"] == "ok"
