"""The built page in Firefox, opened as a file."""

import time

import pytest
from browsers import launched_firefox

WATCH = """
window.faults = [];
addEventListener("error", (event) => faults.push(event.message));
addEventListener("securitypolicyviolation", (event) => faults.push(event.violatedDirective));
document.getElementById("file").hidden = false;
"""
CHOOSE = """
const size = document.getElementById("mpp");
size.value = "0.25";
size.dispatchEvent(new Event("change"));
"""


@pytest.mark.slow
def test_firefox_finds_nuclei_in_a_picture(html, crop):
    with launched_firefox() as browser:

        def run(script):
            return browser.call("WebDriver:ExecuteScript", script=script, args=[])["value"]

        def until(expression):
            for _ in range(1200):
                if run(f"return Boolean({expression})"):
                    return
                time.sleep(0.1)
            raise TimeoutError(expression)

        browser.call("WebDriver:Navigate", url=html.as_uri())
        run(WATCH)
        found = browser.call("WebDriver:FindElement", using="css selector", value="#file")
        (element,) = found["value"].values()
        browser.call("WebDriver:ElementSendKeys", id=element, text=str(crop))
        until("document.getElementById('mpp')")
        run(CHOOSE)
        until("!document.getElementById('find').disabled")
        run("document.getElementById('find').click()")
        until("document.getElementById('counts')")
        assert int(run("return document.querySelector('#counts td').textContent")) > 20
        assert run("return faults") == []
