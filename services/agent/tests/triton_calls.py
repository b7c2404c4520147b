"""Every call of the unchanged tritonclient that the agent serves, made in a process of its own.

Its generated code registers the package `inference` for the whole process, and a test process has other users
of it. Prints a JSON object: name of the check to what came of it.
"""

from __future__ import annotations

import importlib
import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

# They have no types.
triton: Any = importlib.import_module("tritonclient.grpc")
InferenceServerException: Any = importlib.import_module("tritonclient.utils").InferenceServerException
WAIT_S = 60.0


def main() -> None:
    options = json.loads(sys.argv[1])
    client = triton.InferenceServerClient(
        options["url"],
        ssl=True,
        root_certificates=options["bundle"],
        private_key=options["key"],
        certificate_chain=options["cert"],
        channel_args=[("grpc.ssl_target_name_override", options["name"])],
    )
    checks = Checks(client, options.get("headers"))
    print(json.dumps(checks.pictures(options["pictures"]) if "pictures" in options else checks.run()))
    client.close()


def rows(*values: float) -> Any:
    return np.array([[value, 0, 0, 0] for value in values], dtype=np.float32)


def tensor(array: Any, datatype: str = "FP32", name: str = "input") -> Any:
    made = triton.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array)
    return made


class Checks:
    def __init__(self, client: Any, headers: dict[str, str] | None) -> None:
        self.client = client
        self.headers = headers
        self.found: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        client, headers = self.client, {"headers": self.headers}
        self.check("live", lambda: client.is_server_live(**headers))
        self.check("ready", lambda: client.is_server_ready(**headers))
        self.check("model_ready", lambda: client.is_model_ready("colours", **headers))
        self.check("version_ready", lambda: client.is_model_ready("colours", "v1", **headers))
        self.check("stranger_ready", lambda: client.is_model_ready("nobody", **headers))
        self.check("server", lambda: client.get_server_metadata(as_json=True, **headers))
        self.check("metadata", lambda: client.get_model_metadata("colours", as_json=True, **headers))
        self.check("config", lambda: client.get_model_config("colours", as_json=True, **headers))
        self.check("index", lambda: client.get_model_repository_index(as_json=True, **headers))
        self.check("infer", self.infer)
        self.check("infer_options", self.infer_options)
        self.check("classes", self.classes)
        self.check("async_infer", self.async_infer)
        self.check("stream", self.stream)
        self.check("bytes", self.texts)
        self.check("fp16", self.half)
        self.check("unknown", lambda: client.infer("nobody", [tensor(rows(1))], **headers))
        self.check("bad_shape", lambda: client.infer("colours", [tensor(rows(1)[:, :2])], **headers))
        self.check("statistics", lambda: client.get_inference_statistics("colours", as_json=True, **headers))
        self.check("unload", lambda: client.unload_model("words", **headers))
        self.check("unloaded_ready", lambda: client.is_model_ready("words", **headers))
        self.check("unloaded", self.texts)
        self.check("load", lambda: client.load_model("words", **headers))
        self.check("loaded", self.texts)
        self.check("load_with_files", lambda: client.load_model("words", config="{}", **headers))
        return self.found

    def check(self, name: str, call: Callable[[], Any]) -> None:
        try:
            self.found[name] = call()
        except InferenceServerException as error:
            self.found[name] = {"error": error.message(), "status": error.status()}

    def infer(self) -> Any:
        wanted = [triton.InferRequestedOutput("scores")]
        return self.scores(
            self.client.infer("colours", [tensor(rows(1, 2))], outputs=wanted, headers=self.headers)
        )

    def infer_options(self) -> Any:
        result = self.client.infer(
            "colours",
            [tensor(rows(3))],
            model_version="v1",
            request_id="r1",
            client_timeout=30.0,
            timeout=20_000_000,
            priority=2,
            headers=self.headers,
        )
        response = result.get_response()
        return [response.id, response.model_version, self.scores(result)]

    def classes(self) -> Any:
        wanted = [triton.InferRequestedOutput("scores", class_count=2)]
        result = self.client.infer("colours", [tensor(rows(5))], outputs=wanted, headers=self.headers)
        return [item.decode() for item in result.as_numpy("scores").ravel()]

    def async_infer(self) -> Any:
        got: queue.Queue[Any] = queue.Queue()
        self.client.async_infer(
            "colours",
            [tensor(rows(4))],
            lambda result, error: got.put(error or self.scores(result)),
            headers=self.headers,
        )
        answer = got.get(timeout=WAIT_S)
        if isinstance(answer, InferenceServerException):
            raise answer
        return answer

    def stream(self) -> Any:
        got: queue.Queue[Any] = queue.Queue()
        self.client.start_stream(
            lambda result, error: got.put(str(error) if error else self.scores(result)), headers=self.headers
        )
        for number in range(5):
            self.client.async_stream_infer("colours", [tensor(rows(number))], request_id=str(number))
        self.client.async_stream_infer("nobody", [tensor(rows(1))])
        self.client.async_stream_infer("colours", [tensor(rows(9))], enable_empty_final_response=True)
        answers: list[Any] = []
        while len(answers) < 7 and not (answers and "StatusCode" in str(answers[-1])):
            answers.append(got.get(timeout=WAIT_S))
        self.client.stop_stream()
        return answers

    def texts(self) -> Any:
        words = np.array([["a", "é", ""]], dtype=object)
        given = np.array([[word.encode() for word in words[0]]], dtype=object)
        result = self.client.infer("words", [tensor(given, "BYTES")], headers=self.headers)
        return [item.decode() for item in result.as_numpy("output").ravel()]

    def half(self) -> Any:
        given = np.array([[0.5, 1.5]], dtype=np.float16)
        result = self.client.infer("halves", [tensor(given, "FP16")], headers=self.headers)
        return result.as_numpy("output").tolist()

    def pictures(self, model: str) -> Any:
        """Call a model whose tool takes images on its own tensors."""
        pixels = np.zeros((2, 3, 8, 8), np.float32)
        pixels[0, 1] = pixels[1, 2] = 1
        given = [tensor(pixels, name="pixels")]
        wanted = [triton.InferRequestedOutput("scores", class_count=1)]
        classes = self.client.infer(model, given, outputs=wanted).as_numpy("scores")
        return {
            "metadata": self.client.get_model_metadata(model, as_json=True),
            "config": self.client.get_model_config(model, as_json=True)["config"],
            "scores": self.scores(self.client.infer(model, given)),
            "classes": [item.decode() for item in classes.ravel()],
        }

    def scores(self, result: Any) -> Any:
        return result.as_numpy("scores").tolist()


if __name__ == "__main__":
    main()
