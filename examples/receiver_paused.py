"""Starlette: a receiver that is paused during a deploy; orders are taken all the while, and booked once it goes on.

.venv/bin/uvicorn --app-dir examples receiver_paused:app --port 8000
curl -d tea localhost:8000/orders                  # 202, and booked at once
curl -X POST localhost:8000/pause                  # before the deploy: what is being booked is booked to its end
curl -d milk localhost:8000/orders                 # 202: it waits in the queue
curl localhost:8000/orders                         # {"booked": ["tea"], "waiting": 1, "receiver": "paused"}
curl -X POST localhost:8000/resume                 # after it: in the order in which they came
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from postresponse.asgi import PostResponseMiddleware
from postresponse.messaging import Delivery, Message, Receiver
from postresponse.messaging.transports.memory import MemoryTransport

queue = MemoryTransport()  # or KombuTransport("amqp://guest:guest@localhost//", "orders"), with `await queue.asend()`
booked: list[str] = []


async def book(delivery: Delivery) -> None:
    """Book one order; if this raised it would come again, later each time."""
    booked.append(delivery.payload)


# It starts with the application's lifespan, and when that ends it finishes what it has begun.
receiver = Receiver(queue, book, concurrency=1, autostart=True)


async def order(request: Request) -> JSONResponse:
    """Take an order."""
    queue.send(Message("orders", "book", (await request.body()).decode()))
    return JSONResponse(None, 202)


async def orders(request: Request) -> JSONResponse:
    """What is booked, and what waits."""
    return JSONResponse({"booked": booked, "waiting": len(queue), "receiver": receiver.state})


async def pause(request: Request) -> JSONResponse:
    """Take nothing more from the queue."""
    receiver.pause()
    return JSONResponse(receiver.state)


async def resume(request: Request) -> JSONResponse:
    """Go on."""
    receiver.resume()
    return JSONResponse(receiver.state)


app = PostResponseMiddleware(
    Starlette(
        routes=[
            Route("/orders", orders),
            Route("/orders", order, methods=["POST"]),
            Route("/pause", pause, methods=["POST"]),
            Route("/resume", resume, methods=["POST"]),
        ]
    )
)
