"""How many mel frames around a frame its samples depend on, from the layers of a vocoder.

A vocoder is a stack of convolutions that look both ways. Cut out of a longer clip with this much
context, a frame sounds bit for bit as in the whole: that is what makes a stream of it exact.
"""

from typing import Any, NamedTuple


class Reach(NamedTuple):
    """Mel frames before and after a frame."""

    left: int
    right: int


class _Span(NamedTuple):
    """Positions first..last of a signal, counted from the first sample of a mel frame."""

    first: int
    last: int

    def join(self, other: "_Span") -> "_Span":
        return _Span(min(self.first, other.first), max(self.last, other.last))


def samples_per_frame(vocoder: Any) -> int:
    """Samples that a diffusers vocoder makes of a mel frame."""
    if not _extends_bandwidth(vocoder):
        return int(vocoder.total_upsample_factor)
    return int(vocoder.vocoder.total_upsample_factor * vocoder.resampler.ratio)


def vocoder_reach(vocoder: Any) -> Reach:
    """Reach of a diffusers `LTX2Vocoder` or `LTX2VocoderWithBWE`."""
    output = _Span(0, samples_per_frame(vocoder) - 1)
    if _extends_bandwidth(vocoder):
        # The second vocoder reads a spectrogram of what the first one made; beside it the same
        # sound is resampled.
        skip = _through_upsampling(output, vocoder.resampler)
        spectrum = vocoder.mel_stft.stft_fn
        frames = _through_generator(output, vocoder.bwe_generator)
        before = spectrum.window_length - spectrum.hop_length
        after = spectrum.forward_basis.shape[-1] - before - 1
        hop = spectrum.hop_length
        output = skip.join(_Span(frames.first * hop - before, frames.last * hop + after))
        vocoder = vocoder.vocoder
    span = _through_generator(output, vocoder)
    return Reach(-span.first, span.last)


def _extends_bandwidth(vocoder: Any) -> bool:
    return hasattr(vocoder, "bwe_generator")


def _through_generator(span: _Span, generator: Any) -> _Span:
    """From output samples to the input frames that they depend on."""
    span = _through_activation(_through_convolution(span, generator.conv_out), generator.act_out)
    stages = generator.num_upsample_layers
    parallel = generator.resnets_per_upsample
    for stage in reversed(range(stages)):
        resnets = generator.resnets[stage * parallel : (stage + 1) * parallel]
        spans = [_through_resnet(span, resnet) for resnet in resnets]
        span = _Span(min(s.first for s in spans), max(s.last for s in spans))
        span = _through_transposed(span, generator.upsamplers[stage])
    return _through_convolution(span, generator.conv_in)


def _through_resnet(span: _Span, resnet: Any) -> _Span:
    layers = zip(resnet.acts1, resnet.convs1, resnet.acts2, resnet.convs2, strict=True)
    for act_1, conv_1, act_2, conv_2 in reversed(list(layers)):
        span = _through_activation(_through_convolution(span, conv_2), act_2)
        span = _through_activation(_through_convolution(span, conv_1), act_1)
    return span


def _through_convolution(span: _Span, convolution: Any) -> _Span:
    """Of stride 1 whose output is as long as its input."""
    width = convolution.dilation[0] * (convolution.kernel_size[0] - 1)
    return _Span(span.first - width // 2, span.last + width - width // 2)


def _through_transposed(span: _Span, convolution: Any) -> _Span:
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    padding = convolution.padding[0]
    first = -((kernel - 1 - padding - span.first) // stride)
    return _Span(first, (span.last + padding) // stride)


def _through_activation(span: _Span, activation: Any) -> _Span:
    """One that filters against aliasing upsamples, acts and downsamples; others act in place."""
    if not hasattr(activation, "downsample"):
        return span
    down = activation.downsample
    first = span.first * down.ratio - down.pad_left
    last = span.last * down.ratio - down.pad_left + down.kernel_size - 1
    return _through_upsampling(_Span(first, last), activation.upsample)


def _through_upsampling(span: _Span, up: Any) -> _Span:
    first = -((up.kernel_size - 1 - up.pad_left - span.first) // up.ratio)
    return _Span(first - up.pad, (span.last + up.pad_left) // up.ratio - up.pad)
