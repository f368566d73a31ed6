"""What a check returns."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Breach:
    """A place that breaks a rule: where (`file:line`), which name breaks it, and how."""

    place: str
    subject: str
    what: str = ""
