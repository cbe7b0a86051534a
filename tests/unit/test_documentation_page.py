"""The server's page at /docs in a browser. Apart from the other routes: Playwright keeps an event loop of its own."""

from tests.unit.serving import running, tiny_catalogue


def test_the_page_of_the_documentation_asks_with_the_key(browser, tmp_path):
    with running(tiny_catalogue(tmp_path), api_key="open sesame") as server, browser.new_page() as page:
        failed = []
        page.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
        page.goto(f"{server.url}/docs")
        page.get_by_role("button", name="Authorize").first.click()
        asked = page.locator(".modal-ux")
        asked.locator("input").fill("open sesame")
        asked.get_by_role("button", name="Apply credentials").click()
        asked.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="get /v1/models", exact=True).click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
        assert failed == []
