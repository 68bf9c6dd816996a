"""A dataset is made anew when the weights that shape its rows change, and only then."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.presets import load_preset
from pipelines.preprocessing.codec_digests import START_BYTES, codec_digests
from pipelines.training.stage_plan import make_plan
from tests.parity.ltx2_codec_models import connectors, video_vae
from tests.worlds.ltx2_release import run_of, write_release
from tests.worlds.training import small_run, write_clips, write_model

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("ltx-2"))


@pytest.fixture
def copied(release, tmp_path):
    """The release by links; a part may be replaced."""
    for part in release.iterdir():
        (tmp_path / part.name).symlink_to(part)

    def replace(part):
        (tmp_path / part).unlink()
        (tmp_path / part).mkdir()
        return tmp_path / part

    return tmp_path, replace


def changed(release, folder):
    before, after = (codec_digests(run_of(place).codec) for place in (release, folder))
    assert before.keys() == after.keys() == {"video", "audio", "text", "tokenizer", "connectors"}
    return {name for name in before if before[name] != after[name]}


def test_the_place_and_the_shards_do_not_count(release, copied):
    folder, replace = copied
    video_vae().save_pretrained(replace("vae"), max_shard_size="300KB")
    assert len(list((folder / "vae").glob("*.safetensors"))) > 1
    assert changed(release, folder) == set()


def test_other_weights_and_other_words_count(release, copied):
    folder, replace = copied
    connectors(seed=1).save_pretrained(replace("connectors"))
    words = replace("tokenizer")
    for file in (release / "tokenizer").iterdir():
        text = file.read_text(encoding="utf-8")
        (words / file.name).write_text(text.replace("beep", "boop"), encoding="utf-8")
    assert changed(release, folder) == {"connectors", "tokenizer"}


def test_one_trained_tensor_is_enough(release, copied):
    folder, replace = copied
    place = replace("vae")
    (place / "config.json").write_bytes((release / "vae" / "config.json").read_bytes())
    name = "diffusion_pytorch_model.safetensors"
    tensors = load_file(release / "vae" / name)
    largest = max(tensors, key=lambda key: tensors[key].numel())
    assert tensors[largest].numel() * 4 > START_BYTES
    tensors[largest] = tensors[largest] * 1.0001
    save_file(tensors, place / name)
    assert changed(release, folder) == {"video"}


def test_a_single_file_counts_by_the_parts_that_are_used(release, copied):
    folder, _ = copied
    vae = {f"vae.{name}": value for name, value in video_vae().state_dict().items()}
    file = folder / "ltx-2.safetensors"
    digests = []
    for transformer, scale in ((0.0, 1.0), (1.0, 1.0), (1.0, 2.0)):
        other = {"model.diffusion_model.patchify_proj.weight": torch.full((4, 4), transformer)}
        save_file({name: value * scale for name, value in vae.items()} | other, file)
        digests.append(codec_digests(run_of(folder, f"codec.video={file}").codec)["video"])
    assert digests[0] == digests[1] != digests[2]
    assert all(digest.startswith("starts-sha256:") for digest in digests)


def test_what_only_decodes_does_not_count(release, copied):
    folder, replace = copied
    replace("transformer")
    replace("vocoder")
    assert changed(release, folder) == set()


def test_the_small_codecs_are_read_whole():
    digests = codec_digests(load_preset("tiny").codec)
    assert set(digests) == {"video", "audio"}
    assert all(digest.startswith("sha256:") for digest in digests.values())


def test_stages_that_encode_prompts_are_made_of_the_text_encoder(release, copied, tmp_path):
    folder, replace = copied
    connectors(seed=1).save_pretrained(replace("connectors"))
    clips = write_clips(small_run(), tmp_path / "run" / "clips")
    model = write_model(small_run(), tmp_path / "run" / "model")

    def digests(place, stage, *overrides):
        config = small_run(*overrides).model_copy(update={"codec": run_of(place).codec})
        plan = make_plan(
            config, clips, str(tmp_path / "run"), (stage,), {"generator": model, "teacher": model}
        )
        return {ref.role: ref.digest for ref in plan.resolve(stage).inputs}

    encoder = digests(release, "stage_1")["text_encoder"]
    assert encoder == digests(release, "stage_3")["text_encoder"]
    assert encoder != digests(folder, "stage_1")["text_encoder"]
    assert "text_encoder" not in digests(release, "trajectories")
    assert (
        encoder
        == digests(release, "trajectories", "stages.trajectories.guided=true")["text_encoder"]
    )
