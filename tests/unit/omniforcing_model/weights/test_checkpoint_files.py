"""A model folder holds exactly its tensors, or loading says which are wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.presets import load_preset
from omniforcing_model.errors import WeightsError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.stream_parallel import StreamParallel
from omniforcing_model.weights.checkpoint_files import folder_digest, load_model, save_model
from omniforcing_model.weights.stated_family import StatedFamily
from tests.unit.omniforcing_model.weights.conftest import random_model, small_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = load_preset("tiny").model.model_copy(update={"layers": 1})
    save_model(tmp_path, DualStreamTransformer(config), {"stage": "teacher"})
    return tmp_path


def test_a_saved_model_loads_as_it_was(folder: Path) -> None:
    loaded = load_model(folder).file_tensors()
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(loaded[name], tensor)


def test_a_half_loads_without_the_other(folder: Path) -> None:
    model = load_model(folder, halves=["audio"])
    assert model.video is None
    assert model.audio is not None


def rewrite(folder: Path, change: dict[str, str]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({change.get(n, n): t for n, t in tensors.items()}, folder / "model.safetensors")


def test_missing_and_unexpected_tensors_are_named(folder: Path) -> None:
    rewrite(folder, {"video.proj_in.weight": "video.proj_into.weight"})
    with pytest.raises(
        WeightsError, match=r"missing: video.proj_in.weight.*unexpected: video.proj_into"
    ):
        load_model(folder)


def test_a_tensor_of_no_stream_is_refused(folder: Path) -> None:
    rewrite(folder, {"video.proj_in.weight": "vae.proj_in.weight"})
    with pytest.raises(WeightsError, match=r"unexpected: vae\.proj_in\.weight"):
        load_model(folder, halves=["video"])


def test_a_transposed_tensor_is_named_with_both_shapes(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["audio.proj_in.weight"] = tensors["audio.proj_in.weight"].T.contiguous()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"audio.proj_in.weight \(16, 64\) instead of \(64, 16\)"
    ):
        load_model(folder)


def test_a_folder_that_is_no_model_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a model folder"):
        load_model(tmp_path / "nothing")


def test_the_digest_changes_with_a_weight(folder: Path) -> None:
    before = folder_digest(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["audio.proj_in.bias"] = tensors["audio.proj_in.bias"] + 1
    save_file(tensors, folder / "model.safetensors")
    assert folder_digest(folder) != before


def test_shards_load_as_the_whole_and_have_a_digest_of_their_own(tmp_path: Path) -> None:
    model = random_model(small_config("ltx-2.3", sinks=2))
    save_model(tmp_path / "whole", model, {})
    save_model(tmp_path / "shards", model, {}, shard_bytes=20_000)
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    whole, parts = (load_model(tmp_path / name).file_tensors() for name in ("whole", "shards"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    before = folder_digest(tmp_path / "shards")
    tensors = load_file(tmp_path / "shards" / files[-1])
    save_file({n: t + 1 for n, t in tensors.items()}, tmp_path / "shards" / files[-1])
    assert folder_digest(tmp_path / "shards") != before


def test_a_model_saved_over_a_larger_one_leaves_nothing_of_it(tmp_path: Path) -> None:
    model = random_model(small_config())
    save_model(tmp_path, model, {}, shard_bytes=20_000)
    save_model(tmp_path, model, {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "model.safetensors"]


def test_a_model_loads_in_the_dtype_that_is_asked_for(folder: Path) -> None:
    whole, half = load_model(folder), load_model(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    wide = whole.file_tensors()
    assert all(torch.equal(wide[n].bfloat16(), t) for n, t in half.file_tensors().items())


def test_a_loaded_model_learns(folder: Path) -> None:
    assert all(parameter.requires_grad for parameter in load_model(folder).parameters())


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
def test_tensor_parallel_shares_make_up_the_whole(architecture: str, tmp_path: Path) -> None:
    model = random_model(small_config(architecture))
    save_model(tmp_path, model, {})
    places = [StreamParallel("tensor", degree=2, rank=rank) for rank in range(2)]
    shares = [
        load_model(tmp_path, parallel=PerStream(place, place)).file_pieces() for place in places
    ]
    cut = 0
    for name, whole in model.file_tensors().items():
        first, second = (share[name] for share in shares)
        if first.dim is None:
            assert torch.equal(first.view, whole)
        else:
            cut += 1
            assert torch.equal(torch.cat([first.view, second.view], dim=first.dim), whole)
    assert cut > len(shares[0]) / 3


def test_our_folder_says_its_own_profile(folder: Path) -> None:
    with pytest.raises(WeightsError, match="pairs split instead of interleaved"):
        load_model(folder, stated=StatedFamily(family="omniforcing-5s"))


def test_a_tensor_that_is_renamed_is_shown_beside_its_name(folder: Path) -> None:
    rewrite(folder, {"video.proj_in.weight": "video.proj_in.weights"})
    message = r"missing: video\.proj_in\.weight \(spelled video\.proj_in\.weights\?\)"
    with pytest.raises(WeightsError, match=message):
        load_model(folder)


PEAK = """
import sys
from pathlib import Path
import torch
from omniforcing_model.weights import safetensors_file
from omniforcing_model.weights.checkpoint_files import load_model, save_model
from infra.terminal.progress import SilentProgress
from omniforcing_model.weights.stated_family import StatedFamily
from pipelines.weights import Conversion, convert

def peak_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

torch.set_num_threads(1)
safetensors_file.MAPPED_BYTES = 1 << 20
folder, target = Path(sys.argv[1]), Path(sys.argv[2])
load_model(Path(sys.argv[3]))
before = peak_mb()
convert(folder, Conversion(target, "single-file"), StatedFamily(), SilentProgress())
converted = peak_mb()
load_model(target)
sys.stdout.write(f"{converted - before} {peak_mb() - before}")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak of memory")
def test_no_step_holds_two_copies_of_the_weights(folder: Path, tmp_path: Path) -> None:
    config = small_config()
    wide = {"video": 512 // config.video.heads, "audio": 256 // config.audio.heads}
    streams = {
        name: getattr(config, name).model_copy(update={"head_dim": head_dim})
        for name, head_dim in wide.items()
    }
    model = DualStreamTransformer(config.model_copy(update=streams | {"layers": 2}))
    save_model(tmp_path / "large", model, {})
    megabytes = (tmp_path / "large" / "model.safetensors").stat().st_size / 2**20
    largest = max(v.numel() for v in model.file_tensors().values()) * 4 / 2**20
    arguments = [tmp_path / "large", tmp_path / "large.safetensors", folder]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    converting, loading = map(float, done.stdout.split())
    assert megabytes > 10 * largest
    assert converting < 3 * largest
    assert 0.9 * megabytes < loading < 1.2 * megabytes
