"""`cora serve`: checks everything, loads the model, then serves until a signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cora.apps.argument_types import above_zero, port, positive, whole
from cora.apps.command import Command
from cora.apps.model_options import class_weights_option, device_option, model_option, text_model_option
from cora.apps.options import option
from cora.errors import CoraError, MissingExtraError

if TYPE_CHECKING:
    from cora.predictor import Predictor
    from cora.retrieval import RegionIndex
    from cora.service.limits import Limits

_PACKAGES = ("fastapi", "starlette", "pydantic", "uvicorn", "python_multipart", "prometheus_client")
_ADDRESS, _BATCHES, _LIMITS = "address", "batches", "limits"


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of `cora serve`."""

    model: str = model_option()
    text_model: str | None = text_model_option()
    class_weights: str | None = class_weights_option()
    device: str = device_option()
    db: Path | None = option(metavar="PATH", help="index of 'cora index' that /search looks in")
    host: str = option(
        section=_ADDRESS,
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 is every one of this machine (default: %(default)s, this machine only)",
    )
    port: int = option(
        section=_ADDRESS, type=port, metavar="PORT", default=8000, help="0 takes a free one (default: %(default)s)"
    )
    allow_host: Sequence[str] = option(
        section=_ADDRESS,
        action="append",
        default=(),
        metavar="NAME",
        help="a name that the service is called by, behind a proxy for instance; repeatable",
    )
    token_file: Path | None = option(
        section=_ADDRESS,
        help="file with a token that requests must bring as 'Authorization: Bearer TOKEN' (default: the environment "
        "variable CORA_TOKEN; without both everybody who reaches the port may ask)",
    )
    max_batch: int = option(
        section=_BATCHES, type=positive, default=8, help="images in one pass of the model (default: %(default)s)"
    )
    gather_ms: int = option(
        section=_BATCHES,
        type=whole,
        default=4,
        metavar="MS",
        help="how long an image waits for others of its kind (default: %(default)s)",
    )
    queue: int = option(
        section=_LIMITS,
        type=positive,
        default=64,
        help="images accepted and not answered yet; more are refused with 429 (default: %(default)s)",
    )
    timeout: float = option(
        section=_LIMITS,
        type=above_zero,
        default=30.0,
        metavar="SECONDS",
        help="time for a request (default: %(default)g)",
    )
    max_body: float = option(
        section=_LIMITS, type=above_zero, default=32.0, metavar="MIB", help="size of a request (default: %(default)g)"
    )
    max_megapixels: float = option(
        section=_LIMITS, type=above_zero, default=50.0, metavar="MP", help="size of an image (default: %(default)g)"
    )
    max_images: int = option(
        section=_LIMITS, type=positive, default=16, help="images in one request (default: %(default)s)"
    )
    max_classes: int = option(
        section=_LIMITS, type=positive, default=200, help="names in one request (default: %(default)s)"
    )


def run(options: ServeOptions) -> int:
    """Serve until SIGTERM or Ctrl-C; requests that were accepted before are answered.

    Returns:
        Exit code 0 after SIGTERM.

    Raises:
        CoraError: bad input, or an address that is not free.
        KeyboardInterrupt: after Ctrl-C, when the service has ended.
    """
    try:
        import python_multipart  # noqa: F401  # otherwise looked for when the first form comes

        from cora.service.app import create_app
        from cora.service.security import read_token
        from cora.service.server import bind, is_local, names_of, serve, url_of
        from cora.service.service import Service
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise MissingExtraError("cora serve", extra="serve") from error

    from cora.apps.open_model import distractors_line
    from cora.console import error_console, output_console, say
    from cora.data.class_weights import any_weights

    token = read_token(options.token_file)
    weights = any_weights(options.class_weights)
    limits = _limits(options)
    bound = bind(options.host, options.port)
    with bound:
        detector, index = load(options)
        service = Service(
            detector=detector,
            limits=limits,
            max_batch=options.max_batch,
            gather_s=options.gather_ms / 1000,
            index=index,
            class_weights=weights,
        )
        hosts = names_of(bound, options.host, options.allow_host)
        app = create_app(service, model_name=Path(options.model).name, token=token, hosts=hosts)
        errors = error_console()
        if not is_local(bound) and token is None:
            say(errors, "cora: warning: everybody who reaches this port may use the service; see --token-file")
        line = distractors_line(detector, (), switch='"distractors": [] switches them off', yours="those of a request")
        if line is not None:
            say(errors, f"cora: {line}")
        out = output_console()

        def started() -> None:
            say(out, f"cora: serving {options.model} at {url_of(bound)} (Ctrl-C stops it)")
            out.file.flush()

        serve(app, bound, grace_s=limits.timeout_s + 5, on_start=started)
    return 0


def load(options: ServeOptions) -> tuple[Predictor, RegionIndex | None]:
    """The model, ready for a first request, and the index if there is one."""
    from PIL import Image

    from cora.apps.open_model import open_detector, open_torch_detector
    from cora.export.runtime import ExportedModel
    from cora.predictor import Predictor

    if options.db is None:
        detector, index = open_detector(options.model, options.device, text_model=options.text_model), None
        if isinstance(detector.model, ExportedModel):
            # Messages to clients must not reveal the folder of the file.
            detector.model.source = Path(options.model).name
    else:
        from cora.retrieval import RegionIndex

        if options.text_model is not None:
            raise CoraError(
                f"--text-model {options.text_model}: expected it without --db, which takes no exported file; leave it "
                "out"
            )
        index = RegionIndex.open(options.db)
        detector = Predictor(open_torch_detector(options.model, options.device, needs="cora serve --db"))
        index.check_model(detector)
    # The first pass is slow, since it prepares what later ones use; no request should wait for it.
    detector.predict(Image.new("RGB", (640, 480)), detector.class_names or ("object",))
    return detector, index


def _limits(options: ServeOptions) -> Limits:
    from cora.service.limits import Limits

    try:
        return Limits(
            max_body_bytes=round(options.max_body * 2**20),
            max_pixels=round(options.max_megapixels * 1e6),
            max_images=options.max_images,
            max_classes=options.max_classes,
            max_waiting=options.queue,
            timeout_s=options.timeout,
        )
    except ValueError as error:
        raise CoraError(str(error)) from None


COMMAND = Command(
    name="serve",
    options=ServeOptions,
    run=run,
    help="detect and search over HTTP, with a web page",
    description="Detect and search over HTTP, with a web page, on this machine unless --host says otherwise.",
    epilog="SIGTERM and Ctrl-C end it in order: what was accepted is answered. Exit code: 0, or 130 after Ctrl-C.",
)
