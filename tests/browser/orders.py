"""The tasks of the shop in the pictures. Those that run wait for `go` in C, which has no frame."""

import _thread

from flask_delay import Retry, current_task, task

go = _thread.allocate_lock()


def stand_still(done: float, total: float | None, note: str) -> None:
    current_task.progress(done, total, note)
    with go:
        pass


def ask_bank(order: int) -> str:
    if order % 2:
        raise ConnectionError(f"order {order}: the bank did not answer within 5 s")
    raise PermissionError(f"order {order}: card declined")


@task(durable=True)
def charge(order: int) -> str:
    return ask_bank(order)


@task(durable=True, retry=Retry(3, waits=[1800]))
def refund(order: int) -> str:
    return ask_bank(order)


@task(durable=True)
def send_receipt(order: int) -> None:
    if order % 2:
        raise ValueError(f"order {order}: 'ann@' is no address")


@task
def thumbnail(product: int) -> None:
    if product % 2:
        raise OSError(f"product {product}: the picture is empty")


@task(durable=True)
def index_product(product: int) -> None: ...


@task(durable=True)
def export_orders(year: int) -> int:
    stand_still(312, 480, f"orders of {year}")
    return 480


@task(durable=True)
def send_newsletter(city: str) -> None:
    stand_still(1_240, None, f"readers in {city}")


@task(durable=True)
def import_prices() -> int:
    stand_still(63, 180, "supplier 3 of 7")
    return 180


@task(durable=True)
def publish_prices(count: int) -> None: ...


@task(durable=True, key="mailbox", limit=1)
def fetch_mail(folder: str) -> None:
    stand_still(9, 40, folder)


@task(durable=True, rate="1/h")
def ask_partner(city: str) -> None: ...


@task(durable=True)
def remind(order: int) -> None: ...


@task(durable=True)
def rebuild_search(part: int) -> None: ...


def tidy_carts() -> None: ...


def close_books() -> None: ...


def back_up() -> None: ...
