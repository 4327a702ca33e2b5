"""`cora serve`: everything is checked, the model loaded, then the service runs until a signal."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from rich.console import Console
from rich.text import Text

from cora.apps.class_weights import any_weights
from cora.apps.competing import distractors_line
from cora.apps.open_model import open_detector, open_torch_detector
from cora.console import error_console, output_console
from cora.errors import CoraError, MissingExtraError
from cora.export.runtime import ExportedModel
from cora.predictor import Predictor

if TYPE_CHECKING:
    from cora.retrieval import RegionIndex

TOKEN_VARIABLE = "CORA_TOKEN"
_PACKAGES = ("fastapi", "starlette", "pydantic", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    *,
    model: str,
    text_model: str | None,
    device: str,
    db: Path | None,
    host: str,
    port: int,
    allowed_hosts: Sequence[str],
    token_file: Path | None,
    max_batch: int,
    gather_ms: int,
    queue: int,
    timeout: float,
    max_body_mib: float,
    max_megapixels: float,
    max_images: int,
    max_classes: int,
    class_weights: str | None = None,
) -> int:
    """Serve until SIGTERM or Ctrl-C; what was accepted before it is answered.

    Args:
        model: name or path of a model.
        text_model: that embeds names for an exported model; the one named in its file if None.
        device: name of a torch device, or "auto".
        db: index for `/search`, if there is one.
        host: address to listen at.
        port: 0 for a free one.
        allowed_hosts: names the service is called by, besides its address.
        token_file: file with the token; the environment's if None.
        max_batch: images in one pass of the model.
        gather_ms: milliseconds that an image waits for others.
        queue: images that may wait.
        timeout: seconds for a request.
        max_body_mib: largest request.
        max_megapixels: largest image.
        max_images: images in one request, at most `queue`.
        max_classes: names in one request.
        class_weights: factors on classes in pre-matching, of those that a request names: "bus=8,cat=2" or a JSON file.

    Returns:
        Exit code 0 after SIGTERM.

    Raises:
        CoraError: bad input, or an address that cannot be had.
        KeyboardInterrupt: after Ctrl-C, when the service has ended.
    """
    try:
        import python_multipart  # noqa: F401  # otherwise looked for when the first form comes

        from cora.service.app import create_app
        from cora.service.limits import Limits
        from cora.service.server import bind, run, url_of
        from cora.service.service import Service
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise MissingExtraError("cora serve", extra="serve") from error

    token = _read_token(token_file)
    weights = any_weights(class_weights)
    try:
        limits = Limits(
            max_body_bytes=round(max_body_mib * 2**20),
            max_pixels=round(max_megapixels * 1e6),
            max_images=max_images,
            max_classes=max_classes,
            max_waiting=queue,
            timeout_s=timeout,
        )
    except ValueError as error:
        raise CoraError(str(error)) from None
    bound = bind(host, port)
    with bound:
        detector, index = _load(model, text_model, device, db)
        service = Service(
            detector=detector,
            limits=limits,
            max_batch=max_batch,
            gather_s=gather_ms / 1000,
            index=index,
            class_weights=weights,
        )
        local = ipaddress.ip_address(bound.getsockname()[0]).is_loopback
        # A service for this machine is called by this machine's names. Elsewhere its names are not known here.
        known = ["localhost", "127.0.0.1", "::1", "[::1]", host, *allowed_hosts]
        hosts = [name.lower() for name in known] if local or allowed_hosts else ["*"]
        app = create_app(service, model_name=Path(model).name, token=token, hosts=hosts)
        errors = error_console()
        if not local and token is None:
            _say(errors, "cora: warning: everybody who reaches this port may use the service; see --token-file")
        line = distractors_line(detector, (), switch='"distractors": [] switches them off', yours="those of a request")
        if line is not None:
            _say(errors, f"cora: {line}")
        out = output_console()
        run(
            app,
            bound,
            grace_s=limits.timeout_s + 5,
            on_start=lambda: _say(out, f"cora: serving {model} at {url_of(bound)} (Ctrl-C stops it)"),
        )
    return 0


def _load(model: str, text_model: str | None, device: str, db: Path | None) -> tuple[Predictor, RegionIndex | None]:
    if db is None:
        detector, index = open_detector(model, device, text_model=text_model), None
        if isinstance(detector.model, ExportedModel):
            # Clients read it in messages; where the file lies is no concern of theirs.
            detector.model.source = Path(model).name
    else:
        from cora.retrieval import RegionIndex

        index = RegionIndex.open(db)
        detector = Predictor(open_torch_detector(model, device, needs="cora serve --db"))
        index.check_model(detector)
    # The first pass prepares what later ones use; nobody should wait for it.
    detector.predict(Image.new("RGB", (640, 480)), detector.class_names or ("object",))
    return detector, index


def _say(console: Console, message: str) -> None:
    console.print(Text(message), soft_wrap=True)
    console.file.flush()


def _read_token(file: Path | None) -> str | None:
    from cora.service.security import check_token

    if file is None:
        token = os.environ.get(TOKEN_VARIABLE)
        return None if token is None else check_token(token)
    try:
        return check_token(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are no text"
        raise CoraError(f"expected a file with a token, got {reason}: {file}; check --token-file") from None
