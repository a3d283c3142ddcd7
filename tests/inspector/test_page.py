"""The page in Chromium: what is seen, and what can be done, with real servers behind it."""

import json
import re

from selenium.webdriver.common.keys import Keys

from tests.inspector.browser import Browser, send
from tests.servers.client import Client
from tests.servers.harness import Server

VERDICT, UNIT, TIMELINE, STATUS = -1, 3, 4, 2


def restart(server: Server) -> None:
    server.stop()
    server.start()


def test_an_empty_page_says_what_to_do_and_fills_by_itself(browser: Browser, shop: Server) -> None:
    restart(shop)
    browser.open(shop)
    said = browser.text("#nothing")
    assert said.startswith("No request yet")
    assert f"curl -i http://127.0.0.1:{shop.port}/" in said
    assert browser.count("requests") == "0"
    browser.picture("empty")
    send(shop, "POST", "/orders/tea")
    browser.row("/orders/tea")
    assert not browser.all("#nothing")
    assert browser.count("requests") == "1"  # and none of those of the page


def test_a_row_says_when_it_committed_and_a_problem_looks_like_one(browser: Browser, shop: Server) -> None:
    send(shop, "POST", "/orders/rows", "/orders/gold", "/visits", "/invitations")
    send(shop, "GET", "/orders/rows", "/late", "/fail")
    browser.open(shop)

    def row(*words: str) -> list[str]:
        element = browser.row(*words)
        return browser.rows()[browser.all(".row").index(element)]

    assert re.fullmatch(r"committed \d+\.\d ms before the first byte", row("post", "/orders/rows")[VERDICT])
    bars = r"handler .* ms, commit .* ms, body .* ms, send_receipt .* ms"
    browser.until(lambda: re.match(bars, row("post", "/orders/rows")[TIMELINE]))
    assert (row("/orders/gold")[STATUS], row("/orders/gold")[VERDICT]) == ("409", "rolled back (409)")
    assert row("/visits")[UNIT] == "after_send"
    assert re.fullmatch(r"committed .* ms after the last byte \(by choice\)", row("/visits")[VERDICT])
    assert row("get", "/orders/rows")[1] == "GET /orders/{id}"
    late = row("/late")
    assert late[UNIT] == "none (get_db) \u00b7 globex"  # the one that there is was asked for nothing
    assert re.fullmatch(r"committed \d+\.\d ms AFTER the first byte", late[VERDICT])
    assert "failed or late get_db" in late[TIMELINE]
    browser.row("work after the response failed (refuse)")
    for problem in ("/late", "/fail", "/invitations"):
        element = browser.row(problem)
        assert "problem" in str(element.get_attribute("class"))
        weight, mark = browser.js(
            """const verdict = arguments[0].lastElementChild;
            return [getComputedStyle(verdict).fontWeight, getComputedStyle(verdict, "::before").content]""",
            element,
        )
        assert (weight, mark) == ("600", '"\u25b2"')  # and not by its colour alone
    assert browser.all("#legend li") != []
    browser.picture("rows")


def test_the_counters_count_what_is_kept(browser: Browser, shop: Server) -> None:
    browser.open(shop)
    browser.until(lambda: browser.count("outbox").isdigit())
    before = {name: int(browser.count(name)) for name in ("requests", "before", "late", "work", "outbox")}
    send(shop, "POST", "/orders/counted", "/invitations")
    send(shop, "GET", "/late")
    browser.until(lambda: int(browser.count("late")) == before["late"] + 1)
    browser.until(lambda: int(browser.count("work")) == before["work"] + 1)
    assert int(browser.count("requests")) == before["requests"] + 3
    assert int(browser.count("before")) == before["before"] + 1  # an invitation has nothing to commit

    def waits() -> bool:
        browser.js("lookAtOutbox()")  # which it does every few seconds
        return int(browser.count("outbox")) == before["outbox"] + 1

    browser.until(waits)


def test_rows_are_found_by_path_status_and_tenant_and_problems_by_themselves(browser: Browser, shop: Server) -> None:
    send(shop, "GET", "/found/one", "/found/two", "/late")
    send(shop, "POST", "/orders/gold")
    browser.open(shop)
    browser.row("/orders/gold")

    def found(text: str) -> list[str]:
        field = browser.one("#filter")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)
        return [" ".join(row[:3]) for row in browser.rows()]

    assert len(found("/found")) == 2
    assert len(found("found TWO")) == 1
    assert all(each.endswith("409") for each in found("409 rolled"))
    assert all("/late" in each for each in found("globex"))
    assert found("no such thing") == []
    assert browser.text("#nothing").startswith("No request matches \u201cno such thing\u201d")
    browser.click("#nothing .link")
    assert len(browser.rows()) == int(browser.count("requests"))
    browser.click("#problems")
    assert {"problem"} == {str(each.get_attribute("class")).split()[1] for each in browser.all(".row")}
    found("/found")
    assert "and is a problem" in browser.text("#nothing")
    browser.press(Keys.ESCAPE)
    assert browser.one("#problems").get_attribute("aria-pressed") == "false"
    assert len(browser.rows()) == int(browser.count("requests"))


def test_an_open_row_tells_the_events_the_exception_the_trace_and_the_message(browser: Browser, shop: Server) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    with Client(shop.port) as client:
        client.request("POST", "/orders/open", (("traceparent", f"00-{trace}-b7ad6b7169203331-01"),))
    send(shop, "GET", "/fail", "/late")
    browser.open(shop)
    browser.row("/orders/open").click()
    detail = browser.text(".detail")
    assert re.search(r"0\.0 ms\s+request\.start\n\s*\d+\.\d ms\s+handler\.head", detail)
    assert trace in detail
    message = r"mail: send_receipt\s+[0-9a-f-]{36} waits"
    browser.until(lambda: re.search(message, browser.text(".detail")))
    browser.row("/orders/open").click()
    assert not browser.all(".detail")
    browser.row("/late").click()
    assert "give the session to unit_of_work=" in browser.text(".detail")
    browser.row("/late").click()
    browser.row("/fail").click()
    detail = browser.text(".detail")
    assert "RuntimeError: the <i>shop</i> is closed" in detail
    assert "Traceback (most recent call last)" in detail
    assert browser.all(".detail i") == []
    browser.picture("open")


def test_what_a_request_or_an_exception_says_stays_text(browser: Browser, shop: Server) -> None:
    send(shop, "GET", "/%3Cimg%20src=x%20onerror=%22window.ran=1%22%3E", "/%3Cscript%3Ewindow.ran=1%3C/script%3E")
    send(shop, "POST", "/invitations")
    browser.open(shop)
    for word in ('<img src=x onerror="window.ran=1">', "<script>window.ran=1</script>"):
        row = browser.row(word)
        assert word in row.text
        row.click()
        browser.press(Keys.ESCAPE)
    for tab in ("work", "outbox", "setup"):
        browser.click(f"#tab-{tab}")
    browser.until(lambda: "it is <b>badly</b> set up" in browser.text("#setup"))
    browser.click("#tab-work")
    assert "LookupError: <b>nobody</b> of that name" in browser.text("#work")
    assert browser.js("return document.querySelectorAll('main img, main script, main b').length") == 0
    assert browser.js("return window.ran") is None


def test_a_list_that_is_looked_at_holds_still_and_says_how_many_wait(browser: Browser, shop: Server) -> None:
    send(shop, "GET", "/held/still")
    browser.open(shop)
    assert browser.text("#pause") == "Live"
    browser.row("/held/still").click()
    assert browser.text("#pause") == "Paused"
    shown = browser.rows()
    send(shop, "GET", "/held/one", "/held/two")
    browser.until(lambda: browser.text("#pause") == "Paused \u00b7 2 wait")
    assert browser.rows() == shown
    browser.click("#pause")
    assert [row[1] for row in browser.rows()[:2]] == ["GET /held/two", "GET /held/one"]
    assert browser.text("#pause") == "Live"
    # So it does while text is selected.
    browser.js("getSelection().selectAllChildren(arguments[0])", browser.row("/held/one"))
    browser.until(lambda: browser.text("#pause") == "Paused")
    browser.js("getSelection().removeAllRanges()")
    browser.press("p")
    browser.until(lambda: browser.text("#pause") == "Live")


def test_work_that_ends_later_joins_its_row_while_that_is_open(browser: Browser, shop: Server) -> None:
    send(shop, "POST", "/orders/joined")
    browser.open(shop)
    browser.row("/orders/joined").click()
    browser.until(lambda: "work.done" in browser.text(".detail"))


def test_a_row_can_be_taken_along(browser: Browser, shop: Server) -> None:
    send(shop, "POST", "/orders/copied")
    browser.open(shop)
    browser.row("/orders/copied").click()
    browser.until(lambda: "work.done" in browser.text(".detail"))

    def copied(kind: str) -> str:
        next(each for each in browser.all(".copies button") if each.text == f"Copy as {kind}").click()
        browser.until(lambda: f"Copied as {kind}" in browser.js("return document.getElementById('say').textContent"))
        return browser.clipboard()

    text = copied("text")
    assert re.match(r"POST /orders/copied 201 \(head\): committed .*\n +0\.0 ms  request\.start\n", text)
    assert json.loads(copied("JSON"))["path"] == "/orders/copied"
    diagram = copied("Mermaid").splitlines()
    assert diagram[0] == "sequenceDiagram"
    arrows = [line.strip().partition(" (")[0] for line in diagram if "->>" in line or "-)" in line]
    assert arrows[:2] == ["C->>M: POST /orders/{item}", "M->>A: handle it"]
    assert arrows[2:4] == ["A-->>M: status and headers, 201", "M->>D: commit"]
    assert arrows[-2:] == ["M-)W: begin, send_receipt", "W--)M: done, send_receipt"]
    next(each for each in browser.all(".copies button") if each.text == "Download Chrome trace").click()
    (path,) = browser.until(lambda: list(browser.folder.glob("*.trace.json")))
    events = json.loads(path.read_text())["traceEvents"]
    bars = [each for each in events if each["ph"] == "X"]
    assert [each["cat"] for each in bars] == ["handler", "commit", "body", "work"]
    assert all(each["dur"] >= 0 and isinstance(each["pid"], int) and isinstance(each["tid"], int) for each in bars)
    path.unlink()


def test_the_other_tabs_show_work_the_outbox_and_the_set_up(browser: Browser, shop: Server) -> None:
    send(shop, "POST", "/invitations", "/orders/tabs")
    browser.open(shop, "#work")
    browser.until(lambda: "refuse" in browser.text("#work"))
    work = browser.text("#work")
    assert "failed" in work
    assert "send_receipt" in work
    browser.picture("work")
    next(each for each in browser.all("#work .link") if each.text == "POST /invitations").click()
    assert "work.failed" in browser.text(".detail")
    browser.click("#tab-outbox")
    browser.until(lambda: re.search(r"mail \d+ \d+ 0 0 0", browser.text("#outbox")))
    browser.picture("outbox")
    browser.one("#tab-outbox").send_keys(Keys.HOME)
    assert browser.all("#requests")
    browser.one("#tab-requests").send_keys(Keys.ARROW_LEFT)
    assert browser.all("#setup")
    browser.one("#tab-setup").send_keys(Keys.ARROW_LEFT, Keys.END)
    browser.until(lambda: "it is well" in browser.text("#setup"))
    for says in ("mend it", "AsyncSQLAlchemyUnitOfWork", "no body, no header, no query", "by server-sent events"):
        assert says in browser.text("#setup")
    browser.picture("set-up")


def test_work_is_shown_while_it_waits_and_runs_and_then_as_ended(browser: Browser, shop: Server) -> None:
    browser.open(shop, "#work")
    browser.until(lambda: "Nothing waits or runs." in browser.text("#work"))
    assert not browser.all("#carries")
    send(shop, "POST", "/mails")

    def now() -> list[list[str]]:
        """The cells of the first table, but for the times."""
        script = """return [...document.querySelector("#work table").rows].slice(1).map(
        (row) => [...row.cells].slice(1, 5).map((cell) => cell.textContent))"""
        return [list(map(str, row)) for row in browser.js(script)]

    queued = "waits for the bulkhead 'mailer': its one place is taken, and 1 in the queue"
    of = ["POST /mails", "acme"]
    browser.until(lambda: now() == [["mail_first", *of, "runs"], ["mail_second", *of, queued]])
    browser.picture("carried")
    assert browser.text("#carries") == "2 now"
    began = browser.until(lambda: browser.js("return document.querySelectorAll('[data-since]')[1].textContent"))
    browser.until(lambda: browser.js("return document.querySelectorAll('[data-since]')[1].textContent") != began)
    link = next(each for each in browser.all("#work .link") if each.text == "POST /mails")
    browser.js("arguments[0].focus()", link)
    send(shop, "DELETE", "/mails")
    browser.until(lambda: now()[:2] == [["mail_second", *of, "done"], ["mail_first", *of, "done"]])
    assert "Nothing waits or runs." in browser.text("#work")
    assert browser.js("return document.activeElement.textContent") == "POST /mails"  # which moved with its job
    assert not browser.all("#carries")


def test_all_is_reached_by_keyboard(browser: Browser, shop: Server) -> None:
    send(shop, "GET", "/keys/three", "/keys/two", "/keys/one")
    browser.open(shop)
    browser.row("/keys/one")

    def here() -> str:
        return str(browser.js("return document.activeElement.querySelector?.('.request')?.textContent"))

    browser.press("j")
    assert here() == "GET /keys/one"
    browser.press(Keys.ARROW_DOWN, "j")
    assert here() == "GET /keys/three"
    outline = browser.js("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    browser.press("k", Keys.ENTER)
    assert here() == "GET /keys/two"
    assert browser.js("return document.activeElement.getAttribute('aria-expanded')") == "true"
    assert browser.text(".detail").startswith("events")
    assert browser.text("#pause") == "Paused"
    browser.press(Keys.TAB)
    assert browser.js("return document.activeElement.textContent") == "Copy as text"
    browser.press(Keys.ESCAPE)
    assert not browser.all(".detail")
    assert here() == "GET /keys/two"
    browser.press(Keys.END, Keys.HOME)
    assert here() == "GET /keys/one"
    browser.press("/", *"/keys/t", Keys.ENTER)
    assert here() == "GET /keys/two"
    browser.press("p")
    assert browser.text("#pause") == "Live"
    stops = browser.js("return [...document.querySelectorAll('.row')].map((row) => row.tabIndex)")
    assert stops.count(0) == 1  # one stop for all rows
