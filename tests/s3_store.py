"""An object store on this machine that speaks S3."""

import pytest


@pytest.fixture(scope="session")
def s3_server():
    """URL of a server that keeps its buckets in memory."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    answer = S3Response.serialized

    def as_s3_says_it(self, result):
        # moto 5.2 names the root ...Response, which AWS's client takes for an error.
        status, headers, body = answer(self, result)
        wrong, right = "CompleteMultipartUploadResponse", "CompleteMultipartUploadResult"
        if isinstance(body, bytes):
            return status, headers, body.replace(wrong.encode(), right.encode())
        return status, headers, body.replace(wrong, right)

    patch = pytest.MonkeyPatch()
    patch.setattr(S3Response, "serialized", as_s3_says_it)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    patch.undo()


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    """URI of an empty bucket."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="runs")
    yield "s3://runs"
    for entry in client.list_objects_v2(Bucket="runs").get("Contents", []):
        client.delete_object(Bucket="runs", Key=entry["Key"])
    client.delete_bucket(Bucket="runs")
