"""FastAPI: the steps of an order run behind its response; the payment waits for the bank, and holds no thread.

.venv/bin/uvicorn --app-dir examples flow_order:app --port 8000
curl -i -X POST localhost:8000/orders/tea              # 202, and `reserve` begins once it has left
curl localhost:8000/orders/1                           # what ran so far, and beside what; `payment` is suspended
curl -X POST localhost:8000/payments/TOKEN             # what the bank calls: `ship` begins; again: 409
"""

from typing import Any

import anyio
from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse

from postresponse import after_response
from postresponse.asgi import PostResponseMiddleware
from postresponse.exceptions import UnknownToken
from postresponse.work import Flow, FlowContext, complete, suspend

app = FastAPI()
orders: list[FlowContext] = []


async def reserve(ctx: Any) -> None:
    """Take the item out of the stock."""
    await anyio.sleep(0.1)


async def payment(ctx: Any) -> Any:
    """Ask for the money, and wait until the bank says that it is there."""

    async def ask_the_bank(token: str) -> None:
        ctx.token = token

    return await suspend(ask_the_bank, timeout=3600)


def label(ctx: Any) -> str:
    """Print a label, on a thread."""
    return f"to whom it may concern: {ctx.item}"


async def ship(ctx: Any) -> str:
    """Send it, once it is paid and has a label."""
    return f"{ctx.results['label']}, paid {ctx.results['payment']}"


ORDER = Flow.parse("reserve + (payment | label) + ship", [reserve, payment, label, ship])
app.add_middleware(PostResponseMiddleware)


@app.post("/orders/{item}", status_code=202)
async def order(item: str) -> dict[str, int]:
    """Take an order."""
    orders.append(FlowContext(item=item, token=None))
    after_response(ORDER, orders[-1])
    return {"order": len(orders)}


@app.get("/orders/{number}", response_class=PlainTextResponse)
async def look(number: int) -> str:
    """Tell what ran, and what is waited for."""
    return f"{orders[number - 1].result or 'not begun'}\n\ntoken: {orders[number - 1].token}\n"


@app.post("/payments/{token}")
async def paid(token: str) -> str:
    """The bank's call."""
    try:
        if complete(token, "by transfer"):
            return "thank you"
    except UnknownToken as error:
        raise HTTPException(404, "no such payment here") from error
    raise HTTPException(409, "paid already, or given up")
