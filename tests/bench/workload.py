"""The types of workloads.py: a workload, and the parameters of one of its rounds."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Round:
    """The parameters of one round."""

    seconds: float
    number: int
    file_sha256: str
    start: Callable
    websocket: str
    handshake: str
    websockets: int
    # Those of the server and of the clients.
    cores: tuple
    page: bool = False


@dataclass(frozen=True)
class Workload:
    """One table; `measure(round, name)` returns the figures of one round of one server."""

    title: str
    measure: Callable
    servers: tuple
    columns: tuple
    main: str
    higher_is_better: bool = True
    default: bool = True
    max_rounds: int = 99
    needs: tuple = ()
    note: str = ""
    # The label of its row in packaging/doc/performance.md; without one it is not on that page.
    page: str = ""
    # On the page: the row of rgun, and a row that is no rival but a bound.
    subject: str = "rgun"
    reference: str = ""
    ideal: Callable = field(default=lambda seconds, rounds: None)
