"""Who can reach the comparison page is said before it opens."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("where", [("--host", "0.0.0.0"), ("--host", "::"), ("--share",)])
def test_a_page_that_is_open_to_others_says_so(cli, where):
    asked = ("demo", *where, "--port", "0", "--model", "/no/such/model")
    assert "mmhall: the page is open to" in cli(*asked).stderr
    assert "the page is open to" not in cli(*asked, "--auth", "me:secret").stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost"])
def test_a_page_for_this_machine_alone_needs_no_word(cli, host):
    assert "the page is open to" not in cli("demo", "--host", host, "--port", "0", "--model", "/no/such/model").stderr
