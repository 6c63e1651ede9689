import pytest

grpc = pytest.importorskip("grpc")


# grpcio's own threads end in their own time.
pytestmark = pytest.mark.keeps_threads


@pytest.fixture
def call(executor, where):
    """Call a server on loopback whose handlers run in our executor."""

    def unary(request, context):
        if request == b"fail":
            context.abort(grpc.StatusCode.NOT_FOUND, "on purpose")
        return b" ".join([where().encode(), request])

    def stream(request, context):
        for _ in range(3):
            yield where().encode()

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server = grpc.server(executor)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("test.Service", handlers)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # A proxy of the machine has no business here.
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        yield {
            "unary": channel.unary_unary("/test.Service/Unary"),
            "stream": channel.unary_stream("/test.Service/Stream"),
        }
    assert server.stop(None).wait(20)


def test_unary(call, is_ours):
    for number in range(20):
        name, sent = call["unary"](str(number).encode(), timeout=20).split()
        assert is_ours(name.decode())
        assert int(sent) == number


def test_stream(call, is_ours):
    names = list(call["stream"](b"", timeout=20))
    assert len(names) == 3
    assert all(is_ours(name.decode()) for name in names)


def test_several_at_once(call, is_ours):
    pending = [call["unary"].future(b"x", timeout=20) for _ in range(50)]
    assert all(is_ours(one.result().split()[0].decode()) for one in pending)


def test_error(call):
    with pytest.raises(grpc.RpcError) as info:
        call["unary"](b"fail", timeout=20)
    assert info.value.code() is grpc.StatusCode.NOT_FOUND
