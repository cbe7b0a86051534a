"""The dashboard in a browser, in front of a server with a scripted engine.

No page may meet an error on its console or ask another host for anything.
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("nicegui", reason="needs the packages of affectome[serve]")

import nicegui

from affectome.serve.service import Limits, Service
from tests.unit.dashboarding import REFUSED, Scripted, serving, small_catalogue

KEY = 'it\'s "secret"'


@pytest.fixture(scope="module")
def engine() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def service(engine: Scripted) -> Service:
    return Service(small_catalogue(), engine, Limits(max_tokens=3000))


@pytest.fixture(scope="module")
def server(service: Service) -> Iterator[str]:
    # One for all tests, as NiceGUI runs once in a process.
    with serving(service) as base:
        yield base


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens addresses in windows of their own; says at the end what they asked for elsewhere, or met as an error."""
    contexts, asked, failed = [], [], []

    def open_(address: str, width: int = 1440, height: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        host = re.match(r"\w+://[^/]+", address).group()
        allowed = (host, host.replace("http", "ws", 1), "data:", "blob:")
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda r: None if r.url.startswith(allowed) else asked.append(r.url))
        page.on("websocket", lambda w: None if w.url.startswith(allowed) else asked.append(w.url))
        page.on("console", lambda m: failed.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert asked == []
    assert failed == []


def pick(page: Any, emotion: str) -> None:
    field = page.locator(".pick input").first
    field.click()
    field.fill(emotion)
    page.locator(".q-menu .q-item", has_text=emotion).first.click()
    page.keyboard.press("Escape")
    page.locator(".q-menu").wait_for(state="detached")
    strength(page, emotion).wait_for()


def strength(page: Any, emotion: str) -> Any:
    return page.locator(".strength", has_text=emotion)


def ask(page: Any, prompt: str, tokens: int = 30) -> tuple[str, str]:
    """Sends with the keyboard, waits for the end, and gives both replies."""
    before = page.locator(".exchange").count()
    page.get_by_label("Max tokens").fill(str(tokens))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.keyboard.press("Control+Enter")
    page.locator(".exchange").nth(before).wait_for()
    # What is written into the replies comes after the elements of the same moment.
    page.wait_for_timeout(500)
    return tuple(page.locator(".reply").all_text_contents())


def eventually(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_from_picking_an_emotion_to_coloured_replies_side_by_side(visit: Any, server: str, engine: Scripted) -> None:
    page = visit(server)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.closest('.pick') !== null")
    pick(page, "calm")
    assert strength(page, "calm").locator(".number").first.inner_text() == "+0.15 · 50 % of safe"
    slider = page.get_by_role("slider", name="Strength of calm")
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    page.get_by_text("+0.3 · 100 % of safe").wait_for()
    engine.bodies.clear()
    baseline, steered = ask(page, "Tell me about the harbour.")
    assert baseline != steered
    expected = dict(engine.bodies[0])
    assert all(body["seed"] == 1 and body["messages"] == expected["messages"] for body in engine.bodies)
    assert baseline == "".join(engine.tokens(expected, ()))
    for side in page.locator(".reply").all():
        tokens = side.locator("span")
        assert tokens.count() == 30
        colours = tokens.evaluate_all("all => all.map(token => token.className)")
        assert colours[-1] == ""
        assert set(colours[:-1]) == {"below", "above"}
    assert page.locator(".legend").inner_text().split("\n")[:3] == ["−0.05", "0", "+0.05"]
    page.locator(".reply").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".token-tip").inner_text() == "token 2: calm +0.0421"


def test_a_system_prompt_is_sent_with_both_and_travels_in_the_link(visit: Any, server: str, engine: Scripted) -> None:
    page = visit(server)
    page.get_by_text("Advanced").click()
    page.get_by_label("System prompt").fill("You are a lighthouse.")
    engine.bodies.clear()
    ask(page, "Who are you?")
    told = {"role": "system", "content": "You are a lighthouse."}
    assert [body["messages"][0] for body in engine.bodies] == [told, told]
    page.get_by_role("button", name="Share").click()
    assert "You are a lighthouse." in page.locator(".snippet").first.text_content()
    page.get_by_role("tab", name="Link").click()
    other = visit(page.locator(".snippet", has_text="?request=").inner_text())
    other.get_by_text("Advanced").click()
    assert other.get_by_label("System prompt").input_value() == "You are a lighthouse."


def test_the_unsafe_part_is_reached_after_the_switch_alone(visit: Any, server: str) -> None:
    page = visit(server)
    pick(page, "afraid")
    switch = page.get_by_role("switch", name="Beyond the safe range")
    switch.click()
    page.locator(".strength.beyond").wait_for()
    slider = page.get_by_role("slider", name="Strength of afraid")
    slider.focus()
    page.keyboard.press("End")
    page.get_by_text("+0.2 · 200 % of safe").wait_for()
    assert slider.get_attribute("aria-valuetext").endswith("unsafe")
    ask(page, "How far?")
    page.get_by_role("button", name="Share").click()
    assert '"allow_unsafe": true' in page.locator(".snippet").first.inner_text()
    page.get_by_role("button", name="Close").click()
    switch.click()
    page.get_by_text("+0.1 · 100 % of safe").wait_for()
    slider.focus()
    page.keyboard.press("End")
    assert float(slider.input_value()) == 1


def test_a_click_on_the_map_picks_and_the_mixture_moves(visit: Any, server: str) -> None:
    page = visit(server)
    dots = page.locator(".emotion-map .dot")
    assert dots.count() == 4
    dots.nth(3).click()
    strength(page, "sad").wait_for()
    mix = page.locator(".emotion-map .mix")
    before = mix.get_attribute("transform")
    page.get_by_role("slider", name="Strength of sad").focus()
    page.keyboard.press("Home")
    eventually(lambda: mix.get_attribute("transform") != before)
    assert "60%" in page.locator(".x-axis").inner_text()
    assert "25%" in page.locator(".y-axis").inner_text()


def test_the_map_is_walked_and_picked_from_with_the_keyboard(visit: Any, server: str) -> None:
    page = visit(server)
    spoken = page.locator(".emotion-map .spoken")
    page.locator(".emotion-map svg").focus()
    # From the middle, by hand from their places; nothing is above the last.
    for key, emotion in (("ArrowLeft", "sad"), ("ArrowRight", "proud"), ("ArrowUp", "calm"), ("ArrowUp", "calm")):
        page.keyboard.press(key)
        eventually(lambda emotion=emotion: spoken.text_content() == emotion)
    page.keyboard.press("Enter")
    strength(page, "calm").wait_for()
    eventually(lambda: spoken.text_content() == "calm, picked")
    page.keyboard.press("Tab")
    eventually(lambda: spoken.text_content() == "")


def test_what_models_write_stays_text(visit: Any, server: str) -> None:
    hostile = '<img src=x onerror="window.hit = 1"><script>window.hit = 2</script>{{ 1 + 1 }}`${1}`'
    page = visit(server)
    pick(page, "calm")
    baseline, _ = ask(page, f'"{hostile}"', tokens=3)
    assert baseline.startswith(hostile)
    assert hostile in page.locator(".exchange").inner_text()
    assert page.evaluate("window.hit") is None
    assert page.locator(".reply img, .exchange img").count() == 0


def test_the_shared_command_and_link_bring_the_request_elsewhere(visit: Any, server: str) -> None:
    page = visit(server)
    pick(page, "calm")
    pick(page, "sad")
    _, steered = ask(page, 'It\'s "quoted"\n$HOME `id`')
    page.get_by_role("button", name="Share").click()
    command = page.locator(".snippet").first.text_content()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == steered
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == command
    page.get_by_role("tab", name="Link").click()
    other = visit(page.locator(".snippet", has_text="?request=").inner_text())
    strength(other, "sad").wait_for()
    assert ask(other, other.get_by_label("Prompt", exact=True).input_value())[1] == steered


def test_a_link_of_something_else_is_told_in_words(visit: Any, server: str) -> None:
    page = visit(server + "/?request=%7B%7D")
    page.get_by_text("the link holds no request").wait_for()
    page = visit(
        server + '/?request={"messages":[{"role":"user","content":"x"}],"max_tokens":1,"temperature":1,"seed":1,'
        '"steering":[{"emotion":"clam"}]}'
    )
    page.get_by_text("near it: calm").wait_for()


def test_earlier_exchanges_come_back_with_their_settings(visit: Any, server: str) -> None:
    page = visit(server)
    pick(page, "calm")
    first = ask(page, "The first.")
    strength(page, "calm").get_by_role("button", name="Remove calm").click()
    pick(page, "sad")
    page.get_by_label("Seed").fill("7")
    assert ask(page, "The second.") != first
    page.locator(".exchange", has_text="The first.").click()
    strength(page, "calm").wait_for()
    # NiceGUI sends elements first and what is to be written into them after.
    eventually(lambda: strength(page, "sad").count() == 0)
    eventually(lambda: tuple(page.locator(".reply").all_text_contents()) == first)
    eventually(lambda: page.get_by_label("Seed").input_value() == "1")
    eventually(lambda: page.locator(".reply .above").count() > 0)


def test_stop_and_leaving_end_both_generations(visit: Any, server: str, engine: Scripted) -> None:
    page = visit(server)
    page.get_by_label("Max tokens").fill("3000")
    page.get_by_label("Prompt", exact=True).fill("Go on.")
    page.get_by_role("button", name="Send").click()
    eventually(lambda: engine.running == 2)
    page.locator(".reply span").first.wait_for()
    page.keyboard.press("Escape")
    eventually(lambda: engine.running == 0)
    page.locator(".side-head", has_text="stopped").nth(1).wait_for()
    page.get_by_role("button", name="Send").click()
    eventually(lambda: engine.running == 2)
    page.close()
    eventually(lambda: engine.running == 0)


def test_refusals_are_told_in_words(visit: Any, server: str) -> None:
    page = visit(server)
    page.get_by_label("Prompt", exact=True).fill(REFUSED)
    page.get_by_role("button", name="Send").click()
    page.locator(".q-notification", has_text="the prompt is too long").wait_for()
    assert ask(page, "Shorter.")[0]


def test_nothing_can_be_seen_or_asked_before_the_key(
    visit: Any, server: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "limits", Limits(api_key=KEY))
    page = visit(server)
    field = page.get_by_label("API key")
    field.fill("wrong")
    field.press("Enter")
    page.get_by_text("This is not the key").wait_for()
    assert page.get_by_label("Prompt", exact=True).count() == 0
    client = max(nicegui.Client.instances.values(), key=lambda one: one.created)
    assert not any(hasattr(one, "options") or "data-key" in one.props for one in client.elements.values())
    field.fill(KEY)
    field.press("Enter")
    pick(page, "calm")
    assert ask(page, "Inside.")[0]
    page.get_by_role("button", name="Share").click()
    assert "$AFFECTOME_API_KEY" in page.locator(".snippet").first.text_content()
    assert "secret" not in page.content()
    other = visit(server)
    field = other.get_by_label("API key")
    for number in range(5):
        field.fill(f"guess {number}")
        other.get_by_role("button", name="Continue").click()
        other.wait_for_timeout(150)
    other.get_by_text("Too many wrong keys").wait_for()
    field.fill(KEY)
    field.press("Enter")
    other.wait_for_timeout(300)
    assert other.get_by_label("Prompt", exact=True).count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_cut_off(scheme: str, visit: Any, server: str, tmp_path: Any) -> None:
    page = visit(server, 390, 844, scheme)
    pick(page, "calm")
    ask(page, "word" * 60, tokens=200)
    page.get_by_text("Advanced").click()
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    right = "Math.max(...[...document.querySelectorAll('.page *')].map(e => e.getBoundingClientRect().right))"
    assert page.evaluate(right) <= 390
    assert page.evaluate("document.body.classList.contains('body--dark')") == (scheme == "dark")


def test_dark_and_light_by_key_and_button(visit: Any, server: str) -> None:
    page = visit(server)
    page.get_by_role("button", name="Send").wait_for()
    page.keyboard.press("d")
    page.locator("body.body--dark").wait_for()
    page.get_by_role("button", name="Dark or light").click()
    page.locator("body.body--light").wait_for()
    page.keyboard.press("?")
    page.get_by_text("Go to the list of emotions").wait_for()


def test_pages_that_are_left_are_forgotten(visit: Any, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nicegui.app.config, "reconnect_timeout", 0.5)
    page = visit(server)
    page.get_by_role("button", name="Send").wait_for()
    clients = set(nicegui.Client.instances)
    page.close()
    newest = max(clients, key=lambda name: nicegui.Client.instances[name].created)
    eventually(lambda: newest not in nicegui.Client.instances)
