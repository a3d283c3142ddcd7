"""Starlette: while the bank is away orders go back to their queue, and each is paid once when it is there again.

.venv/bin/uvicorn --app-dir examples receiver_degraded:app --port 8000
curl -X PUT localhost:8000/bank/away               # the bank is away
curl -d tea localhost:8000/orders                  # 202: it is put back, again and again, and not lost
curl localhost:8000/orders                         # {"paid": [], "given up": []}
curl -X PUT localhost:8000/bank/there              # the bank is there again
curl localhost:8000/orders                         # {"paid": ["tea"], "given up": []}
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from postresponse.asgi import PostResponseMiddleware
from postresponse.messaging import DegradedFilter, Delivery, Message, Receiver
from postresponse.messaging.transports.memory import MemoryTransport

queue = MemoryTransport()  # or KombuTransport("amqp://guest:guest@localhost//", "orders"), with `await queue.asend()`
paid: list[str] = []
given_up: list[str] = []
state = {"bank": "there"}


async def bank_is_away() -> bool:
    """Whether it is; if this raised it would count as away."""
    return state["bank"] == "away"


async def pay(delivery: Delivery) -> None:
    """Pay one order."""
    paid.append(delivery.payload)


def give_up(delivery: Delivery, reason: str) -> None:
    """Keep what was put back a hundred times, for somebody to look at."""
    given_up.append(f"{delivery.payload}: {reason}")


receiver = Receiver(
    queue,
    pay,
    filters=[DegradedFilter(bank_is_away, delay=0.1, max_deferrals=100)],
    on_dead_letter=give_up,
    autostart=True,
)


async def order(request: Request) -> JSONResponse:
    """Take an order."""
    queue.send(Message("orders", "pay", (await request.body()).decode()))
    return JSONResponse(None, 202)


async def orders(request: Request) -> JSONResponse:
    """What is paid, and what was given up."""
    return JSONResponse({"paid": paid, "given up": given_up})


async def bank(request: Request) -> JSONResponse:
    """Say whether the bank is there."""
    state["bank"] = request.path_params["state"]
    return JSONResponse(state)


routes = [Route("/orders", orders), Route("/orders", order, methods=["POST"])]
app = PostResponseMiddleware(Starlette(routes=[*routes, Route("/bank/{state}", bank, methods=["PUT"])]))
