"""Errors of the model core.

    OmniForcingError
    +-- LayoutError       (ValueError)    latents do not fit the macro-blocks of a stream
    +-- ShapeError        (ValueError)    a tensor has another shape than the model was built for
    +-- WeightsError      (ValueError)    a checkpoint does not hold exactly what the model needs
    +-- DivergenceError   (ArithmeticError) a loss or a latent is not a finite number
    +-- PrecisionError    (RuntimeError)  a number format that this installation cannot compute in
    +-- KernelError       (RuntimeError)  compiled kernels that this machine cannot make or load
    +-- ExchangeError     (RuntimeError)  the other stream of a pair did not answer
    +-- BeaconError       (ValueError)    no beacon of the `tiny` world has these traits
        +-- CaptionError                  a caption does not describe a beacon
    +-- SamplingError     (ValueError)    a schedule or a guidance does not fit the model
    +-- StreamStateError  (LookupError)   a stream is not open, open already, or has ended

Each takes one positional message (so that it survives pickling through Ray) of the form
"expected X, got Y; do Z".
"""


class OmniForcingError(Exception):
    """Root of every error this project raises on purpose."""


class LayoutError(OmniForcingError, ValueError):
    """Latents cannot be cut into the macro-blocks of the layout."""


class ShapeError(OmniForcingError, ValueError):
    """A tensor has another shape than the model was built for."""


class WeightsError(OmniForcingError, ValueError):
    """A checkpoint is missing tensors, holds unknown ones, or has them in other shapes."""


class DivergenceError(OmniForcingError, ArithmeticError):
    """A loss, gradient or latent stopped being a finite number; names what and where."""


class PrecisionError(OmniForcingError, RuntimeError):
    """A number format that this installation, or this model, cannot compute in."""


class KernelError(OmniForcingError, RuntimeError):
    """Kernels for this processor could not be compiled or loaded; everything works without."""


class ExchangeError(OmniForcingError, RuntimeError):
    """The other half of a video-audio pair did not answer in time, or answered another block."""


class SamplingError(OmniForcingError, ValueError):
    """A schedule or a guidance asks for what the model, or another schedule, does not have."""


class StreamStateError(OmniForcingError, LookupError):
    """A stream is not open, is open already, or has no further block."""


class BeaconError(OmniForcingError, ValueError):
    """No beacon of the `tiny` world has these traits."""


class CaptionError(BeaconError):
    """A caption does not name one colour, one rate and one pitch of the `tiny` world."""
