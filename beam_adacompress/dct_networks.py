"""ResNet-50 straight from JPEG's DCT coefficients, in Keras 3 (extra `train`).

The seven networks of Gueguen, Sergeev, Kadlec, Liu and Yosinski, "Faster Neural Networks Straight from JPEG" (NeurIPS
2018, its architecture figure), and the ResNet-50 on pixels that they are compared with. For an S x S image in 4:2:0,
S = 224 in the paper, a network takes two inputs: `y` (S/8, S/8, 64), and `cbcr` (S/16, S/16, 128), Cb's channels first.

    UpSampling      Cb, Cr copied to 2 x 2 ─┐
    Deconvolution   Cb, Cr deconvolved ─────┼▶ concat ▶ BN ▶ [RFA] ▶ res3 ▶ res4 ▶ res5 ▶ mean ▶ classes
    DownSampling    Y convolved, stride 2 ──┘
    Late-Concat     Y ▶ BN ▶ [RFA] ▶ res3 ▶ res4a ─┐
                    Cb, Cr ▶ BN ▶ res4x ───────────┴▶ concat ▶ res4b-f ▶ res5 ▶ mean ▶ classes

RFA is "receptive field aware". A coefficient already sees 8 pixels and moves by 8, so a ResNet that starts at res3 has
fewer layers to look around with, and ends at 456 pixels where ResNet-50 ends at 483. The three blocks of RFA (`res2`,
kernels 1, 2 and 3, fields 8, 16 and 32) bring it to 480: see `receptive_fields`.

Kernels, strides, channels and layer names are read off the authors' published plots (which pack the inputs into one),
the two inputs and their batch normalisation off the paper's figure. These could not be verified there, and are chosen
here:

- biases in all convolutions, and Keras' initialisers: as in Keras' ResNet50, so that `RGB` has its 25,636,712 weights;
- batch normalisation with momentum 0.9 and epsilon 1e-5, as in Horovod's ResNet-50 example; with epsilon 1 at the
  inputs, which are meant to be dequantised coefficients (that the paper's were is likely, not certain);
- DownSampling: batch normalisation after the concat, which the figure does not show, and the stage `res2`, which the
  plot has and the figure has not; 256 + 128 = 384 channels after the concat, where the figure says 192;
- no normalisation or activation directly after `conv_y`, `conv_cb_upsample` and `conv_cr_upsample`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from beam_adacompress.errors import AdaCompressError

GRID = 16  # pixels: chroma blocks of 4:2:0 cover 16 x 16, and twice their number must be that of the Y blocks
UNIT = 32  # divides all channels of all networks, so that widths which are multiples of 1/32 leave whole ones

# Of batch normalisation. A high band can be zero in every image for many steps: over a variance of nothing, the first
# coefficient of 10 to come along would count 3000. Of dequantised coefficients, deviations below 1 mean nothing anyway.
_MOMENTUM, _EPSILON, _EPSILON_OF_INPUTS = 0.9, 1e-5, 1.0


class Block(NamedTuple):
    """A bottleneck of ResNet: 1x1 with the stride, kernel x kernel, 1x1, and what came in added to what comes out."""

    name: str  # as in the plots, e.g. res3a
    kernel: int  # of the convolution in the middle
    stride: int
    inner: int  # channels of the first two convolutions
    outer: int  # channels of the last
    projected: bool  # what came in goes through a 1x1 convolution with the stride (ConvBlock, not IdentityBlock)


class Step(NamedTuple):
    """A convolution or pooling before the first block."""

    name: str
    kernel: int
    stride: int


class Field(NamedTuple):
    """What an output sees: a square of `pixels`, which moves by `stride` pixels from each output to the next."""

    pixels: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Variant:
    """The layers of a network, from its inputs to the mean over the image."""

    entry: Literal["pixels", "upsample", "deconvolve", "downsample", "late"]  # how the inputs become one
    trunk: tuple[Block, ...]  # after the concat
    steps: tuple[Step, ...] = ()  # before it: of the pixels, or of Y
    luma: tuple[Block, ...] = ()  # on Y alone
    chroma: tuple[Block, ...] = ()  # on Cb and Cr alone


def _stage(
    name: str, letters: str, widths: tuple[int, int], stride: int = 1, kernels: Sequence[int] = ()
) -> tuple[Block, ...]:
    """Blocks `name` + each letter; those named a and x project, and only they take the stride."""
    return tuple(
        Block(name + letter, kernel, stride if letter in "ax" else 1, *widths, projected=letter in "ax")
        for letter, kernel in zip(letters, kernels or (3,) * len(letters))
    )


_S2, _S3, _S4, _S5 = (64, 256), (128, 512), (256, 1024), (512, 2048)
_TAIL = _stage("res5", "abc", _S5, stride=2)
_AFTER_CONCAT = _stage("res4", "bcdef", _S4) + _TAIL


def _rfa(widths: tuple[int, int] = _S4) -> tuple[Block, ...]:
    return _stage("res2", "abc", widths, kernels=(1, 2, 3))


def _late(rfa: tuple[Block, ...], third: tuple[int, int], fourth: tuple[int, int], chroma: tuple[int, int]) -> Variant:
    luma = rfa + _stage("res3", "abcd", third) + _stage("res4", "a", fourth, stride=2)
    return Variant("late", _AFTER_CONCAT, luma=luma, chroma=_stage("res4", "x", chroma, kernels=(1,)))


_FROM_THIRD = _stage("res3", "abcd", _S3) + _stage("res4", "abcdef", _S4, stride=2) + _TAIL
_PIXELS_TRUNK = (
    _stage("res2", "abc", _S2) + _stage("res3", "abcd", _S3, 2) + _stage("res4", "abcdef", _S4, stride=2) + _TAIL
)
_DOWNSAMPLING_TRUNK = _rfa() + _stage("res3", "abcd", _S3) + _stage("res4", "abcdef", _S4) + _TAIL

RGB = "RGB"
VARIANTS: dict[str, Variant] = {
    RGB: Variant("pixels", _PIXELS_TRUNK, steps=(Step("conv1", 7, 2), Step("pool1", 3, 2))),
    "UpSampling": Variant("upsample", _FROM_THIRD),
    "UpSampling-RFA": Variant("upsample", _rfa() + _FROM_THIRD),
    "Deconvolution-RFA": Variant("deconvolve", _rfa() + _FROM_THIRD),
    "DownSampling": Variant("downsample", _DOWNSAMPLING_TRUNK, steps=(Step("conv_y", 2, 2),)),
    "Late-Concat": _late((), _S3, (256, 512), (256, 512)),
    "Late-Concat-RFA": _late(_rfa(), _S3, (256, 512), (256, 512)),
    # The Y path's 1024, 512 and 512 channels become 384, 384 and 768, the chroma's 512 become 256.
    "Late-Concat-RFA-Thinner": _late(_rfa((96, 384)), (96, 384), (192, 768), (128, 256)),
}


def variant_named(name: str) -> Variant:
    """The layers of a network of VARIANTS."""
    if name not in VARIANTS:
        raise ValueError(f"{name!r} is no network: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def receptive_fields(name: str) -> dict[str, Field]:
    """What the output of each layer sees of the image; that of a stage is what its last block sees.

    With a field r and a stride j before it, a convolution of kernel k and stride s has, in pixels,

        r' = r + (k - 1) j,    j' = j s

    where the first 1x1 convolution of a block takes its stride, so that a block has r' = r + (k - 1) j s. A pixel has
    1/1, a coefficient of Y 8/8, one of Cb or Cr 16/16. After a concat counts the Y path, as in the authors' plots; in
    UpSampling and Deconvolution the chroma path sees up to 16 pixels more, because its coefficients still cover 16.
    """
    network = variant_named(name)
    start = Field(1, 1) if network.entry == "pixels" else Field(8, 8)
    fields: dict[str, Field] = {"input": start}
    for step in network.steps:
        start = fields[step.name] = Field(start.pixels + (step.kernel - 1) * start.stride, start.stride * step.stride)
    _walk(network.chroma, Field(16, 16), fields)
    _walk(network.trunk, _walk(network.luma, start, fields), fields)
    return fields


def _walk(blocks: Sequence[Block], field: Field, fields: dict[str, Field]) -> Field:
    for block in blocks:
        stride = field.stride * block.stride
        field = fields[block.name] = Field(field.pixels + (block.kernel - 1) * stride, stride)
    return field


def build(variant: str, classes: int = 1000, size: int = 224, width: float = 1.0) -> Any:
    """A `keras.Model` with random weights, which answers (classes,) probabilities: a softmax.

    `RGB` takes pixels (size, size, 3) in any scale, as conv1 is normalised; the others take the list of `y` (size/8,
    size/8, 64) and `cbcr` (size/16, size/16, 128): dequantised coefficients (-1024..1016) in float, whose bands may
    stand in any order as long as it is always the same. Channels are last, whatever Keras is configured to prefer.

    Every weight learns but the non-trainable ones, and those that a batch normalisation undoes, as in every ResNet with
    biases: the biases before one, and the beta of the inputs', between which and the next are only 1x1 convolutions.

    Args:
      variant: one of VARIANTS.
      classes: at least 2.
      size: of the square image in pixels, a multiple of 16.
      width: multiplies the channels of all convolutions but those of DownSampling and Deconvolution before the concat,
        which put out as many numbers as they take in; a multiple of 1/32. 1 is the paper. (Its thinner networks on
        pixels, "Channels-Div", leave conv1 at 64 channels; here it shrinks too, which favours `RGB` in comparisons.)
    """
    network = variant_named(variant)
    if classes < 2:
        raise ValueError(f"classes is {classes}, but must be at least 2")
    if size < GRID or size % GRID:
        raise ValueError(f"size is {size}, but must be a multiple of {GRID}: chroma blocks cover 16 x 16 pixels")
    if width <= 0 or width * UNIT % 1:
        raise ValueError(f"width is {width}, but must be a multiple of 1/{UNIT}, so that all channels are whole")
    layers = _Layers(width)
    inputs = layers.inputs(network, size)
    x = layers.blocks(layers.entered(network, inputs), network.trunk)
    x = layers.of.GlobalAveragePooling2D(data_format="channels_last", name="avg_pool")(x)  # 7 x 7 for 224 pixels
    x = layers.of.Dense(classes, activation="softmax", name=f"fc{classes}")(x)
    return layers.keras.Model(inputs if len(inputs) > 1 else inputs[0], x, name=variant.lower().replace("-", "_"))


class _Layers:
    """Makes layers, all of one width multiplier, and applies them."""

    def __init__(self, width: float) -> None:
        try:
            import keras
        except ImportError as error:
            raise AdaCompressError("dct_networks needs keras: pip install 'beam-adacompress[train]'") from error
        self.keras: Any = keras
        self.of: Any = keras.layers
        self._width = width

    def inputs(self, network: Variant, size: int) -> list[Any]:
        if network.entry == "pixels":
            return [self.keras.Input((size, size, 3), name="rgb")]
        y = self.keras.Input((size // 8, size // 8, 64), name="y")
        return [y, self.keras.Input((size // 16, size // 16, 128), name="cbcr")]

    def entered(self, network: Variant, inputs: list[Any]) -> Any:
        """One tensor of the inputs, normalised."""
        if network.entry == "pixels":
            return self._stem(inputs[0], network.steps)
        y, chroma = inputs
        if network.entry == "late":
            y = self.blocks(self._normalised(y, "bn_y", _EPSILON_OF_INPUTS), network.luma)
            chroma = self.blocks(self._normalised(chroma, "bn_cbcr", _EPSILON_OF_INPUTS), network.chroma)
            return self.of.Concatenate(name="concat")([y, chroma])
        x = self.of.Concatenate(name="concat")(self._on_one_grid(network, y, chroma))
        return self._normalised(x, "bn_inputs", _EPSILON_OF_INPUTS)

    def _on_one_grid(self, network: Variant, y: Any, chroma: Any) -> list[Any]:
        if network.entry == "upsample":
            return [y, self.of.UpSampling2D(2, data_format="channels_last", name="upsample")(chroma)]  # copies
        if network.entry == "deconvolve":
            names = ("conv_cb_upsample", "conv_cr_upsample")
            planes = zip(names, self.keras.ops.split(chroma, 2, axis=-1))
            return [y, *(self._doubled(plane, name) for name, plane in planes)]
        (conv,) = network.steps
        return [self._convolved(y, 4 * 64, conv.kernel, conv.stride, conv.name), chroma]

    def _doubled(self, plane: Any, name: str) -> Any:
        return self.of.Conv2DTranspose(64, 2, strides=2, data_format="channels_last", name=name)(plane)

    def _stem(self, x: Any, steps: Sequence[Step]) -> Any:
        """conv1 on padded pixels, then an unpadded pool: 224 become 112, and 55 as in the paper (56 in Keras now)."""
        conv, pool = steps
        x = self.of.ZeroPadding2D(3, data_format="channels_last", name=f"{conv.name}_pad")(x)
        x = self._convolved(x, self._scaled(64), conv.kernel, conv.stride, conv.name, padding="valid")
        x = self.of.ReLU(name=f"{conv.name}_relu")(self._normalised(x, f"bn_{conv.name}"))
        return self.of.MaxPooling2D(pool.kernel, pool.stride, data_format="channels_last", name=pool.name)(x)

    def blocks(self, x: Any, blocks: Sequence[Block]) -> Any:
        for block in blocks:
            x = self._block(x, block)
        return x

    def _block(self, x: Any, block: Block) -> Any:
        inner, outer, name = self._scaled(block.inner), self._scaled(block.outer), block.name
        shortcut = x
        if block.projected:
            shortcut = self._convolved(x, outer, 1, block.stride, f"{name}_branch1")
            shortcut = self._normalised(shortcut, f"{name}_branch1_bn")
        path = ((inner, 1, block.stride, "2a"), (inner, block.kernel, 1, "2b"), (outer, 1, 1, "2c"))
        for channels, kernel, stride, branch in path:
            x = self._convolved(x, channels, kernel, stride, f"{name}_branch{branch}")
            x = self._normalised(x, f"{name}_branch{branch}_bn")
            if branch != "2c":
                x = self.of.ReLU(name=f"{name}_branch{branch}_relu")(x)
        return self.of.ReLU(name=name)(self.of.Add(name=f"{name}_add")([x, shortcut]))

    def _convolved(self, x: Any, channels: int, kernel: int, stride: int, name: str, padding: str = "same") -> Any:
        return self.of.Conv2D(channels, kernel, stride, padding, data_format="channels_last", name=name)(x)

    def _normalised(self, x: Any, name: str, epsilon: float = _EPSILON) -> Any:
        return self.of.BatchNormalization(axis=-1, momentum=_MOMENTUM, epsilon=epsilon, name=name)(x)

    def _scaled(self, channels: int) -> int:
        return round(channels * self._width)
