"""The Ray Serve application of a run, and how it is started and stopped."""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import serve as ray_serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from infra.claims import ActorClaim
from infra.config import RunConfig
from infra.signals import ignore_signals
from infra.storage.key_files import read_keys
from infra.storage.package_files import with_absolute_places
from serve.gateway import Gateway
from serve.pairs.pair_registry import Half, PairRegistry
from serve.replicas.stream_replica import ReplicaRouter, StreamReplica, TextEncoderService

LOG = logging.getLogger(__name__)
APPLICATION = "omniforcing"
# A stream keeps a request open for minutes; admission bounds them, not Serve.
MANY_REQUESTS = 10_000
REGISTRY_CPUS = 0.1
# Clients must find the gateway: it is where the cluster is. Every head has one of this resource.
HEAD_NODE = "node:__internal_head__"
HEAD_SHARE = 0.001
STOP_S = 2.0
STOP_TIMEOUT_S = 60.0


def build_application(config: RunConfig, model_folder: Path, model: str) -> ray_serve.Application:
    """All deployments, bound to each other.

    Args:
        config: the run.
        model_folder: model.safetensors and config.json, at this path on every node.
        model: the name that streams carry, with the weights' digest.

    Raises:
        ConfigError: the file of keys is not readable.
    """
    cluster = config.cluster
    read_keys(config.serve.api_key_file, "serve.api_key_file")
    config = with_absolute_places(config)
    registry = _deployment(
        PairRegistry, "PairRegistry", ActorClaim(cpus=REGISTRY_CPUS, gpus=0)
    ).bind(config.serve.exchange_timeout_s)
    encoder = cluster.prompt_encoder
    text_encoder = _deployment(
        TextEncoderService, "TextEncoder", encoder, num_replicas=encoder.replicas
    ).bind(config)
    gateway = _deployment(Gateway, "Gateway", cluster.gateway, on_head=True)
    return gateway.bind(
        config, model, text_encoder, registry, _streams(config, model_folder, registry)
    )


def _streams(
    config: RunConfig, model_folder: Path, registry: ray_serve.Application
) -> Mapping[Half, Any]:
    cluster = config.cluster
    if config.serve.layout == "colocated":
        # One process does the work of both: it claims what the video replica would.
        layout: list[tuple[Half, str, ActorClaim]] = [
            ("both", "ColocatedStream", cluster.video_stream)
        ]
    else:
        layout = [
            ("video", "VideoStream", cluster.video_stream),
            ("audio", "AudioStream", cluster.audio_stream),
        ]
    # Ray annotates every keyword as a mapping.
    router = RequestRouterConfig(request_router_class=ReplicaRouter)  # type: ignore[arg-type]
    return {
        half: _deployment(
            StreamReplica,
            name,
            claim,
            num_replicas=config.serve.pairs,
            request_router_config=router,
        ).bind(half, model_folder, config, registry)
        for half, name, claim in layout
    }


def _deployment(
    kind: type[Any], name: str, claim: ActorClaim, *, on_head: bool = False, **options: Any
) -> ray_serve.Deployment:
    place = {"resources": {HEAD_NODE: HEAD_SHARE}} if on_head else {}
    return ray_serve.deployment(
        name=name,
        ray_actor_options={**claim.ray_options, **place},
        max_ongoing_requests=MANY_REQUESTS,
        health_check_period_s=1.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=STOP_S,
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
        **options,
    )(kind)


@contextmanager
def serve_application(
    config: RunConfig, application: ray_serve.Application, patience_s: float = STOP_TIMEOUT_S
) -> Iterator[DeploymentHandle[Any]]:
    """Serve `application` at serve.host and serve.port on the connected cluster; stop at the end.

    Returns when every replica has started; a pair may still be forming. A Serve instance that was
    running on a joined cluster stays: only the application ends.

    patience_s: for the end of Serve; what is left then is for the end of its cluster to end.
    """
    joined = config.cluster.address is not None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray_serve.start(
        proxy_location="Disabled",  # the gateway listens itself
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
    )
    began = time.perf_counter()
    try:
        handle = ray_serve.run(application, name=APPLICATION, route_prefix=None)
        LOG.info("replicas started, and warm, after %.1f s", time.perf_counter() - began)
        yield handle
    finally:
        with ignore_signals():
            if joined:
                _within(STOP_TIMEOUT_S, functools.partial(ray_serve.delete, APPLICATION))
            else:
                _within(patience_s, ray_serve.shutdown)


def _within(patience_s: float, end: Callable[[], object]) -> None:
    """Call `end`, but leave it behind after `patience_s`: Serve waits long for what is dead."""

    def end_quietly() -> None:
        try:
            end()
        except Exception:
            LOG.info("the application ended before it was asked to", exc_info=True)

    ending = threading.Thread(target=end_quietly, name="end of Serve", daemon=True)
    ending.start()
    ending.join(patience_s)
