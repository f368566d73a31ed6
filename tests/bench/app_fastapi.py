"""The FastAPI application of the benchmarks: `app_fastapi:application`, one route with two parameters.

The response is a dict, so FastAPI validates the parameters, serializes the response, and runs its middleware.
"""

from fastapi import FastAPI

application = FastAPI()


@application.get("/items/{number}")
async def item(number: int, discount: float = 0.0):
    """Responds with an item as JSON."""
    price = round(20 * (1 - discount), 2)
    return {"number": number, "name": "coffee mug", "price": price, "tags": ["kitchen", "ceramic"]}
