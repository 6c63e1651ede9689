"""Tasks as an app has them: in a module, before there is an app; pickled by name."""

import asyncio

from flask import Blueprint, current_app, request

from flask_delay import Delay, task

blueprint = Blueprint("tasks", __name__)
reports = Delay(name="reports")


@task
def add(left: int, right: int = 0, *, note: str = "") -> tuple[int, str]:
    """Add two numbers."""
    return left + right, current_app.name + note


@task
async def add_async(left: int, right: int = 0) -> tuple[int, str]:
    await asyncio.sleep(0)
    return left + right, current_app.name


@task(request=True)
def path() -> str:
    return request.path


@reports.task
def report(value: int) -> int:
    return value


class Sender:
    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sender) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @task
    def send(self, text: str) -> tuple[str, str]:
        """Send it."""
        return self.name, text

    @task
    async def send_async(self, text: str) -> tuple[str, str]:
        return self.name, text

    @task
    @classmethod
    def make(cls, name: str) -> "Sender":
        """Make one."""
        return cls(name)

    @task
    @staticmethod
    def count(text: str) -> int:
        """Count."""
        return len(text)

    @staticmethod
    @task
    def count_below(text: str) -> int:
        return len(text)


class Derived(Sender):
    pass


@blueprint.post("/add")
def add_view() -> dict[str, object]:
    return {"future": add.delay(**request.get_json()).name}
