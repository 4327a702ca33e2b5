"""`cora serve`: its arguments; `serve_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps.argument_types import above_zero, positive, whole
from cora.apps.class_weights import add_class_weights_option
from cora.apps.command import set_command
from cora.apps.model_options import add_device_option, add_model_option, add_text_model_option


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `serve` to the commands."""
    parser = commands.add_parser(
        "serve",
        help="detect and search over HTTP, with a web page",
        description="Detect and search over HTTP, with a web page, on this machine unless --host says otherwise.",
        epilog="SIGTERM and Ctrl-C end it in order: what was accepted is answered. Exit code: 0, or 130 after Ctrl-C.",
    )
    add_arguments(parser)
    set_command(parser, run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora serve`."""
    add_model_option(parser)
    add_text_model_option(parser)
    add_class_weights_option(parser)
    add_device_option(parser)
    parser.add_argument("--db", type=Path, metavar="PATH", help="index of 'cora index' that /search looks in")
    place = parser.add_argument_group("address")
    place.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 is every one of this machine (default: %(default)s, this machine only)",
    )
    place.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default: %(default)s)")
    place.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the service is called by, behind a proxy for instance; repeatable",
    )
    place.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with a token that requests must bring as 'Authorization: Bearer TOKEN' (default: the environment "
        "variable CORA_TOKEN; without both everybody who reaches the port may ask)",
    )
    batches = parser.add_argument_group("batches")
    batches.add_argument(
        "--max-batch", type=positive, default=8, help="images in one pass of the model (default: %(default)s)"
    )
    batches.add_argument(
        "--gather-ms",
        type=whole,
        default=4,
        metavar="MS",
        help="how long an image waits for others of its kind (default: %(default)s)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--queue",
        type=positive,
        default=64,
        help="images accepted and not answered yet; more are refused with 429 (default: %(default)s)",
    )
    limits.add_argument(
        "--timeout", type=above_zero, default=30.0, metavar="SECONDS", help="time for a request (default: %(default)g)"
    )
    limits.add_argument(
        "--max-body", type=above_zero, default=32.0, metavar="MIB", help="size of a request (default: %(default)g)"
    )
    limits.add_argument(
        "--max-megapixels", type=above_zero, default=50.0, metavar="MP", help="size of an image (default: %(default)g)"
    )
    limits.add_argument("--max-images", type=positive, default=16, help="images in one request (default: %(default)s)")
    limits.add_argument("--max-classes", type=positive, default=200, help="names in one request (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; returns the exit code."""
    from cora.apps.serve_run import serve

    return serve(
        model=arguments.model,
        text_model=arguments.text_model,
        device=arguments.device,
        class_weights=arguments.class_weights,
        db=arguments.db,
        host=arguments.host,
        port=arguments.port,
        allowed_hosts=arguments.allow_host,
        token_file=arguments.token_file,
        max_batch=arguments.max_batch,
        gather_ms=arguments.gather_ms,
        queue=arguments.queue,
        timeout=arguments.timeout,
        max_body_mib=arguments.max_body,
        max_megapixels=arguments.max_megapixels,
        max_images=arguments.max_images,
        max_classes=arguments.max_classes,
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, got {text!r}")
    return int(text)
