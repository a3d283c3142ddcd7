"""What a user's tests see of the plugin: what fails and why, what passes, and that nothing happens unasked."""

import sys
from pathlib import Path

import pytest

from postresponse import pytest_plugin
from tests.testing import shops

pytest_plugins = ["pytester"]

USERS_TESTS = """
import pytest
from shops import SHOPS, post, sent

shop = pytest.mark.parametrize("name", SHOPS)

@shop
def test_right(name, postresponse):
    assert post(name, SHOPS[name]("head")) == 201
    postresponse.assert_committed_before_sent("POST /orders")
    postresponse.assert_sent_before("send_receipt")
    sent.clear()
    assert [job.name for job in postresponse.pending] == ["send_receipt"]
    assert postresponse.pending[0].args == ("tea",)
    postresponse.run()
    assert sent == ["receipt for tea", "copy for tea"]
    assert postresponse.pending == ()

@shop
def test_late_commit(name, postresponse):
    assert post(name, SHOPS[name]("after_send")) == 201
    postresponse.assert_committed_before_sent("/orders")

@shop
def test_early_work(name, postresponse):
    assert post(name, SHOPS[name]("head", early=True)) == 201
    postresponse.assert_committed_before_sent()
    postresponse.assert_sent_before("send_receipt")

@shop
def test_served_right(name, postresponse, postresponse_server):
    site = postresponse_server(SHOPS[name]("buffered"))
    response = site.post("/orders")
    assert response.status == 201
    assert response.first_byte <= response.first_body_byte <= response.last_byte
    postresponse.assert_committed_before_sent()
    postresponse.assert_sent_before("send_receipt")

@shop
def test_served_late_commit(name, postresponse, postresponse_server):
    assert postresponse_server(SHOPS[name]("after_send")).post("/orders").status == 201
    postresponse.assert_sent_before("commit")  # as it is to be in this mode
    postresponse.assert_committed_before_sent()
"""


def test_a_users_tests_fail_on_the_wrong_order_and_pass_on_the_right_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(shops=Path(shops.__file__).read_text(), test_shop=USERS_TESTS)
    ran = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error", timeout=100)
    ran.assert_outcomes(passed=8, failed=12)
    ran.stdout.re_match_lines_random(
        [
            rf"FAILED .*test_{test}\[{name}\].*"
            for test in ("late_commit", "early_work", "served_late_commit")
            for name in shops.SHOPS
        ]
    )
    ran.stdout.re_match_lines(
        [
            r"E +AssertionError: POST /orders: committed \d+\.\d ms after the last byte \(by choice\)",
            r"E +POST /orders 201 \(after_send\): committed .*",
            r"E +0\.0 ms  request\.start",
            r"E +\d+\.\d ms  head\.sent 201",
            r"E +\d+\.\d ms  body\.last .*",
            r"E +\d+\.\d ms  commit\.start",
            r'E +.*Way out: commit="head" .*',
        ]
    )
    ran.stdout.re_match_lines(
        [
            r"E +AssertionError: send_receipt began \d+\.\d ms BEFORE the last byte had left",
            r"E +POST /orders 201 \(head\): committed \d+\.\d ms before the first byte",
            r"E +\d+\.\d ms  work\.due send_receipt",
            r"E +\d+\.\d ms  body\.last .*",
            r"E +Way out: after_response\(\) starts work when the response has left; .*",
        ]
    )
    assert "postresponse/testing/orders.py" not in ran.stdout.str()  # the traceback ends in the user's own line


UNASKED = """
def test_this_test_has_no_fixture(request):
    assert [name for name in request.fixturenames if name.startswith("postresponse")] == []
    assert request.config.pluginmanager.has_plugin("postresponse")
"""

PROGRAM = """
import sys, pytest
assert pytest.main(["-q", "-p", "no:anyio", "-p", "no:cacheprovider", "--collect-only"]) == 0
assert pytest.main(["-q", "-p", "no:anyio", "-p", "no:cacheprovider"]) == 0
print("loaded:", *sorted(name for name in sys.modules if "postresponse" in name))
"""


def test_it_loads_pytest_alone_and_changes_no_test_that_does_not_ask(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_own=UNASKED)
    ran = pytester.run(sys.executable, "-c", PROGRAM, timeout=60)
    assert ran.ret == 0, ran.stdout.str()
    assert ran.outlines[-1] == "loaded: postresponse postresponse.pytest_plugin"


def test_its_names_are_its_own() -> None:
    fixtures = ["postresponse", "postresponse_inline", "postresponse_server"]
    assert sorted(pytest_plugin.__all__) == fixtures
    assert [name for name in vars(pytest_plugin) if name.startswith("pytest_")] == []  # no hook, no option


def test_it_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_own(postresponse): ...")
    ran = pytester.runpytest_subprocess("-p", "no:postresponse", "-p", "no:cacheprovider")
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["*fixture 'postresponse' not found*"])
