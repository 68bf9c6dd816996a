"""The rates: seconds, pixel frames, mel frames, video latents and audio latents.

Source: LTX-2's strides and paper section 3.2. The video VAE keeps the first frame alone and then
packs 8 frames into a latent (24 fps -> 3 latents a second); the audio VAE does the same with 4 mel
frames (100 a second -> 25 latents a second).
"""

from omniforcing_model.errors import LayoutError

VIDEO_FPS = 24
VIDEO_TEMPORAL_STRIDE = 8
MEL_FRAMES_PER_SECOND = 100
AUDIO_TEMPORAL_STRIDE = 4
VIDEO_LATENTS_PER_SECOND = VIDEO_FPS // VIDEO_TEMPORAL_STRIDE
AUDIO_LATENTS_PER_SECOND = MEL_FRAMES_PER_SECOND // AUDIO_TEMPORAL_STRIDE


def pixel_frames(video_latents: int) -> int:
    """Frames that `video_latents` latents decode to: 1 for the first, 8 for each later one."""
    return 1 + (video_latents - 1) * VIDEO_TEMPORAL_STRIDE


def video_latents(frames: int) -> int:
    """Latents that `frames` pixel frames encode to; LayoutError unless frames = 8k + 1."""
    if frames < 1 or (frames - 1) % VIDEO_TEMPORAL_STRIDE:
        nearest = pixel_frames(max(1, round((frames - 1) / VIDEO_TEMPORAL_STRIDE) + 1))
        raise LayoutError(
            f"expected 8k + 1 pixel frames, got {frames}; cut the clip to {nearest} frames"
        )
    return (frames - 1) // VIDEO_TEMPORAL_STRIDE + 1


def mel_frames(audio_latents: int) -> int:
    """Mel frames that `audio_latents` latents decode to: 1 for the first, 4 for each later one."""
    return 1 + (audio_latents - 1) * AUDIO_TEMPORAL_STRIDE


def frames_for_seconds(seconds: int) -> int:
    """Pixel frames of a clip of whole `seconds`: the first frame, then 24 a second."""
    return 1 + seconds * VIDEO_FPS


def video_latent_span_s(latent: int) -> tuple[float, float]:
    """Start and end of the time that video latent number `latent` covers, in seconds."""
    end = 1 + latent * VIDEO_TEMPORAL_STRIDE
    return max(0, end - VIDEO_TEMPORAL_STRIDE) / VIDEO_FPS, end / VIDEO_FPS


def audio_latent_span_s(latent: int) -> tuple[float, float]:
    """Start and end of the time that audio latent number `latent` covers, in seconds."""
    end = 1 + latent * AUDIO_TEMPORAL_STRIDE
    start = max(0, end - AUDIO_TEMPORAL_STRIDE)
    return start / MEL_FRAMES_PER_SECOND, end / MEL_FRAMES_PER_SECOND
