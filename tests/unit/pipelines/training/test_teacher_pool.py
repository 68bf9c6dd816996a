"""A stage whose teacher computes elsewhere: the same bits, also when servers die in mid-step."""

import os
import signal
from concurrent.futures import CancelledError

import pytest
import ray
from safetensors.torch import load_file

from actors.training.distillation_worker import DistillationWorker, StageWork
from infra.errors import ClusterError, ConfigError
from pipelines.training.teacher_pool import RemoteTeacher, teacher_pool
from tests.worlds.training import small_run, write_clips, write_model

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
STEPS = 4  # the generator has its turn in the second and the fourth


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Clips, and a model that every role starts from."""
    folder = tmp_path_factory.mktemp("world")
    config = small_run()
    return write_clips(config, folder / "clips"), write_model(config, folder / "model")


@pytest.fixture
def work(world, tmp_path):
    def of(stage, *overrides, run="run", **settings):
        clips, model = world
        starts = dict.fromkeys(("generator", "critic", "teacher"), model)
        patient = "cluster.teacher_server.timeout_s=1500"  # a busy machine starts servers slowly
        config = small_run(patient, *overrides, steps=STEPS, **settings)
        return StageWork(stage, config, str(tmp_path / run), clips, starts, ())

    return of


def train(work, real_score=None):
    """Train to the end; the figures of every step."""
    figures = []
    worker = DistillationWorker(work, real_score=real_score)
    try:
        worker.run(lambda _, of_step: figures.append(of_step))
    finally:
        worker.close()
    return figures


def files_of(work):
    """All tensors that a stage has left: its last checkpoint's and its model's."""
    places = [work.folder / "checkpoints" / f"step_{STEPS:06d}", work.folder / "model"]
    files = [path for place in places for path in place.glob("*.safetensors")]
    return {f"{path.name}/{name}": t for path in files for name, t in load_file(path).items()}


def assert_same_bits(one, other):
    one, other = files_of(one), files_of(other)
    assert one.keys() == other.keys()
    different = [name for name, tensor in one.items() if not tensor.equal(other[name])]
    assert different == []


def process_of(name):
    return ray.get(ray.get_actor(name).__ray_call__.remote(lambda _: os.getpid()))


class KilledWhileAsked:
    """A pool whose server, the one that is asked, dies over a question of the second step."""

    def __init__(self, teacher, name):
        self._teacher, self._name, self.killed = teacher, name, 0

    def ask(self, samples):
        process = process_of(self._name) if not self.killed else None
        if process is not None:
            os.kill(process, signal.SIGSTOP)  # it answers nothing more
        answer = self._teacher.ask(samples)

        def dying():
            if process is not None:
                os.kill(process, signal.SIGKILL)
                self.killed += 1
            return answer()

        return dying


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("stage", "zero_stage", "precision"),
    [
        pytest.param("stage_1", 1, "float32", marks=pytest.mark.slow),
        ("stage_1", 3, "bfloat16"),
        pytest.param("stage_3", 3, "float32", marks=pytest.mark.slow),
    ],
)
def test_a_remote_teacher_trains_bit_for_bit_like_one_in_process(
    ray_local, work, stage, zero_stage, precision
):
    override = f"stages.{stage}.optimiser.precision={precision}"
    own = work(stage, override, run="own", zero_stage=zero_stage)
    remote = work(stage, override, run="remote", zero_stage=zero_stage)
    figures = train(own)
    with teacher_pool(remote.config.cluster.teacher_server) as names:
        teacher = RemoteTeacher(names, remote, rank=0)
        assert train(remote, teacher) == figures
        teacher.close()
    assert_same_bits(own, remote)


@pytest.mark.thorough
@pytest.mark.parametrize("servers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_server_killed_in_mid_step_costs_no_step(ray_local, work, servers):
    own = work("stage_1", run="own")
    remote = work("stage_1", f"cluster.teacher_server.replicas={servers}", run="remote")
    figures = train(own)
    with teacher_pool(remote.config.cluster.teacher_server) as names:
        teacher = RemoteTeacher(names, remote, rank=0)
        teacher.wait_until_loaded()
        dying = KilledWhileAsked(teacher, names[0])
        assert train(remote, dying) == figures
        teacher.close()
    assert dying.killed == 1
    assert_same_bits(own, remote)


def test_a_worker_holds_no_teacher_that_is_elsewhere(ray_local, work):
    stage = work("stage_3")
    with teacher_pool(stage.config.cluster.teacher_server) as names:
        teacher = RemoteTeacher(names, stage, rank=0)
        worker = DistillationWorker(stage, real_score=teacher)
        assert worker._models.keys() == {"generator", "critic"}
        assert worker._frozen == {}
        worker.close()
        teacher.close()


@pytest.mark.parametrize("claim", ["{}", "cpus=1000"])
def test_a_pool_that_is_not_there_in_time_is_told(ray_local, work, claim):
    limit = "cluster.teacher_server.timeout_s=2"
    stage = work("stage_1", limit)
    resources = stage.config.cluster.teacher_server
    if claim == "{}":
        teacher = RemoteTeacher(("nobody",), stage, rank=0)
        with pytest.raises(ClusterError, match=r"1 teacher servers to answer within 2 s, got Fail"):
            teacher.wait_until_loaded()
    else:
        with teacher_pool(resources.model_copy(update={"cpus": 1000})) as names:
            teacher = RemoteTeacher(names, stage, rank=0)
            with pytest.raises(ClusterError, match=r"within 2 s, got none; give the cluster room"):
                teacher.wait_until_loaded()
    teacher.close()


def test_what_a_server_refuses_is_told_as_it_is(ray_local, work):
    stage = work("stage_1", "model.layers=2")
    with teacher_pool(stage.config.cluster.teacher_server) as names:
        teacher = RemoteTeacher(names, stage, rank=0)
        with pytest.raises(ConfigError, match=r"the teacher of stage_1 .*layers: 1 -> 2"):
            teacher.wait_until_loaded()
        teacher.close()


def test_what_nobody_waits_for_any_more_is_given_up_at_once(ray_local, work):
    stage = work("stage_1", "cluster.teacher_server.timeout_s=100000")
    teacher = RemoteTeacher(("nobody",), stage, rank=0)
    teacher.close()
    with pytest.raises((ClusterError, CancelledError)):
        teacher.wait_until_loaded()
