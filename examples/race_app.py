"""FastAPI: a customer is stored in two places at once; the first that has it answers, and the other one still gets it.

.venv/bin/uvicorn --app-dir examples race_app:app --port 8000
curl -i -X POST localhost:8000/customers/ann       # at once, from the near store
curl -i -X POST localhost:8000/customers/bob7      # no digits in the near store: from the far one, an error is logged
curl localhost:8000/customers                      # both stores: a second later the far one has them all
"""

import asyncio

from fastapi import FastAPI, HTTPException

from postresponse import first_success
from postresponse.asgi import PostResponseMiddleware

near: list[str] = []
far: list[str] = []


async def store_near(name: str) -> str:
    """Take a name that has letters only."""
    if not name.isalpha():
        raise ValueError(f"the near store takes no {name!r}")
    near.append(name)
    return "near"


async def store_far(name: str) -> str:
    """Take any name but an empty one, after a while."""
    await asyncio.sleep(0.5)
    if name == "-":
        raise ValueError("the far store takes no '-'")
    far.append(name)
    return "far"


shop = FastAPI()


@shop.post("/customers/{name}", status_code=201)
async def create(name: str) -> dict[str, str]:
    """Answer when the first store has it; what the other one raises later is logged, once."""
    try:
        return {"stored": await first_success(store_near, store_far, args=(name,), timeout=5.0)}
    except ExceptionGroup as both:
        raise HTTPException(422, [str(error) for error in both.exceptions]) from both


@shop.get("/customers")
async def customers() -> dict[str, list[str]]:
    """What each store has."""
    return {"near": near, "far": far}


app = PostResponseMiddleware(shop)
