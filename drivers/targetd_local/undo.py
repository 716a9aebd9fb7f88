"""What is taken back, last first, when not all of it could be done."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from targetd_local.errors import LocalError


class Undo:
    """A block of steps. Each says before it is taken how it is taken back, so that an
    interruption finds it whenever it comes; taking back what was not done is no error.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []
        # Why it is taken back, for those who do that.
        self.error: BaseException | None = None

    def before(self, what: str, undo: Callable[[], object]) -> None:
        self._steps.append((what, undo))

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        self.error = error
        for what, undo in reversed(self._steps):
            try:
                undo()
            except (LocalError, OSError) as failure:
                left = f"{what}: {failure}"
                error.add_note(f"not undone: {left}")
                if isinstance(error, LocalError):
                    error.left.append(left)
