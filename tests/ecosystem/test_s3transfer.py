"""boto3's transfers; what the client would send is answered here, from memory."""

import io
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("s3transfer")
boto3 = pytest.importorskip("boto3")

from botocore.awsrequest import AWSResponse  # noqa: E402
from botocore.config import Config  # noqa: E402
from s3transfer.manager import TransferConfig, TransferManager  # noqa: E402

from flask_delay import Executor  # noqa: E402

KIB = 1024
MIB = KIB * KIB


class OurExecutor(Executor):
    """`executor_cls` is called with `max_workers` alone."""

    def __init__(self, max_workers):
        super().__init__(max_workers, "ours")


class Storage:
    """The objects, and which threads sent requests for them."""

    def __init__(self):
        self.objects = {}
        self.threads = {}
        self._parts = {}
        self._lock = threading.Lock()

    def answer(self, request, **_):
        """What botocore's `before-send` event may return: an answer in place of a request."""
        url = urlsplit(request.url)
        query = parse_qs(url.query, keep_blank_values=True)
        operation = " ".join([request.method, *sorted(query.keys() & {"uploads", "partNumber"})])
        with self._lock:
            names = self.threads.setdefault(operation, [])
            names.append(threading.current_thread().name)
            return self._answer(request, url.path.rpartition("/")[2], query)

    def _answer(self, request, key, query):
        status, headers, body = 200, {"ETag": '"1"'}, b""
        if request.method == "PUT":
            data = request.body if isinstance(request.body, bytes) else request.body.read()
            if "partNumber" in query:
                self._parts[int(query["partNumber"][0])] = data
            else:
                self.objects[key] = data
        elif request.method == "POST" and "uploads" in query:
            body = b"<R><UploadId>1</UploadId></R>"
        elif request.method == "POST":
            self.objects[key] = b"".join(data for _, data in sorted(self._parts.items()))
            body = b"<R><ETag>1</ETag></R>"
        elif key not in self.objects:
            status, body = 404, b"<Error><Code>NoSuchKey</Code></Error>"
        else:
            body = self.objects[key]
            if wanted := request.headers.get("Range"):
                first, _, last = str(wanted, "ascii").removeprefix("bytes=").partition("-")
                start, end = int(first), int(last) if last else len(body) - 1
                headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
                status, body = 206, body[start : end + 1]
            headers["Content-Length"] = str(len(body))
        return AWSResponse(
            request.url, status, headers, Raw(b"" if request.method == "HEAD" else body)
        )


class Raw(io.BytesIO):
    """A body as urllib3 gives it."""

    def stream(self, amt=2**16, **_):
        while chunk := self.read(amt):
            yield chunk


@pytest.fixture
def storage():
    return Storage()


@pytest.fixture
def client(storage):
    client = boto3.client(
        "s3",
        region_name="eu-central-1",
        endpoint_url="https://storage.invalid",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=Config(
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        ),
    )
    client.meta.events.register("before-send.s3", storage.answer)
    yield client
    client.close()


@pytest.fixture
def manager(client):
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=5 * MIB)
    with TransferManager(client, config, executor_cls=OurExecutor) as manager:
        yield manager


@pytest.mark.parametrize("size", [10, 12 * MIB], ids=["one request", "several parts"])
def test_upload_and_download(manager, storage, is_ours, size, tmp_path):
    data = bytes(range(256)) * (size // 256 + 1)
    sent = tmp_path / "sent"
    sent.write_bytes(data)
    manager.upload(str(sent), "bucket", "key").result()
    assert storage.objects == {"key": data}

    received = tmp_path / "received"
    manager.download("bucket", "key", str(received)).result()
    assert received.read_bytes() == data

    upload = {"PUT"} if size < MIB else {"POST uploads", "PUT partNumber", "POST"}
    assert {"GET", *upload} <= set(storage.threads)
    assert all(is_ours(name) for names in storage.threads.values() for name in names)


def test_many(manager, storage, is_ours):
    bodies = {str(n): str(n).encode() for n in range(100)}
    transfers = [manager.upload(io.BytesIO(body), "bucket", key) for key, body in bodies.items()]
    for transfer in transfers:
        transfer.result()
    assert storage.objects == bodies
    assert len(storage.threads["PUT"]) == 100
    assert all(map(is_ours, storage.threads["PUT"]))


def test_failure(manager, client):
    with pytest.raises(client.exceptions.ClientError, match="404|NoSuchKey"):
        manager.download("bucket", "absent", io.BytesIO()).result()
