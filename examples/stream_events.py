"""An export that a browser page shows while it runs: a bounded stream as server-sent events.

.venv/bin/uvicorn --app-dir examples stream_events:app --port 8000
open http://localhost:8000 in a browser; or: curl -X POST localhost:8000/exports ; curl -N localhost:8000/exports/1
curl -i localhost:8000/exports/1                   # once more: 204, and an EventSource that comes back gives up
"""

import itertools

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from postresponse import launch
from postresponse.asgi import PostResponseMiddleware
from postresponse.exceptions import StreamClosed, StreamInUse
from postresponse.work import Stream

ROWS = 40
PAGE = """<!doctype html><title>Export</title>
<button>Export</button> <progress max=1 value=0></progress> <output>nothing yet</output>
<script>
const [button, bar, said] = ["button", "progress", "output"].map(name => document.querySelector(name))
button.onclick = async () => {
  const source = new EventSource("/exports/" + await (await fetch("/exports", {method: "POST"})).text())
  source.onmessage = ({data}) => {
    const {row, of} = JSON.parse(data)
    bar.value = row / of, said.value = `row ${row} of ${of}`
  }
  for (const [name, text] of [["end", "all rows are here"], ["failed", "the export failed"]])
    source.addEventListener(name, () => { source.close(); said.value = text })
}
</script>"""

exports: dict[str, Stream[dict[str, int]]] = {}
numbers = itertools.count(1)


async def export(stream: Stream[dict[str, int]]) -> None:
    """Make the rows, a few ahead of whoever reads them; without a reader it ends after a minute."""
    async with stream:
        try:
            for row in range(1, ROWS + 1):
                await anyio.sleep(0.05)
                await stream.put({"row": row, "of": ROWS})
            stream.done()
        except StreamClosed as closed:
            print(f"given up: {closed}")


async def begin(_request: Request) -> Response:
    """Start an export, and say its number."""
    number = str(next(numbers))
    exports[number] = Stream(f"export {number}", maxsize=8, idle_timeout=60.0)
    launch(export, exports[number])
    return PlainTextResponse(number)


async def events(request: Request) -> Response:
    """Send the rows as they come, to one reader."""
    stream = exports.get(request.path_params["number"])
    if stream is None or stream.over:
        return Response(status_code=204)
    try:
        return StreamingResponse(stream.events(heartbeat=5.0), media_type="text/event-stream")
    except StreamInUse as error:
        return PlainTextResponse(str(error), status_code=409)


page = Route("/", lambda _request: HTMLResponse(PAGE))
routes = [page, Route("/exports", begin, methods=["POST"]), Route("/exports/{number}", events)]
app = PostResponseMiddleware(Starlette(routes=routes))
