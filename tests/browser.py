"""A real headless browser for tests of pages: Chrome's DevTools protocol by way of choreographer, which kaleido brings along."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import choreographer

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROME = next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """An open page. `requests` are the addresses it asked for, `complaints` what it wrote to the console or threw."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def send(self, command: str, **params: Any) -> dict[str, Any]:
        answer = await self.tab.send_command(command, params=params)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def run(self, script: str) -> Any:
        """Run JavaScript and return what it evaluates to, once it is settled."""
        answer = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def wait_for(self, condition: str, seconds: float = 60.0) -> None:
        for _ in range(int(seconds / 0.05)):
            if await self.run(condition):
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{condition} did not come true; {self.complaints}")

    async def open(self, path: Path, width: int = 1100, height: int = 900, *, dark: bool = False) -> None:
        """Open a page and wait until all its figures are drawn."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}, {"name": "hover", "value": "hover"}]
        await self.send("Emulation.setEmulatedMedia", features=scheme)
        await self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        await self.send("Page.navigate", url=path.resolve().as_uri())
        await self.wait_for("document.documentElement?.dataset.ready === 'yes'")

    async def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    async def pdf(self, path: Path) -> None:
        """Print the page."""
        printed = await self.send("Page.printToPDF", preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(printed["data"]))


@asynccontextmanager
async def browser_page() -> AsyncIterator[Page]:
    """Open an empty page in a browser of its own."""
    async with choreographer.Browser(path=CHROME, headless=True, enable_sandbox=False) as browser:
        page = Page(await browser.create_tab("about:blank"))

        async def on_request(message: Any) -> None:
            page.requests.append(message["params"]["request"]["url"])

        async def on_log(message: Any) -> None:
            page.complaints.append(message["params"]["entry"]["text"])

        async def on_console(message: Any) -> None:
            if message["params"]["type"] in ("error", "warning", "assert"):
                page.complaints.append(str([a.get("value", a.get("description")) for a in message["params"]["args"]]))

        async def on_exception(message: Any) -> None:
            page.complaints.append(json.dumps(message["params"]["exceptionDetails"])[:500])

        for event, listener in (
            ("Network.requestWillBeSent", on_request), ("Log.entryAdded", on_log),
            ("Runtime.consoleAPICalled", on_console), ("Runtime.exceptionThrown", on_exception),
        ):  # fmt: skip
            page.tab.subscribe(event, listener)
        for domain in ("Network", "Log", "Runtime", "Page"):
            await page.send(f"{domain}.enable")
        yield page
