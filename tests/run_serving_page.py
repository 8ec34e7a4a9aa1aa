"""Use the page of a server in a headless browser: `python tests/run_serving_page.py BROWSER URL`.

It prints what was seen as JSON. It is a process of its own: a browser that hangs can be ended.
"""

import json
import sys

from playwright.sync_api import sync_playwright


def main(browser, url, picture=None):
    seen = {"errors": [], "requests": [], "widths": {}}
    with sync_playwright() as play:
        options = {"executable_path": browser, "args": ["--no-sandbox", "--disable-gpu"]}
        with play.chromium.launch(**options) as chromium:
            for width in (390, 1280):
                for scheme in ("light", "dark"):
                    page = chromium.new_page(
                        viewport={"width": width, "height": 900}, color_scheme=scheme
                    )
                    page.on("pageerror", lambda error: seen["errors"].append(str(error)))
                    page.on("console", lambda one: seen["errors"].append(one.text))
                    page.on("request", lambda one: seen["requests"].append(one.url))
                    page.goto(url)
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    seen["widths"][f"{width} {scheme}"] = wide
                    if picture:
                        page.screenshot(path=f"{picture}-{width}-{scheme}.png", full_page=True)
            form = page.locator("form[data-model=scaled]").first
            form.locator("textarea").fill("[[1, 2, 3], [4, 5, 6]]")
            form.get_by_role("button", name="Call").click()
            form.locator(".answer td").first.wait_for()
            seen["answer"] = form.locator(".answer").inner_text()
            seen["curl"] = form.locator("pre").inner_text()
            seen["said"] = form.locator("output").inner_text()
            form.locator("textarea").fill("[[1, 2]]")
            form.get_by_role("button", name="Call").click()
            form.locator("output.alarm").wait_for()
            seen["refused"] = form.locator("output").inner_text()
            words = page.locator("form[data-model=words]")
            words.locator("textarea").fill('[["a", "a"]]')
            words.get_by_role("button", name="Call").click()
            words.locator(".answer td").first.wait_for()
            seen["label"] = words.locator(".answer").inner_text()
            other = page.locator("form[data-signature=half]")
            other.get_by_role("button", name="Call").click()
            other.locator(".answer td").first.wait_for()
            seen["half"] = other.locator(".answer").inner_text()
            if picture:
                page.screenshot(path=f"{picture}-used.png", full_page=True)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
